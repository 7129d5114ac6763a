"""MAR's: boolean gathers, the decoder's output at every position, orders made sample by sample; a denoising step makes AdaLN's parameters
of time and z in every block, for both halves of a guided pair; in training the head sees known tokens too, and a mask drops their loss."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from argenzoo.heads.diffusion import variational_bound
from argenzoo.heads.schedule import noise_schedule


def plain(part: Any, x: Tensor) -> Tensor:
    return F.linear(x, part.weight, part.bias)


def dropped(part: Any, x: Tensor) -> Tensor:
    return F.dropout(x, part.p, part.training)


def block_forward(block: Any, x: Tensor) -> Tensor:
    part = block.attn
    batch, count, dim = x.shape
    h = F.layer_norm(x, (dim,), block.norm1.weight, block.norm1.bias, 1e-6)
    q, k, v = plain(part.qkv, h).reshape(batch, count, 3, part.num_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
    rate = part.attn_drop.p if block.training else 0.0
    h = F.scaled_dot_product_attention(q, k, v, dropout_p=rate).transpose(1, 2).reshape(batch, count, dim)
    x = x + dropped(part.proj_drop, plain(part.proj, h))
    h = F.layer_norm(x, (dim,), block.norm2.weight, block.norm2.bias, 1e-6)
    h = dropped(block.mlp.drop1, F.gelu(plain(block.mlp.fc1, h)))
    return x + dropped(block.mlp.drop2, plain(block.mlp.fc2, h))


def encoded(generator: Any, tokens: Tensor, mask: Tensor, vector: Tensor) -> Tensor:
    """``mask``: 1 where hidden."""
    size, (batch, _, dim) = generator.config.buffer_size, (*tokens.shape[:2], generator.dim)
    x = torch.cat([torch.zeros(batch, size, dim), plain(generator.embed, tokens)], dim=1)
    padded = torch.cat([torch.zeros(batch, size), mask], dim=1)
    x[:, :size] = vector.unsqueeze(1)
    x = x + generator.encoder_position
    x = F.layer_norm(x, (dim,), generator.embed_norm.weight, generator.embed_norm.bias, 1e-6)
    x = x[(1 - padded).nonzero(as_tuple=True)].reshape(batch, -1, dim)
    for block in generator.encoder:
        x = block_forward(block, x)
    return F.layer_norm(x, (dim,), generator.encoder_norm.weight, generator.encoder_norm.bias, 1e-6)


def decoded(generator: Any, x: Tensor, mask: Tensor) -> Tensor:
    size, dim = generator.config.buffer_size, generator.dim
    x = plain(generator.bridge, x)
    padded = torch.cat([torch.zeros(len(x), size), mask], dim=1)
    filled = generator.mask_token.repeat(padded.shape[0], padded.shape[1], 1).to(x.dtype).clone()
    filled[(1 - padded).nonzero(as_tuple=True)] = x.reshape(-1, dim)
    x = filled + generator.decoder_position
    for block in generator.decoder:
        x = block_forward(block, x)
    x = F.layer_norm(x, (dim,), generator.decoder_norm.weight, generator.decoder_norm.bias, 1e-6)[:, size:]
    return x + generator.out_position


def denoised(mlp: Any, x: Tensor, t: Tensor, z: Tensor) -> Tensor:
    half = mlp.frequencies // 2
    frequencies = torch.exp(-math.log(10000) * torch.arange(half, dtype=torch.float32) / half)
    angles = t[:, None].float() * frequencies[None]
    first, _, second = mlp.time_embed
    time = plain(second, F.silu(plain(first, torch.cat([torch.cos(angles), torch.sin(angles)], dim=-1))))
    x, y = plain(mlp.in_proj, x), time + plain(mlp.z_embed, z)
    for block in mlp.blocks:
        shift, scale, gate = plain(block.modulation, F.silu(y)).chunk(3, dim=-1)
        h = F.layer_norm(x, (x.shape[-1],), block.norm.weight, block.norm.bias, 1e-6) * (1 + scale) + shift
        x = x + gate * plain(block.mlp[2], F.silu(plain(block.mlp[0], h)))
    shift, scale = plain(mlp.out_modulation, F.silu(y)).chunk(2, dim=-1)
    return plain(mlp.out_proj, F.layer_norm(x, (x.shape[-1],), eps=1e-6) * (1 + scale) + shift)


def taken(table: np.ndarray, t: Tensor, like: Tensor) -> Tensor:
    """A coefficient a row, looked up in a float64 table at every use."""
    return torch.from_numpy(table)[t].float()[:, None].expand(like.shape)


def diffused(head: Any, z: Tensor, scale: float, options: Any, noises: list[Tensor]) -> Tensor:
    """Ancestral sampling of a guided pair's rows (2M, D); both halves carry one sample. ``noises``: the start, then one a step."""
    schedule = noise_schedule(options.num_steps)
    tables = {name: getattr(schedule, name).double().numpy() for name in schedule.__dataclass_fields__ if name != "timesteps"}
    channels, half = head.token_dim, len(z) // 2
    x = torch.cat([noises[0], noises[0]])
    for i in reversed(range(options.num_steps)):
        t = torch.full((len(z),), i)
        both = torch.cat([x[:half], x[:half]])
        eps, variance = denoised(head.mlp, both, schedule.timesteps[t], z).split(channels, dim=1)
        cond, null = torch.split(eps, half)
        guided = null + scale * (cond - null)
        eps = torch.cat([guided, guided])
        low, high = taken(tables["posterior_log_variance"], t, x), taken(tables["log_beta"], t, x)
        fraction = (variance + 1) / 2
        log_variance = fraction * high + (1 - fraction) * low
        start = taken(tables["sqrt_recip_alpha_bar"], t, x) * x - taken(tables["sqrt_recip_minus_one"], t, x) * eps
        start = start if options.clip is None else start.clamp(-options.clip, options.clip)
        mean = taken(tables["posterior_mean_x0"], t, x) * start + taken(tables["posterior_mean_xt"], t, x) * x
        noise = noises[1][i - 1] if i else torch.zeros_like(noises[0])
        x = mean + (t != 0).float()[:, None] * torch.exp(0.5 * log_variance) * torch.cat([noise, noise]) * options.temperature
    return x[:half]


@torch.no_grad()
def tokens(model: Any, labels: Tensor, rng: Any, options: Any) -> Tensor:
    """With guidance that rises with the revealed tokens."""
    generator, batch, (count, channels) = model.generator, len(labels), (model.space.num_tokens, model.space.dim)
    orders, steps = rng.permutation(count).flip(1), options.order.num_steps
    null = torch.full_like(labels, model.conditioner.config.num_classes)
    vector = model.conditioner.table(torch.cat([labels, null]))
    mask, made = torch.ones(batch, count), torch.zeros(batch, count, channels)
    for step in range(steps):
        current = made.clone()
        doubled, hidden = torch.cat([made, made]), torch.cat([mask, mask])
        z = decoded(generator, encoded(generator, doubled, hidden, vector), hidden)
        length = torch.tensor([math.floor(count * math.cos(math.pi / 2 * (step + 1) / steps))]).float()
        length = torch.maximum(torch.tensor([1.0]), torch.minimum(mask.sum(dim=-1, keepdim=True) - 1, length))
        following = torch.zeros(batch, count)
        following = torch.scatter(following, -1, orders[:, : int(length[0, 0])], torch.ones(batch, count)).bool()
        wanted = mask.bool() if step == steps - 1 else torch.logical_xor(mask.bool(), following)
        mask = following.float()
        z = z[torch.cat([wanted, wanted]).nonzero(as_tuple=True)]
        scale = 1 + (options.guidance.guidance - 1) * (count - int(length[0, 0])) / count
        rows = int(wanted[0].sum())
        noises = [rng.normal(rows, channels).flatten(0, 1)]
        injected = rng.normal(options.head.num_steps - 1, rows, channels).transpose(0, 1).flatten(1, 2)
        current[wanted.nonzero(as_tuple=True)] = diffused(model.head, z, scale, options.head, [*noises, injected])
        made = current.clone()
    return made


def loss(model: Any, latents: Tensor, labels: Tensor, rng: Any) -> Tensor:
    """The head sees every token ``batch_mul`` times, hidden or not; the eps error and the variational bound, masked."""
    generator, head, conditioner = model.generator, model.head, model.conditioner
    drop = rng.uniform() < conditioner.config.dropout
    vector = conditioner.table(torch.where(drop, conditioner.config.num_classes, labels))
    mask = generator.draw_mask(rng)[0].float()
    z = decoded(generator, encoded(generator, latents, mask, vector), mask)
    repeats, channels = head.config.batch_mul, latents.shape[-1]
    target = latents.reshape(-1, channels).repeat(repeats, 1)
    z, weights = z.reshape(-1, z.shape[-1]).repeat(repeats, 1), mask.reshape(-1).repeat(repeats)
    t, noise = torch.randint(0, head.steps, (len(target),)), torch.randn_like(target)
    schedule = noise_schedule(head.steps)
    tables = {name: getattr(schedule, name).double().numpy() for name in ("sqrt_alpha_bar", "sqrt_one_minus_alpha_bar")}
    x = taken(tables["sqrt_alpha_bar"], t, target) * target + taken(tables["sqrt_one_minus_alpha_bar"], t, target) * noise
    eps, variance = denoised(head.mlp, x, t, z).split(channels, dim=1)
    each = (noise - eps).square().mean(dim=1) + variational_bound(schedule, eps.detach(), variance, x, target, t)
    return (each * weights).sum() / weights.sum()
