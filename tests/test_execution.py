"""Products by another library, and weights in other forms while sampling: the same numbers, or as near as the form allows."""

from __future__ import annotations

import builtins
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import CELLS, tiny_model
from torch import nn

from argenzoo.errors import ArgenzooError
from argenzoo.layers import execution
from argenzoo.layers import linear as module
from argenzoo.layers.execution import FORMS, Execution, executing
from argenzoo.layers.linear import Linear, linear, quick, takes
from argenzoo.model import ARModel, evaluating
from argenzoo.rng import Rng

LABELS = torch.tensor([0, 1, 1])
NEAR = {"fp32": 1e-5, "bf16": 0.02, "int8": 0.03}  # of a product, relative


@pytest.mark.parametrize("shape", [(5, 7), (2, 3, 7), (0, 7), (7,)])
@pytest.mark.parametrize("bias", [True, False])
def test_a_product_and_its_gradients_are_those_of_torch(shape: tuple[int, ...], bias: bool):
    x, weight, shift = torch.randn(shape, requires_grad=True), torch.randn(4, 7, requires_grad=True), torch.randn(4, requires_grad=True)
    inputs = [x, weight, *([shift] if bias else [])]
    results = []
    for product in (F.linear, linear):
        out = product(*inputs)
        results.append((out, *torch.autograd.grad(out.sin().sum(), inputs)))
    for expected, made in zip(*results, strict=True):
        torch.testing.assert_close(made, expected)


def test_only_float32_on_a_cpu_goes_another_way():
    """On what this machine has: other types, devices that only count, autocast and a compiler keep torch's own."""
    x, weight = torch.randn(2, 8), torch.randn(4, 8)
    assert takes(x, weight) == torch.backends.mkldnn.is_available()
    assert not takes(x.double(), weight.double())
    assert not takes(x.to("meta"), weight.to("meta"))
    with torch.autocast("cpu", torch.bfloat16):
        assert not takes(x, weight)
        assert linear(x, weight).dtype == torch.bfloat16


@pytest.mark.parametrize("name", CELLS)
def test_every_linear_of_a_network_is_quick(name: str):
    network = tiny_model(name).network
    linears = [part for part in network.modules() if isinstance(part, nn.Linear)]
    assert linears
    assert all(type(part) is Linear for part in linears)


def test_other_kinds_of_linear_are_left_alone():
    class Own(nn.Linear):
        pass

    both = nn.ModuleList([Own(2, 2), nn.Linear(2, 2)])
    quick(both)
    assert [type(part) for part in both] == [Own, Linear]


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("packed", [True, False])
def test_sampling_is_that_of_torchs_own_products(name: str, packed: bool, monkeypatch: pytest.MonkeyPatch):
    model = tiny_model(name)
    made = sampled(model, {"execution.packed": packed})
    monkeypatch.setattr(module, "takes", lambda x, weight: False)
    plain = sampled(model, {"execution.packed": False})
    assert (made - plain).float().norm() / plain.float().norm() < 1e-3  # random weights, far from any training, grow what is rounded


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("weights", list(FORMS))
def test_other_forms_are_near_and_leave_nothing_behind(name: str, weights: str):
    model = tiny_model(name)
    before = {key: value.clone() for key, value in model.network.state_dict().items()}
    assert sampled(model, {"execution.weights": weights}).isfinite().all()
    assert all(part.form is None for part in model.network.modules() if isinstance(part, Linear))
    assert all(torch.equal(value, before[key]) for key, value in model.network.state_dict().items())


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("weights", list(FORMS))
def test_a_product_in_another_form(weights: str, packed: bool):
    layer, x = Linear(128, 192), torch.randn(2, 3, 128)
    with torch.no_grad():
        expected = layer(x)
        with executing(layer, Execution(weights=weights, packed=packed)):
            made = layer(x)
    assert made.dtype == torch.float32
    assert (made - expected).norm() / expected.norm() < NEAR[weights]
    assert weights == "fp32" or not torch.equal(made, expected)


@pytest.mark.parametrize("shape", [(2, 1, 128), (1, 2, 128), (2, 128)])
@pytest.mark.parametrize("weights", list(FORMS))
def test_a_guided_pairs_two_rows(weights: str, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch):
    """Of large weights they are made as four."""
    rows: list[int] = []

    def counted(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        rows.append(x.shape[:-1].numel())
        return module.of_library(x, weight, bias)

    monkeypatch.setattr(execution, "LARGE", 0)
    monkeypatch.setattr(execution, "of_library", counted)
    layer, x = Linear(128, 192), torch.randn(shape)
    with torch.no_grad():
        expected = layer(x)
        with executing(layer, Execution(weights=weights)):
            made = layer(x)
    assert weights != "fp32" or rows == ([4] if module.ONEDNN else [])
    assert made.shape == expected.shape
    assert (made - expected).norm() / expected.norm() < NEAR[weights]


def test_8_bit_integers_are_the_same_weights_for_few_rows_and_many():
    layer, x = Linear(128, 192), torch.randn(40, 128)
    with torch.no_grad():
        layer.weight[:, 0] *= 100  # so that the others are rounded coarsely
        x[:, 0] = 0
        original = layer(x)
        with executing(layer, Execution(weights="int8")):
            many, few = layer(x), torch.cat([layer(row[None]) for row in x])
    assert (many - original).norm() / original.norm() > 0.1
    assert (many - few).norm() / many.norm() < 0.01


def test_one_form_at_a_time():
    layer, x = Linear(8, 8), torch.randn(2, 8)
    with executing(layer, Execution(weights="bf16")), torch.no_grad():
        form = layer.form
        with executing(layer, Execution(weights="bf16")):
            assert layer.form is form
        assert layer.form is form
        with pytest.raises(ArgenzooError, match="already"), executing(layer, Execution()):
            pass
    assert layer.form is None
    with pytest.raises(ZeroDivisionError), executing(layer, Execution()):
        _ = 1 / 0
    assert layer.form is None
    assert layer(x).requires_grad


def test_training_takes_no_notice(monkeypatch: pytest.MonkeyPatch):
    layer, x = Linear(64, 64), torch.randn(2, 64)
    expected = layer(x)
    with executing(layer, Execution(weights="bf16")):
        assert torch.equal(layer(x), expected)


def test_int8_says_what_it_needs(monkeypatch: pytest.MonkeyPatch):
    real = builtins.__import__

    def without(name: str, *arguments: Any, **named: Any) -> Any:
        if name.startswith("torchao"):
            raise ImportError(name)
        return real(name, *arguments, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    layer = Linear(64, 64)
    with pytest.raises(ArgenzooError, match=r"argenzoo\[int8\]"), executing(layer, Execution(weights="int8")):
        pass
    assert layer.form is None


def test_a_model_can_hold_its_form_over_many_calls():
    model = tiny_model(CELLS[0], {"sampling.execution.weights": "bf16"})
    with model.executing():
        made = model.generate([0, 1], seed=1)
        with pytest.raises(ArgenzooError, match="already"):
            model.generate([0, 1], sampling={"execution.weights": "fp32"})
    assert torch.equal(made, model.generate([0, 1], seed=1))


def sampled(model: ARModel, changes: dict[str, Any]) -> torch.Tensor:
    with evaluating(model):
        return model.sample_tokens(LABELS, Rng(0, range(3)), model.sampling.override({"guidance": 2.0, **changes}))


def test_no_rows():
    """A masked model's first step has no known tokens, and so a product of no rows."""
    holder = nn.Sequential(Linear(32, 64))
    for weights in ("fp32", "bf16", "int8"):
        with executing(holder, Execution(weights=weights)), torch.no_grad():
            assert holder(torch.zeros(2, 0, 32)).shape == (2, 0, 64)


def test_mixed_precision_inside_reads_the_module_as_ever():
    """A form for float32 is not for autocast, which casts a parameter once, not in every call."""
    holder = nn.Sequential(Linear(32, 64))
    x = torch.randn(2, 3, 32)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        expected = holder(x)
        with executing(holder, Execution()):
            made = holder(x)
    assert made.dtype == expected.dtype == torch.bfloat16
    assert torch.equal(made, expected)
