"""Block-causal attention: every position sees its own block and those before it (VAR, arXiv 2404.02905, figure 4)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor

ALONE = 2  # of the last blocks; with more, adding up the gradients of keys costs what it saves (benchmarks/attention.py)


@dataclass(frozen=True)
class BlockCausal:
    """The first blocks in one call under a mask; each of the last ones, which are the largest, in a call of its own: its keys are a prefix,
    so that it needs no mask, and nothing is computed to be masked away.

    Args:
        groups: positions of the first blocks together, then of each of the last ones.
        mask: (n, n) of the first group, True where a query may look.
    """

    groups: tuple[int, ...]
    mask: Tensor

    @staticmethod
    def of(sizes: tuple[int, ...], levels: Tensor) -> BlockCausal:
        """``sizes``: positions of each block, two blocks at least; ``levels`` (N,): the block of each position."""
        alone = min(ALONE, len(sizes) - 1)
        first = levels[: sum(sizes[:-alone])]
        return BlockCausal((len(first), *sizes[-alone:]), first[:, None] >= first)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, dropout: float, scale: float | None) -> Tensor:
        """(B, heads, N, head_dim) each -> the same; ``dropout`` and ``scale`` as SDPA has them."""
        made: list[Tensor] = []
        for part, end in zip(q.split(self.groups, dim=2), accumulate(self.groups), strict=True):
            mask = None if made else self.mask
            made.append(F.scaled_dot_product_attention(part, k[:, :, :end], v[:, :, :end], mask, dropout, scale=scale))
        return torch.cat(made, dim=2)
