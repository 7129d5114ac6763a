"""Blocks that are computed again, or compiled: the same numbers, and what it is done for."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from shutil import which
from typing import Any

import pytest
import torch
from conftest import CELLS, tiny, tiny_model, tiny_training
from torch import nn

from argenzoo.errors import ArgenzooError
from argenzoo.layers import repeated
from argenzoo.layers.repeated import blocks_of, checkpointed, compiled
from argenzoo.model import ARModel
from argenzoo.recipe import load_recipe
from argenzoo.rng import Rng
from argenzoo.summary import cost
from argenzoo.training.logs import read_log
from argenzoo.training.trainer import train
from argenzoo.weights import read_weights


def gradients(network: nn.Module, *inputs: object) -> list[torch.Tensor]:
    torch.manual_seed(0)  # of dropout
    network.train().zero_grad()
    network(*inputs, Rng(0, range(4)))["loss"].backward()
    return [parameter.grad.clone() for parameter in network.parameters() if parameter.grad is not None]


@pytest.mark.parametrize("name", CELLS)
def test_gradients_are_the_same_and_less_is_kept(name: str):
    """With dropout where there is any; blocks are found, and run twice."""
    dropout = {} if "var" in name else {"generator.dropout": 0.2}
    model = tiny_model(name, dropout)
    tokens = model.space.empty(4, torch.device("cpu"))
    inputs = model.context(tokens), tokens, torch.tensor([0, 1, 1, 0])
    expected, network = gradients(model.network, *inputs), deepcopy(model.network)
    checkpointed(network)
    ran: list[int] = []
    blocks = [block for block in blocks_of(network) if isinstance(block, nn.Module)]
    blocks[0].register_forward_hook(lambda module, inputs, out: ran.append(1))
    next(iter(blocks[0].children())).register_forward_hook(lambda module, inputs, out: ran.append(1))
    made = gradients(network, *inputs)
    assert all(torch.equal(one, other) for one, other in zip(made, expected, strict=True))
    assert len(ran) == 3  # the block once, its first part again in the backward pass
    plain, less = (cost(tiny(name, {"train.checkpointing": value})) for value in (False, True))
    assert less.activations < 0.8 * plain.activations
    assert less.train == plain.train


def test_training_goes_on_without_it(pictures: Path, tmp_path: Path):
    """Weights, averages and losses are bit for bit those of a plain run."""
    shrunk = {"tokenizer.image_size": 16, "generator.dim": 32, "generator.depth": 2, "generator.num_heads": 2, "train.ema": 0.9}
    weights = tmp_path / "vq"
    train(load_recipe("fruit_vq", {"tokenizer.image_size": 16, **tiny_training(weights, pictures, steps=1)}))
    logs = []
    for name in ("plain", "less"):
        given = {**shrunk, "tokenizer.weights": str(weights), **tiny_training(tmp_path / name, pictures)}
        out = train(load_recipe("fruit_raster", {**given, "conditioner.num_classes": 2, "train.checkpointing": name == "less"}))
        logs.append([entry["loss"] for entry in read_log(out) if entry["event"] == "train"])
    assert logs[0] == logs[1]
    for file in ("model.safetensors", "ema.safetensors"):
        one, other = (read_weights(next((tmp_path / name).glob("step_*")) / file) for name in ("plain", "less"))
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_compiled_blocks(monkeypatch: pytest.MonkeyPatch):
    """Every block goes through the compiler, here one that changes nothing; names of parameters stay."""
    model = tiny_model("fruit_raster")
    seen: list[object] = []
    monkeypatch.setattr(torch, "compile", lambda function, *given, **named: seen.append(function) or function)
    names = list(model.network.state_dict())
    compiled(model.network)
    assert len(seen) == len(list(blocks_of(model.network))) == 2
    assert list(model.network.state_dict()) == names


def compiled_gradients(name: str) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """(plain, compiled)."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    model = tiny_model(name)
    tokens = model.space.empty(4, torch.device("cpu"))
    inputs = model.context(tokens), tokens, torch.tensor([0, 1, 1, 0])
    expected, network = gradients(model.network, *inputs), deepcopy(model.network)
    compiled(network)
    return expected, gradients(network, *inputs)


@pytest.fixture(
    params=["aot_eager", pytest.param("inductor", marks=[pytest.mark.slow, pytest.mark.skipif(which("g++") is None, reason="no g++")])]
)
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The compiler's own reference, which runs what it traced; and the one that makes code, which for a CPU takes a C++ compiler."""
    monkeypatch.setattr(repeated, "BACKEND", request.param)
    if request.param == "aot_eager":
        monkeypatch.setattr(repeated, "ON_CPU", None)
    return request.param


@pytest.mark.parametrize("name", CELLS)
def test_compiled_blocks_train_the_plain_way(name: str, backend: str):
    """Each traced wholly, oneDNN's products and all."""
    expected, made = compiled_gradients(name)
    torch.testing.assert_close(made, expected, rtol=1e-3, atol=1e-5)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    assert not torch._dynamo.utils.counters["graph_break"]


def test_nothing_to_do_it_to():
    with pytest.raises(ArgenzooError, match=r"train\.checkpointing has no effect: this model has no list of blocks"):
        checkpointed(nn.Linear(2, 2))


STATIC = {"fruit_raster": {"order.static": True}, "fruit_raster_diffusion": {"order.static": True}}
LABELS = torch.tensor([0, 1, 1])


def sampled(model: ARModel, changes: dict[str, Any]) -> torch.Tensor:
    return model.sample_tokens(LABELS, Rng(0, range(3)), model.sampling.override({"guidance": 2.0, **changes}))


@pytest.mark.parametrize("name", CELLS)
def test_compiled_blocks_sample_the_plain_tokens(name: str, backend: str):
    """Every block is traced, and plain again afterwards."""
    torch._dynamo.reset()
    model = tiny_model(name)
    plain = sampled(model, {})
    made = sampled(model, {"execution.compile": True, **STATIC.get(name, {})})
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    assert (made - plain).float().norm() / plain.float().norm() < 1e-3
    assert all(block._compiled_call_impl is None for block in blocks_of(model.network))


@pytest.mark.parametrize("name", CELLS)
def test_blocks_compiled_for_training_sample_plainly(name: str, monkeypatch: pytest.MonkeyPatch):
    """How a model samples is for ``execution`` to say: a raster model's steps would be compiled anew each."""
    monkeypatch.setattr(repeated, "BACKEND", lambda graph, inputs: pytest.fail("compiled"))
    monkeypatch.setattr(repeated, "ON_CPU", None)
    model = tiny_model(name)
    plain = sampled(model, {})
    compiled(model.network)
    assert torch.equal(sampled(model, {}), plain)
    assert all(block._compiled_call_impl is not None for block in blocks_of(model.network))


def test_one_shape_for_all_steps(monkeypatch: pytest.MonkeyPatch):
    """The prefix's and a token's: no step is traced anew, for all blocks of the network together."""
    monkeypatch.setattr(repeated, "BACKEND", "aot_eager")
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    model = tiny_model("fruit_raster", {"generator.depth": 4})
    sampled(model, {"execution.compile": True, "order.static": True})
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 4


@pytest.mark.parametrize("name", STATIC)
def test_static_steps_sample_the_plain_tokens(name: str):
    model = tiny_model(name)
    plain, made = sampled(model, {}), sampled(model, {"order.static": True})
    assert (made - plain).float().norm() / plain.float().norm() < 1e-4


def test_static_settings_without_effect_are_errors():
    with pytest.raises(ArgenzooError, match=r"execution.compile needs order.static=true"):
        tiny_model("fruit_raster", {"sampling.execution.compile": True})
    with pytest.raises(ArgenzooError, match=r"order.static has no effect with order.drafts"):
        tiny_model("fruit_raster", {"sampling.order": {"static": True, "drafts": 2}})
    with pytest.raises(ArgenzooError, match=r"order.static needs generator.order=raster"):
        tiny_model("fruit_raster", {"sampling.order.static": True, "generator.order": "random"})


def test_blocks_that_differ_in_a_rate_are_all_compiled(monkeypatch: pytest.MonkeyPatch):
    """More than torch's own limit of compilations would allow."""
    monkeypatch.setattr(repeated, "BACKEND", "aot_eager")
    monkeypatch.setattr(repeated, "ON_CPU", None)
    monkeypatch.setattr(torch._dynamo.config, "recompile_limit", 3)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    model = tiny_model("fruit_var", {"generator.depth": 6, "generator.drop_path": 0.2})
    tokens = model.space.empty(4, torch.device("cpu"))
    compiled(model.network)
    gradients(model.network, model.context(tokens), tokens, torch.tensor([0, 1, 1, 0]))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 6
