"""The authors' loops said again, which benchmarks/speed.py times ours against, make our tokens: what is compared is the same work."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from conftest import tiny_model
from torch import Tensor

from argenzoo.model import ARModel, evaluating
from argenzoo.rng import Rng

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from restated import llamagen, mar, var

LOOPS = {
    "fruit_raster": (llamagen, {"sampling.guidance": 2.0, "sampling.ramp": "constant"}),
    "fruit_var": (var, {"sampling.guidance": 2.5, "sampling.ramp": "step"}),
    "fruit_mar": (mar, {"sampling.guidance": 2.9, "sampling.ramp": "revealed"}),
}
LABELS = torch.tensor([0, 1, 1])


@pytest.fixture(params=LOOPS)
def pair(request: pytest.FixtureRequest) -> tuple[ModuleType, ARModel]:
    """An author's loop, and a model without dropout whose weights are all drawn."""
    theirs, overrides = LOOPS[request.param]
    model = tiny_model(request.param, {**overrides, "conditioner.dropout": 0.0, **({} if theirs is var else {"generator.dropout": 0.0})})
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.network.parameters():
            parameter.normal_(std=0.1)
    return theirs, model


def test_tokens(pair: tuple[ModuleType, ARModel]):
    theirs, model = pair
    with evaluating(model):
        ours = model.sample_tokens(LABELS, Rng(0, range(3)), model.sampling)
        made = theirs.tokens(model, LABELS, Rng(0, range(3)), model.sampling)
    assert not torch.equal(made[1], made[2])  # something was drawn
    torch.testing.assert_close(made, ours, rtol=1e-3, atol=1e-4)


def test_losses(pair: tuple[ModuleType, ARModel]):
    """Of MAR's in the mean: its head draws another noise for every token, known ones too."""
    theirs, model = pair
    model.network.train()
    tokens = some(model)
    ours = [model.network(model.context(tokens), tokens, LABELS, Rng(seed, range(3), "train"))["loss"].item() for seed in range(40)]
    made = [theirs.loss(model, tokens, LABELS, Rng(seed, range(3), "train")).item() for seed in range(40)]
    if theirs is not mar:
        assert made == pytest.approx(ours, rel=1e-4)
    assert sum(made) == pytest.approx(sum(ours), rel=0.05)


def some(model: ARModel) -> Tensor:
    rng, space = Rng(1, range(3)), model.space
    return rng.normal(space.num_tokens, space.dim) if space.vocab_size is None else rng.integers(space.vocab_size, space.num_tokens)
