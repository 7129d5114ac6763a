"""What ``argenzoo show`` counts: FLOPs against their formulas, activations against a real pass, steps against the recipe."""

from __future__ import annotations

import pytest
import torch
from conftest import CELLS, PUBLISHED, tiny, tiny_model
from torch import nn

import argenzoo.summary
from argenzoo.counting import counting
from argenzoo.recipe import load_recipe
from argenzoo.report import report
from argenzoo.rng import GlobalRng
from argenzoo.summary import cost, generator_flops, memory, parameters_by_part, parts_of, steps_of


def test_products_and_attention():
    linear = nn.Linear(8, 16, device="meta")
    x = torch.empty(4, 8, device="meta", requires_grad=True)
    with counting(linear) as count:
        linear(x)
    assert (count.flops, count.kept) == (2 * 4 * 8 * 16, 4 * 8 * 4)  # the input is kept, the weight is no activation
    q, k = (torch.empty(2, 3, n, 8, device="meta", requires_grad=True) for n in (5, 7))
    with counting() as count:
        nn.functional.scaled_dot_product_attention(q, k, k)
    assert count.flops == 2 * 3 * 5 * 7 * (2 * 8 + 2 * 8)
    assert count.kept == 4 * 2 * 3 * 8 * (5 + 7 + 5)  # q, k (v is the same), the output; no 5 x 7 weights


PAIRS = {  # of attention: all of them, or those of VAR's first eight scales, and what the last two look at
    "llamagen_b_256": 256**2,
    "var_d16": 255**2 + 13**2 * 424 + 16**2 * 680,
}


@pytest.mark.parametrize(("name", "width", "depth", "tokens"), [("llamagen_b_256", 768, 12, 256), ("var_d16", 1024, 16, 680)])
def test_training_flops_are_six_a_parameter_and_token(name: str, width: int, depth: int, tokens: int):
    """Kaplan et al. (arXiv 2001.08361): 6 N D, and 12 depth width for each pair of attention."""
    recipe = load_recipe(name)
    count = parameters_by_part(recipe)
    weights = count["generator"] + count["head"]
    if name.startswith("llamagen"):
        weights -= recipe.tokenizer.config.vocab_size * width  # a table is read, not multiplied
    else:
        weights -= 6 * width * width * depth + 2 * width * width  # AdaLN is done once an image, not once a token
    expected = 6 * weights * tokens + 12 * depth * width * PAIRS[name]
    assert cost(recipe).train == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("name", CELLS)
def test_activations_are_those_of_a_real_pass(name: str):
    """Bytes that autograd keeps on the CPU, for one image, without the N x N weights that a fused kernel never has."""
    counted = cost(tiny(name)).activations
    model = tiny_model(name).train()
    own = {parameter.data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    tokens = model.tokenizer.space.empty(1, torch.device("cpu"))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = model.network(model.tokenizer.context(tokens), tokens, torch.zeros(1, dtype=torch.long), GlobalRng(1))["loss"]
    assert counted == pytest.approx(sum(kept.values()), rel=0.25)
    assert loss.requires_grad


@pytest.mark.parametrize("name", ["fruit_raster", "fruit_mar"])
def test_steps_that_are_passed_over_cost_what_they_would(name: str, monkeypatch: pytest.MonkeyPatch):
    overrides = {"sampling.order.num_steps": 60} if name == "fruit_mar" else {}
    _, model = parts_of(tiny(name, {"tokenizer.image_size": 32, **overrides}))
    assert model is not None
    guessed = generator_flops(model, paired=True)
    monkeypatch.setattr(argenzoo.summary, "STEPS", 1000)
    assert guessed == pytest.approx(generator_flops(model, paired=True), rel=0.01)


def test_steps_and_memory():
    recipe = load_recipe("var_d16")
    assert steps_of(recipe.train, 1_281_167) == -(-200 * 1_281_167 // 768)
    need = memory(tiny("fruit_mar"))
    assert need.optimizer == 2 * need.gradients == 2 * need.averaged
    assert need.total(4) - need.total(0) == pytest.approx(4 * need.activations)
    half = memory(tiny("fruit_mar", {"train.precision": "bf16"}))
    assert half.activations == pytest.approx(need.activations / 2)


@pytest.mark.parametrize("name", [*CELLS, "fruit_vq", "fruit_msvq", "fruit_kl"])
def test_the_report_says_it_all(name: str):
    text = report(tiny(name, {"train.steps": 10}))
    for word in (
        "parameters",
        "float32",
        "bfloat16",
        "activations",
        "FLOPs an image",
        "train, forward and backward",
        "encode",
        "decode",
        "steps        10",
        "memory",
    ):
        assert word in text
    assert ("sample tokens, guidance" in text) == (name in CELLS)
    assert "?" not in text
    assert "nan" not in text


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_every_published_recipe_is_counted(name: str):
    found = cost(load_recipe(name))
    assert 0 < found.encode < found.train
    assert found.sample > 0
    assert found.activations > 0
