"""Continuous tokens have unit scale: a factor, measured once, applied in ``tokens`` and undone in ``context`` and ``decode``."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from argenzoo.errors import ArgenzooError


class LatentScale(nn.Module):
    """One factor 1/std a scale, kept with the weights so that what was measured travels with them.

    Args:
        factors: the configured value, one number or one a scale; None until measured (1).
        sizes: tokens of each scale.
    """

    factors: Tensor

    def __init__(self, factors: float | tuple[float, ...] | None, sizes: tuple[int, ...]) -> None:
        super().__init__()
        values = factors if isinstance(factors, tuple) else (factors or 1.0,) * len(sizes)
        if len(values) != len(sizes):
            raise ArgenzooError(f"tokenizer.latent_scale has {len(values)} factors for {len(sizes)} scales")
        self.sizes = sizes
        self.register_buffer("factors", torch.tensor(values, dtype=torch.float32))

    def rows(self) -> Tensor:
        """(N, 1): each token's factor."""
        return torch.cat([factor.expand(size) for factor, size in zip(self.factors.unbind(), self.sizes, strict=True)])[:, None]

    def apply_to(self, vectors: Tensor) -> Tensor:
        """(B, N, C) as encoded -> unit scale."""
        return vectors * self.rows()

    def undo(self, tokens: Tensor) -> Tensor:
        """(B, N, C) of unit scale -> as encoded."""
        return tokens / self.rows()

    @torch.no_grad()
    def measure(self, batches: Iterable[Tensor]) -> None:
        """Set the factors to 1/std of all (B, N, C) vectors, scale by scale; no vectors: no change.

        Raises:
            ArgenzooError: they are not finite, or do not vary.
        """
        sums = torch.zeros(3, len(self.sizes), dtype=torch.float64, device="cpu")  # count, sum, sum of squares
        for vectors in batches:
            for k, part in enumerate(vectors.double().cpu().split(self.sizes, dim=1)):
                sums[:, k] += torch.stack([torch.tensor(float(part.numel())), part.sum(), part.square().sum()])
        if not sums[0].any():
            return
        count, total, squares = sums
        variance = (squares - total.square() / count) / (count - 1)
        if not (variance.isfinite() & (variance > 1e-12)).all():
            raise ArgenzooError(f"the tokenizer's vectors have variances {variance.tolist()}: its latents are dead, or not finite")
        self.factors.copy_(variance.rsqrt())
