"""Rotary position embedding on a grid: half of the head turns with the row, half with the column (LlamaGen, section 2.2)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def rotate(x: Tensor, rotation: Tensor) -> Tensor:
    """Turn the interleaved pairs of (..., heads, N, head_dim), in float32, by the (cos, sin) of every position, (N, head_dim/2, 2) or
    (B, 1, N, head_dim/2, 2): one product of complex numbers, or of their parts for a compiler, which has no code for them."""
    pairs = x.float().unflatten(-1, (-1, 2))
    if not torch.compiler.is_compiling():
        return torch.view_as_real(torch.view_as_complex(pairs) * torch.view_as_complex(rotation)).flatten(-2).to(x.dtype)
    even, odd = pairs.unbind(-1)
    cos, sin = rotation.unbind(-1)
    return torch.stack((even * cos - odd * sin, odd * cos + even * sin), dim=-1).flatten(-2).to(x.dtype)


class GridRope(nn.Module):
    """The angles of an (height, width) grid.

    A prefix is multiplied by 0: its queries and keys become zero vectors, not unrotated ones (as in LlamaGen's weights).
    """

    angles: Tensor

    def __init__(self, height: int, width: int, head_dim: int, base: float = 10000.0) -> None:
        super().__init__()
        half = head_dim // 2
        # an explicit device, so that the table is real in a model built on the meta device
        frequencies = base ** -(torch.arange(0, half, 2, device="cpu", dtype=torch.float32) / half)
        rows = torch.arange(height, device="cpu").repeat_interleave(width)[:, None] * frequencies
        columns = torch.arange(width, device="cpu").repeat(height)[:, None] * frequencies
        self.register_buffer("angles", torch.cat([rows, columns], dim=-1), persistent=False)  # (N, head_dim/2)

    def forward(self, positions: Tensor, prefix: int = 0) -> Tensor:
        """Grid positions (n,) or (B, n) -> their (cos, sin) behind ``prefix`` zero rows, broadcastable over heads."""
        angles = self.angles[positions].float()
        turned = torch.stack([angles.cos(), angles.sin()], dim=-1)
        rotation = F.pad(turned, (0, 0, 0, 0, prefix, 0))
        return rotation if positions.dim() == 1 else rotation[:, None]
