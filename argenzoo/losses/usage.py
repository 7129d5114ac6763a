"""How much of a codebook is used, scale by scale."""

from __future__ import annotations

import torch
from torch import Tensor

from argenzoo.protocols import TokenSpace


def counts_of(ids: Tensor, space: TokenSpace, vocab_size: int) -> Tensor:
    """How often each scale uses each code: ids (B, N) -> (S, V)."""
    levels = space.levels.to(ids.device)
    return torch.bincount((ids + levels * vocab_size).flatten(), minlength=len(space.scales) * vocab_size).view(-1, vocab_size)


def usage(counts: Tensor, space: TokenSpace, prefix: str = "codebook_") -> dict[str, float]:
    """Share of the codes that were used, and the perplexity (as a number of codes): of all scales together, and of each of several."""
    parts = {"": counts.sum(0)}
    if len(counts) > 1:
        parts |= {f"/scale_{k}_{height}x{width}": counts[k] for k, (height, width) in enumerate(space.scales)}
    out = {}
    for suffix, part in parts.items():
        share = part.double() / part.sum().clamp(min=1)
        out[f"{prefix}usage{suffix}"] = (part > 0).double().mean().item()
        out[f"{prefix}perplexity{suffix}"] = torch.exp(-torch.xlogy(share, share).sum()).item()
    return out
