"""Orders, and the sampling path against the teacher-forced one."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from conftest import CELLS, tiny, tiny_model
from torch import nn

from argenzoo.errors import ArgenzooError
from argenzoo.generators.mar import cosine_schedule
from argenzoo.layers.attention import KVCache
from argenzoo.layers.block_causal import BlockCausal
from argenzoo.layers.embed import put, take
from argenzoo.model import ARModel
from argenzoo.rng import Rng

TEXT = {"conditioner": {"name": "text_features", "feature_dim": 12, "num_tokens": 3}}


def condition(model: ARModel, batch: int) -> Any:
    if hasattr(model.conditioner.config, "num_classes"):
        return torch.arange(batch) % 2
    features = Rng(5, range(batch)).normal(3, 12)
    mask = torch.tensor([[0, 0, 1], [1, 1, 1], [0, 1, 1]])[torch.arange(batch) % 3]
    return features, mask


def tokens_of(model: ARModel, batch: int) -> torch.Tensor:
    images = Rng(7, range(batch)).uniform(3, 16, 16) * 2 - 1
    return model.tokenizer.tokens(model.tokenizer.encode(images))


def stepped(model: ARModel, tokens: torch.Tensor, order: list[torch.Tensor]) -> torch.Tensor:
    """z (B, N, D) by ``step``, the true tokens revealed one set after another."""
    batch = len(tokens)
    cond = model.conditioner(condition(model, batch))
    state = model.generator.start(cond, batch)
    seen, known = 0, torch.zeros_like(tokens)
    z = torch.zeros(batch, tokens.shape[1], model.generator.dim)
    for positions in order:
        context = model.tokenizer.context(known, upto=seen)
        z = put(z, positions, model.generator.step(state, context, positions))
        known = put(known, positions, take(tokens, positions))
        seen += positions.shape[-1]
    return z


CAUSAL = [name for name in CELLS if tiny(name).generator.name in ("raster", "var")]


@pytest.mark.parametrize("overrides", [{}, TEXT], ids=["labels", "text"])
@pytest.mark.parametrize("name", CAUSAL)
@torch.no_grad()
def test_step_over_order_equals_forward(name: str, overrides: dict):
    model = tiny_model(name, overrides)
    tokens = tokens_of(model, 3)
    order = list(model.generator.order(3))
    z, mask = model.generator(model.tokenizer.context(tokens), model.conditioner(condition(model, 3)))
    assert mask.all()
    torch.testing.assert_close(stepped(model, tokens, order), z, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("overrides", [{}, TEXT], ids=["labels", "text"])
@pytest.mark.parametrize("name", ["fruit_raster", "fruit_raster_diffusion"])
@torch.no_grad()
def test_random_order_steps_equal_forward(name: str, overrides: dict):
    model = tiny_model(name, {"generator.order": "random", **overrides})
    tokens = tokens_of(model, 3)
    order = list(model.generator.order(3, rng=Rng(2, range(3))))
    z, _ = model.generator(tokens, model.conditioner(condition(model, 3)), order=torch.cat(order, dim=1))
    torch.testing.assert_close(stepped(model, tokens, order), z, atol=1e-5, rtol=1e-5)
    other, _ = model.generator(tokens, model.conditioner(condition(model, 3)), rng=Rng(3, range(3)))
    assert not torch.allclose(z, other)


@pytest.mark.parametrize("overrides", [{}, TEXT], ids=["labels", "text"])
@pytest.mark.parametrize("name", ["fruit_mar", "fruit_mar_ce"])
@torch.no_grad()
def test_mar_step_is_forward_with_that_mask(name: str, overrides: dict):
    model = tiny_model(name, overrides)
    tokens = tokens_of(model, 3)
    cond = model.conditioner(condition(model, 3))
    state, known = model.generator.start(cond, 3), torch.zeros(tokens.shape[:2], dtype=torch.bool)
    for positions in model.generator.order(3, rng=Rng(2, range(3)), options=model.sampling.order):
        whole, _ = model.generator(tokens, cond, mask=~known)
        torch.testing.assert_close(model.generator.step(state, tokens, positions), take(whole, positions), atol=1e-5, rtol=1e-5)
        known = put(known, positions, torch.ones_like(positions, dtype=torch.bool))
    assert known.all()


@pytest.mark.parametrize("name", CELLS)
def test_what_comes_later_is_not_read(name: str):
    """z of the first set must not change with tokens that are not known yet."""
    model = tiny_model(name)
    tokens = tokens_of(model, 2)
    order = [positions.expand(2, -1) for positions in model.generator.order(2, rng=Rng(0, range(2)), options=model.sampling.order)]
    middle = len(order) // 2
    hidden = torch.cat(order[middle:], dim=1)
    changed = put(tokens, hidden, take(tokens.flip(0), hidden))
    z = [stepped(model, some, order)[:, :] for some in (tokens, changed)]
    early = torch.cat(order[: middle + 1], dim=1)
    torch.testing.assert_close(take(z[0], early), take(z[1], early), atol=1e-5, rtol=0)
    assert not torch.allclose(z[0], z[1], atol=1e-5)


@pytest.mark.parametrize("name", CELLS)
def test_order_visits_every_position_once(name: str):
    model = tiny_model(name)
    order = [positions.expand(3, -1) for positions in model.generator.order(3, rng=Rng(1, range(3)), options=model.sampling.order)]
    visited = torch.cat(order, dim=1).sort(dim=1).values
    assert torch.equal(visited, torch.arange(model.tokenizer.space.num_tokens).expand(3, -1))


@pytest.mark.parametrize(("tokens", "steps"), [(256, 256), (256, 64), (64, 1), (16, 4), (16, 16), (9, 8)])
def test_cosine_schedule(tokens: int, steps: int):
    hidden = [tokens, *cosine_schedule(tokens, steps)]
    assert len(hidden) == steps + 1
    assert hidden[-1] == 0
    assert all(before > after for before, after in pairwise(hidden))


def test_mar_skips_known_positions_and_refuses_too_many_steps():
    model = tiny_model("fruit_mar")
    known = Rng(1, range(3)).permutation(16) < 6
    visited = torch.cat(list(model.generator.order(3, known, Rng(0, range(3)), model.sampling.order)), dim=1)
    assert visited.shape == (3, 10)
    assert not take(known, visited).any()
    with pytest.raises(ArgenzooError, match="num_steps 17 is more than the 16 tokens"):
        model.generate([0], sampling={"order.num_steps": 17})
    one_at_a_time = list(model.generator.order(3, None, Rng(0, range(3)), model.generator.Sampling(num_steps=16)))
    assert [positions.shape[1] for positions in one_at_a_time] == [1] * 16


def test_mar_mask_ratio_is_one_draw_for_all_processes():
    model = tiny_model("fruit_mar")
    counts = set()
    for step in range(40):
        masks, hidden = zip(*(model.generator.draw_mask(Rng(0, indices, step=step)) for indices in ([0, 1], [2, 3])), strict=True)
        assert {int(row.sum()) for mask in masks for row in mask} == set(hidden)
        assert len(set(hidden)) == 1
        counts.add(int(masks[0][0].sum()))
        assert not torch.equal(masks[0], masks[1]) or int(masks[0][0].sum()) == 16
    assert counts <= set(range(12, 17))
    assert len(counts) > 3


@pytest.mark.parametrize("name", ["fruit_mar", "fruit_var", "fruit_raster"])
def test_text_needs_no_change_in_a_generator(name: str):
    model = tiny_model(name, TEXT)
    features, mask = condition(model, 3)
    made = model.generate((features, mask), 2.0)
    padded = features.masked_fill(~mask.bool()[..., None], 9.0)
    torch.testing.assert_close(model.generate((padded, mask), 2.0), made, atol=1e-4, rtol=0)  # padding is not read
    assert not torch.allclose(model.generate((features.flip(0), mask), 2.0), made, atol=1e-3)
    with pytest.raises(ArgenzooError, match="padded on the left"):
        model.generate((features, mask.flip(1)))


def test_mar_buffer_must_hold_the_text():
    with pytest.raises(ArgenzooError, match=r"3 tokens, more than generator.buffer_size 2"):
        tiny_model("fruit_mar", {**TEXT, "generator.buffer_size": 2}).generate((torch.zeros(1, 3, 12), torch.ones(1, 3)))


def test_cache_can_be_truncated_and_reused():
    cache, keys = KVCache(4), torch.arange(4.0).view(1, 1, 4, 1)
    cache.append(keys[:, :, :3], keys[:, :, :3])
    cache.truncate(1)
    seen, _ = cache.append(keys[:, :, 3:], keys[:, :, 3:])
    assert seen.flatten().tolist() == [0.0, 3.0]


@pytest.mark.parametrize("sizes", [(1, 4), (1, 4, 9), (1, 4, 9, 16, 25)])
def test_block_causal_attention_is_the_masked_one(sizes: tuple[int, ...]):
    """Whatever is computed in a call of its own: outputs and gradients."""
    levels = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    results = []
    for attend in (
        lambda q, k, v: BlockCausal.of(sizes, levels).attend(q, k, v, 0.0, 0.3),
        lambda q, k, v: nn.functional.scaled_dot_product_attention(q, k, v, levels[:, None] >= levels, scale=0.3),
    ):
        qkv = torch.randn(3, 2, 2, len(levels), 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
        out = attend(*qkv)
        out.square().sum().backward()
        results.append((out.detach(), qkv.grad))
    torch.testing.assert_close(results[0], results[1])
