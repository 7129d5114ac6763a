"""LlamaGen's: a cache of 8 k slots, read whole in every step under a row of the causal mask, attention as two plain products (their loop
turns the fused kernels off, for a compiler's sake); RMSNorm operation by operation; logits of both halves of a guided pair."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from argenzoo.heads.cross_entropy import filtered, inverse_cdf


class Cache:
    def __init__(self, batch: int, heads: int, length: int, head_dim: int) -> None:
        self.k, self.v = torch.zeros(batch, heads, length, head_dim), torch.zeros(batch, heads, length, head_dim)

    def update(self, at: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        self.k[:, :, at], self.v[:, :, at] = k, v
        return self.k, self.v


def norm(x: Tensor, weight: Tensor, eps: float = 1e-5) -> Tensor:
    x = x.float()
    return (x * torch.rsqrt(torch.mean(x * x, dim=-1, keepdim=True) + eps)) * weight


def rotated(x: Tensor, table: Tensor) -> Tensor:
    """x (B, n, heads, d); table (n, d/2, 2)."""
    pairs = x.float().reshape(*x.shape[:-1], -1, 2)
    cos, sin = table[None, :, None, :, 0], table[None, :, None, :, 1]
    turned = torch.stack([pairs[..., 0] * cos - pairs[..., 1] * sin, pairs[..., 1] * cos + pairs[..., 0] * sin], dim=-1)
    return turned.flatten(3).type_as(x)


def attention(part: Any, x: Tensor, table: Tensor, mask: Tensor | None, cache: Cache | None, at: Tensor | None) -> Tensor:
    batch, count, dim = x.shape
    q, k, v = F.linear(x, part.qkv.weight).split([dim, dim, dim], dim=-1)
    q, k, v = (each.view(batch, count, part.num_heads, -1) for each in (q, k, v))
    q, k, v = (each.transpose(1, 2) for each in (rotated(q, table), rotated(k, table), v))
    if cache is not None and at is not None:
        k, v = cache.update(at, k, v)
    k, v = k.repeat_interleave(1, dim=1), v.repeat_interleave(1, dim=1)  # grouped queries, of groups of one
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)
    return F.linear(out.transpose(1, 2).contiguous().view(batch, count, dim), part.proj.weight)


def forward(network: Any, x: Tensor, table: Tensor, mask: Tensor | None, caches: list | None, at: Tensor | None) -> Tensor:
    """Embedded inputs -> logits, of every position."""
    generator = network.generator
    for i, block in enumerate(generator.blocks):
        cache = None if caches is None else caches[i]
        x = x + attention(block.attention, norm(x, block.attention_norm.weight), table, mask, cache, at)
        h = norm(x, block.ffn_norm.weight)
        x = x + F.linear(F.silu(F.linear(h, block.ffn.w1.weight)) * F.linear(h, block.ffn.w3.weight), block.ffn.w2.weight)
    return F.linear(norm(x, generator.norm.weight), network.head.linear.weight).float()


def angles(generator: Any, prefix: int = 1) -> Tensor:
    table = torch.stack([generator.rope.angles.cos(), generator.rope.angles.sin()], dim=-1)
    return torch.cat([torch.zeros(prefix, *table.shape[1:]), table])


@torch.no_grad()
def tokens(model: Any, labels: Tensor, rng: Any, options: Any) -> Tensor:
    """With guidance."""
    network, generator, batch = model.network, model.generator, len(labels)
    scale, count = options.guidance.guidance, model.space.num_tokens
    length = -(-(1 + count) // 8) * 8
    heads = generator.config.num_heads
    caches = [Cache(2 * batch, heads, length, generator.dim // heads) for _ in generator.blocks]
    causal = torch.tril(torch.ones(length, length, dtype=torch.bool)).unsqueeze(0).repeat(2 * batch, 1, 1)
    table, made = angles(generator), torch.empty(batch, 1 + count, dtype=torch.int)

    def sampled(logits: Tensor) -> Tensor:
        cond, null = torch.split(logits, len(logits) // 2, dim=0)
        guided = (null + (cond - null) * scale)[:, -1]
        return inverse_cdf(filtered(guided, options.head).softmax(-1), rng.uniform(1)[:, 0])[:, None]

    null = torch.full_like(labels, model.conditioner.config.num_classes)
    at = torch.arange(1)
    x = model.conditioner.table(torch.cat([labels, null]))[:, None]
    token = sampled(forward(network, x, table[at], causal[:, None, at], caches, at))
    made[:, 1:2] = token
    at = torch.tensor([1], dtype=torch.int)
    with sdpa_kernel(SDPBackend.MATH):
        for i in range(count - 1):
            x = generator.embed(torch.cat([token, token]))
            token = sampled(forward(network, x, table[at], causal[:, None, at], caches, at))
            made[:, i + 2 : i + 3] = token
            at += 1
    return made[:, 1:].long()


def loss(model: Any, ids: Tensor, labels: Tensor, rng: Any) -> Tensor:
    """Logits of all positions at once; a label is dropped, and the dropouts are on, as in ours."""
    network, generator, conditioner = model.network, model.generator, model.conditioner
    drop = rng.uniform() < conditioner.config.dropout
    prefix = conditioner.table(torch.where(drop, conditioner.config.num_classes, labels))[:, None]
    x = torch.cat([prefix, generator.embed(ids[:, :-1])], dim=1)
    x = F.dropout(x, generator.token_dropout.p, generator.training)
    logits = forward_dropped(network, x, angles(generator)[: x.shape[1]])
    return F.cross_entropy(logits.view(-1, logits.shape[-1]), ids.reshape(-1))


def forward_dropped(network: Any, x: Tensor, table: Tensor) -> Tensor:
    for block in network.generator.blocks:
        rate = block.dropout.p if block.training else 0.0
        x = x + F.dropout(attention(block.attention, norm(x, block.attention_norm.weight), table, None, None, None), rate)
        h = norm(x, block.ffn_norm.weight)
        x = x + F.dropout(F.linear(F.silu(F.linear(h, block.ffn.w1.weight)) * F.linear(h, block.ffn.w3.weight), block.ffn.w2.weight), rate)
    return F.linear(norm(x, network.generator.norm.weight), network.head.linear.weight).float()
