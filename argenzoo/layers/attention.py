"""Multi-head attention over SDPA, with 2-D rotary positions, q/k normalisation and a preallocated cache as options."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from argenzoo.layers.block_causal import BlockCausal
from argenzoo.layers.linear import Linear
from argenzoo.layers.rope import rotate


class KVCache:
    """Keys and values of the positions seen so far, preallocated for ``capacity`` of them at the first append.

    Reusable (``truncate(0)``) and truncatable.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity, self.length = capacity, 0
        self._keys: Tensor | None = None
        self._values: Tensor | None = None

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """(B, heads, n, head_dim) more of each -> all so far, as views."""
        if self._keys is None or self._values is None:
            shape = (*keys.shape[:2], self.capacity, keys.shape[3])
            self._keys, self._values = keys.new_empty(shape), values.new_empty(shape)
        end = self.length + keys.shape[2]
        self._keys.narrow(2, self.length, keys.shape[2]).copy_(keys)
        self._values.narrow(2, self.length, keys.shape[2]).copy_(values)
        self.length = end
        return self._keys.narrow(2, 0, end), self._values.narrow(2, 0, end)

    def truncate(self, length: int) -> None:
        """Forget every position from ``length`` on."""
        self.length = min(length, self.length)


class PlacedCache(KVCache):
    """One whose keys and values are written at ``at`` (B, n), set before each pass, and read whole, under a mask of the caller's.

    One place lies behind ``capacity``: what is written there is never seen.
    """

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity + 1)
        self.at: Tensor | None = None

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """(B, heads, n, head_dim) of each -> (B, heads, capacity + 1, head_dim)."""
        if self._keys is None or self._values is None:
            shape = (*keys.shape[:2], self.capacity, keys.shape[3])
            self._keys, self._values = keys.new_zeros(shape), values.new_zeros(shape)
        assert self.at is not None
        where = self.at[:, None, :, None].expand_as(keys)
        return self._keys.scatter_(2, where, keys), self._values.scatter_(2, where, values)


class Attention(nn.Module):
    """Self-attention with one fused q, k, v projection.

    Args:
        dim: width D.
        num_heads: heads.
        bias: biases of q, v and the output; k has none, since softmax cancels it (VAR).
        qk_norm: None: scaled dot product with ``scale``; else q and k are l2-normalised, and q is
            multiplied by exp(min(a learned log-scale a head, ln 100)), initialised to this value.
        scale: of the softmax without qk_norm; None is head_dim^-0.5.
        dropout: on the attention weights.
    """

    def __init__(
        self, dim: int, num_heads: int, bias: bool = False, qk_norm: float | None = None, scale: float | None = None, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.num_heads, self.dropout = num_heads, dropout
        self.scale = 1.0 if qk_norm is not None else scale
        self.qkv = Linear(dim, 3 * dim, bias=False)
        self.proj = nn.Linear(dim, dim, bias=bias)
        self.q_bias = nn.Parameter(torch.zeros(dim)) if bias else None
        self.v_bias = nn.Parameter(torch.zeros(dim)) if bias else None
        self.log_scale = nn.Parameter(torch.full((num_heads, 1, 1), math.log(qk_norm))) if qk_norm is not None else None

    def forward(
        self,
        x: Tensor,
        rotation: Tensor | None = None,
        mask: Tensor | BlockCausal | None = None,
        causal: bool = False,
        cache: KVCache | None = None,
    ) -> Tensor:
        """(B, N, D) -> (B, N, D). A tensor as ``mask`` is bool, True where a query may look."""
        qkv = self._project(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)  # (3, B, heads, N, head_dim)
        qk, v = qkv.split_with_sizes([2, 1])  # not by index: a slice's gradient is filled up with zeros
        q, k = (qk if rotation is None else rotate(qk, rotation)).unbind()
        v = v.squeeze(0)
        if self.log_scale is not None:
            q, k = of_length(q, self.log_scale.clamp(max=math.log(100)).exp()), of_length(k)
        if cache is not None:
            k, v = cache.append(k, v)
        dropout = self.dropout if self.training else 0.0
        if isinstance(mask, BlockCausal):
            out = mask.attend(q, k, v, dropout, self.scale)
        else:
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=causal, scale=self.scale)
        return self.proj(out.transpose(1, 2).flatten(2))

    def _project(self, x: Tensor) -> Tensor:
        if self.q_bias is None or self.v_bias is None:
            return self.qkv(x)
        return self.qkv(x, torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias]))


def of_length(x: Tensor, length: Tensor | float = 1.0) -> Tensor:
    """x (..., d) scaled to ``length`` (..., 1), zeros left alone: one factor a vector, so that training takes few passes over x."""
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
    return (x * (length / norm.clamp(min=1e-12))).to(x.dtype)
