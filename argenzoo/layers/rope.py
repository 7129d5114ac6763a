"""Rotary position embedding on a grid: half of the head turns with the row, half with the column (LlamaGen, section 2.2)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn


class Rotation(NamedTuple):
    """cos and sin of every position, (N, head_dim/2) or (B, 1, N, head_dim/2)."""

    cos: Tensor
    sin: Tensor


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """Turn the interleaved pairs of (B, heads, N, head_dim), in float32."""
    even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = rotation
    return torch.stack((even * cos - odd * sin, odd * cos + even * sin), dim=-1).flatten(-2).to(x.dtype)


class GridRope(nn.Module):
    """The angles of an (height, width) grid.

    A prefix has cos = sin = 0: its queries and keys become zero vectors, not unrotated ones (as in LlamaGen's weights).
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

    def forward(self, positions: Tensor, prefix: int = 0) -> Rotation:
        """Grid positions (n,) or (B, n) -> their rotation behind ``prefix`` zero rows, broadcastable over heads."""
        angles = self.angles[positions].float()
        zeros = angles.new_zeros(*angles.shape[:-2], prefix, angles.shape[-1])
        cos, sin = torch.cat([zeros, angles.cos()], dim=-2), torch.cat([zeros, angles.sin()], dim=-2)
        return Rotation(cos, sin) if positions.dim() == 1 else Rotation(cos[:, None], sin[:, None])
