"""The two transformer blocks that are the zoo's own (MAR's is timm's ViT block)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from timm.layers import DropPath, Mlp
from torch import Tensor, nn

from argenzoo.layers.attention import Attention, KVCache
from argenzoo.layers.block_causal import BlockCausal


class SwiGLU(nn.Module):
    """w2(SiLU(w1 x) * w3 x), hidden = 2/3 of 4 D, rounded up to a multiple of 256."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        hidden = -(-int(2 / 3 * 4 * dim) // 256) * 256
        self.w1 = nn.Linear(dim, hidden, bias=False)
        self.w3 = nn.Linear(dim, hidden, bias=False)
        self.w2 = nn.Linear(hidden, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.w2(F.silu(self.w1(x)) * self.w3(x))


class LlamaBlock(nn.Module):
    """Pre-norm RMSNorm, rotary attention, SwiGLU; no biases."""

    def __init__(self, dim: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(dim, eps=1e-5)
        self.attention = Attention(dim, num_heads)
        self.ffn_norm = nn.RMSNorm(dim, eps=1e-5)
        self.ffn = SwiGLU(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, rotation: Tensor, mask: Tensor | None, causal: bool, cache: KVCache | None) -> Tensor:
        x = x + self.dropout(self.attention(self.attention_norm(x), rotation, mask, causal, cache))  # (B, N, D)
        return x + self.dropout(self.ffn(self.ffn_norm(x)))  # (B, N, D)


class Modulation(nn.Module):
    """SiLU - Linear: a condition (B, D) -> ``chunks`` vectors (B, 1, chunks, D) for AdaLN."""

    def __init__(self, dim: int, chunks: int) -> None:
        super().__init__()
        self.chunks = chunks
        self.linear = nn.Linear(dim, chunks * dim)

    def forward(self, vector: Tensor) -> Tensor:
        return self.linear(F.silu(vector)).unflatten(-1, (1, self.chunks, -1))

    @torch.no_grad()
    def init_small(self, factor: float, gamma: float) -> None:
        """Weights times ``factor``; those of a block's two gates, which come first, times ``gamma``."""
        gates = self.linear.out_features // 3 if self.chunks == 6 else 0
        self.linear.weight[gates:] *= factor
        self.linear.weight[:gates] *= gamma


class AdaLNBlock(nn.Module):
    """VAR's block: x + gamma * f(LN(x) * (1 + scale) + shift), for attention and MLP (VAR, appendix A).

    Args:
        shared: the modulation comes from one Linear of the whole network, plus this block's learned offset (d36).
    """

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float, qk_norm: bool, shared: bool, drop_path: float) -> None:
        super().__init__()
        self.attention = Attention(dim, num_heads, bias=True, qk_norm=4.0 if qk_norm else None, scale=0.25 / (dim // num_heads) ** 0.5)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), act_layer=lambda: nn.GELU(approximate="tanh"))
        self.drop_path = DropPath(drop_path)
        self.modulation = nn.Identity() if shared else Modulation(dim, 6)
        self.offset = nn.Parameter(torch.randn(6, dim) / dim**0.5) if shared else None

    def modulated(self, vector: Tensor) -> Tensor:
        """The condition (B, D), or the shared modulation (B, 1, 6, D), -> this block's (B, 1, 6, D), the same at every scale."""
        return self.modulation(vector) if self.offset is None else vector + self.offset

    def forward(self, x: Tensor, modulation: Tensor, mask: BlockCausal | None, cache: KVCache | None) -> Tensor:
        """x (B, N, D); ``modulation``: of ``modulated``."""
        gamma1, gamma2, scale1, scale2, shift1, shift2 = modulation.unbind(2)  # (B, 1, D) each
        x = torch.addcmul(x, gamma1, self.drop_path(self.attention(modulate(x, scale1, shift1), mask=mask, cache=cache)))
        return torch.addcmul(x, gamma2, self.drop_path(self.mlp(modulate(x, scale2, shift2))))

    @torch.no_grad()
    def init_small(self, depth: int, factor: float, gamma: float) -> None:
        """Output projections divided by sqrt(2 depth); the offset, where there is one, like a modulation's weights."""
        for linear in (self.attention.proj, self.mlp.fc2):
            linear.weight /= (2 * depth) ** 0.5
        if self.offset is not None:
            self.offset[:2] *= gamma
            self.offset[2:] *= factor


def modulate(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """LN(x) * (1 + scale) + shift; the LayerNorm has no parameters of its own."""
    return torch.addcmul(shift, F.layer_norm(x, x.shape[-1:], eps=1e-6), 1 + scale)
