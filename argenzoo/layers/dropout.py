"""nn.Dropout, whose time on a CPU goes into its draws: four to one random number."""

from __future__ import annotations

import torch
from torch import Tensor, nn

LEVELS = 2**16  # of a rate


class Dropout(nn.Dropout):
    """The same distribution, its rate rounded to 1/65536; other draws of the same stream of torch's."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (nn.Dropout's)
        if not self.training:
            return input
        dropped = round(self.p * LEVELS)
        if dropped in (0, LEVELS) or input.device.type != "cpu" or torch.compiler.is_compiling():
            return super().forward(input)
        kept = sixteen_bits(input.shape) >= dropped - LEVELS // 2
        return input * kept.to(input.dtype).mul_(LEVELS / (LEVELS - dropped))


def sixteen_bits(shape: torch.Size) -> Tensor:
    """Every 16-bit integer equally likely, independent."""
    count = shape.numel()
    drawn = torch.empty(-(-count // 4), dtype=torch.int64).random_(-(2**63), None)
    return drawn.view(torch.int16)[:count].view(shape)
