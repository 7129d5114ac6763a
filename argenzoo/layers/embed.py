"""Tokens -> width D, whatever the tokens are; and picking tokens by position."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from argenzoo.protocols import TokenSpace


def token_embedding(space: TokenSpace, dim: int) -> nn.Module:
    """A table for ids, a Linear for vectors."""
    return nn.Linear(space.dim, dim) if space.vocab_size is None else nn.Embedding(space.vocab_size, dim)


def take(x: Tensor, positions: Tensor) -> Tensor:
    """The rows (B, n, ...) of x (B, N, ...) at ``positions`` (n,) shared or (B, n)."""
    if positions.dim() == 1:
        return x[:, positions]
    return x[torch.arange(len(x), device=x.device)[:, None], positions]


def put(x: Tensor, positions: Tensor, values: Tensor) -> Tensor:
    """A copy of x with ``values`` (B, n, ...) at ``positions`` (n,) or (B, n)."""
    out = x.clone()
    if positions.dim() == 1:
        out[:, positions] = values
    else:
        out[torch.arange(len(x), device=x.device)[:, None], positions] = values
    return out
