"""VAR's: a cache that is concatenated in every layer of every scale, AdaLN's parameters made in every block of every step, biases put
together in every call; f_hat added up scale by scale. In training an additive mask over all scales."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from argenzoo.heads.cross_entropy import inverse_cdf


def attention(part: Any, x: Tensor, mask: Tensor | None, cache: dict | None) -> Tensor:
    batch, count, dim = x.shape
    bias = torch.cat((part.q_bias, torch.zeros(dim), part.v_bias))
    qkv = F.linear(x, part.qkv.weight, bias).view(batch, count, 3, part.num_heads, -1)
    q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    if part.log_scale is not None:
        q = F.normalize(q, dim=-1).mul(part.log_scale.clamp_max(4.605170185988092).exp())
        k = F.normalize(k, dim=-1)
    if cache is not None:
        k = torch.cat((cache["k"], k), dim=2) if "k" in cache else k
        v = torch.cat((cache["v"], v), dim=2) if "v" in cache else v
        cache["k"], cache["v"] = k, v
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=part.scale).transpose(1, 2).reshape(batch, count, dim)
    return F.linear(out, part.proj.weight, part.proj.bias)


def block_forward(block: Any, x: Tensor, vector: Tensor, mask: Tensor | None, cache: dict | None) -> Tensor:
    linear, dim = block.modulation.linear, x.shape[-1]
    made = F.linear(F.silu(vector), linear.weight, linear.bias).view(-1, 1, 6, dim)
    gamma1, gamma2, scale1, scale2, shift1, shift2 = made.unbind(2)
    h = F.layer_norm(x, (dim,), eps=1e-6).mul(scale1.add(1)).add_(shift1)
    x = x + block.drop_path(attention(block.attention, h, mask, cache).mul_(gamma1))
    h = F.layer_norm(x, (dim,), eps=1e-6).mul(scale2.add(1)).add_(shift2)
    mlp = block.mlp
    h = F.linear(F.gelu(F.linear(h, mlp.fc1.weight, mlp.fc1.bias), approximate="tanh"), mlp.fc2.weight, mlp.fc2.bias)
    return x + block.drop_path(h.mul(gamma2))


def logits_of(network: Any, x: Tensor, vector: Tensor) -> Tensor:
    out, dim = network.generator.out.linear, x.shape[-1]
    scale, shift = F.linear(F.silu(vector), out.weight, out.bias).view(-1, 1, 2, dim).unbind(2)
    h = F.layer_norm(x, (dim,), eps=1e-6).mul(scale.add(1)).add_(shift)
    return F.linear(h.float(), network.head.linear.weight, network.head.linear.bias).float()


def filtered(logits: Tensor, top_k: int | None, top_p: float | None) -> Tensor:
    """The whole vocabulary is sorted, least likely first."""
    if top_k:
        logits = logits.masked_fill(
            logits < logits.topk(top_k, largest=True, sorted=False, dim=-1)[0].amin(dim=-1, keepdim=True), -torch.inf
        )
    if top_p:
        ordered, order = logits.sort(dim=-1, descending=False)
        removed = ordered.softmax(dim=-1).cumsum_(dim=-1) <= (1 - top_p)
        removed[..., -1:] = False
        logits = logits.masked_fill(removed.scatter(order.ndim - 1, order, removed), -torch.inf)
    return logits


@torch.no_grad()
def run(model: Any, labels: Tensor, rng: Any, options: Any) -> tuple[Tensor, Tensor]:
    """(ids, f_hat)."""
    network, generator, tokenizer, batch = model.network, model.generator, model.tokenizer, len(labels)
    null = torch.full_like(labels, model.conditioner.config.num_classes)
    vector = model.conditioner.table(torch.cat([labels, null]))
    position = generator.level(generator.levels)[None] + generator.position
    first, sides, dim = generator.space.sizes[0], tokenizer.config.scales, tokenizer.config.dim
    x = vector[:, None].expand(2 * batch, first, -1) + generator.start_token[None] + position[:, :first]
    caches: list[dict] = [{} for _ in generator.blocks]
    f_hat, ids, done = torch.zeros(batch, dim, sides[-1], sides[-1]), [], 0
    for k, side in enumerate(sides):
        ratio = k / (len(sides) - 1)
        done += side * side
        for block, cache in zip(generator.blocks, caches, strict=True):
            x = block_forward(block, x, vector, None, cache)
        logits, t = logits_of(network, x, vector), (options.guidance.guidance - 1) * ratio
        logits = (1 + t) * logits[:batch] - t * logits[batch:]
        ids.append(inverse_cdf(filtered(logits, options.head.top_k, options.head.top_p).softmax(-1), rng.uniform(side * side)))
        map_ = tokenizer.codebook(ids[-1]).transpose(1, 2).reshape(batch, dim, side, side)
        phi = tokenizer.phis[tokenizer.phi_of_scale[k]]
        if k < len(sides) - 1:
            f_hat.add_(phi(F.interpolate(map_, size=(sides[-1], sides[-1]), mode="bicubic")))
            following = F.interpolate(f_hat, size=(sides[k + 1], sides[k + 1]), mode="area")
            x = generator.embed(following.view(batch, dim, -1).transpose(1, 2)) + position[:, done : done + sides[k + 1] ** 2]
            x = x.repeat(2, 1, 1)
        else:
            f_hat.add_(phi(map_))
    return torch.cat(ids, dim=1), f_hat


def tokens(model: Any, labels: Tensor, rng: Any, options: Any) -> Tensor:
    return run(model, labels, rng, options)[0]


@torch.no_grad()
def pictures(model: Any, labels: Tensor, rng: Any, options: Any) -> Tensor:
    """Decoded from f_hat."""
    return model.tokenizer.autoencoder.decode(run(model, labels, rng, options)[1]).clamp(-1, 1).add_(1).mul_(0.5)


def loss(model: Any, ids: Tensor, labels: Tensor, rng: Any, context: Tensor | None = None) -> Tensor:
    """``context``: the teacher-forcing input, as from a data loader."""
    network, generator, conditioner = model.network, model.generator, model.conditioner
    context = model.tokenizer.context(ids) if context is None else context
    drop = rng.uniform() < conditioner.config.dropout
    vector = conditioner.table(torch.where(drop, conditioner.config.num_classes, labels))
    first = generator.space.sizes[0]
    start = vector[:, None].expand(-1, first, -1) + generator.start_token[None]
    x = torch.cat((start, generator.embed(context[:, first:].float())), dim=1)
    x = x + generator.level(generator.levels)[None] + generator.position[None]
    levels = generator.levels[:, None]
    mask = torch.where(levels >= levels.T, 0.0, -torch.inf)[None, None]
    for block in generator.blocks:
        x = block_forward(block, x, vector, mask, None)
    logits = logits_of(network, x, vector)
    return F.cross_entropy(logits.view(-1, logits.shape[-1]), ids.view(-1))
