"""PatchGAN (arXiv 1611.07004): a logit a patch, from a few strided convolutions."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn


class PatchGAN(nn.Module):
    """4x4 convolutions: ``layers`` of stride 2, one of stride 1, one to the logits; widths double up to 8 times ``dim``.

    Args:
        norm: batch as published; group does not mix the pictures of a batch, so it is the same on any number of processes.
    """

    def __init__(self, dim: int = 64, layers: int = 3, norm: str = "batch") -> None:
        super().__init__()
        widths = [dim * min(2**i, 8) for i in range(layers + 1)]
        blocks: list[nn.Module] = [nn.Conv2d(3, widths[0], 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        for i, (before, after) in enumerate(pairwise(widths)):
            stride = 2 if i + 1 < layers else 1
            blocks += [nn.Conv2d(before, after, 4, stride, 1, bias=False), normalised(norm, after), nn.LeakyReLU(0.2)]
        self.blocks = nn.Sequential(*blocks, nn.Conv2d(widths[-1], 1, 4, padding=1))
        self.apply(published_start)

    def forward(self, pictures: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] -> logits (B, 1, h, w), float32 whatever the precision: their mean's gradient is that of few numbers."""
        return self.blocks(pictures).float()


def normalised(norm: str, width: int) -> nn.Module:
    return nn.BatchNorm2d(width) if norm == "batch" else nn.GroupNorm(width // 8 or 1, width)


def published_start(module: nn.Module) -> None:
    """Pix2pix' initialisation."""
    if isinstance(module, nn.Conv2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d | nn.GroupNorm):
        nn.init.normal_(module.weight, 1.0, 0.02)
