"""A new part is one class and one line: CONTRIBUTING's example runs, and a generator registered here works in every cell it allows."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from conftest import CELLS, tiny, tiny_training
from torch import nn

from argenzoo.build import build_model
from argenzoo.errors import ArgenzooError
from argenzoo.layers.embed import token_embedding
from argenzoo.registry import Config as PartConfig
from argenzoo.registry import Registry, generators
from argenzoo.training.trainer import train

EXAMPLE = Path(__file__).parents[1] / "CONTRIBUTING.md"


class Backwards(nn.Module):
    """From the last position to the first, by a recurrent network."""

    class Config(PartConfig):
        dim: int = 24

    class Sampling(PartConfig):
        pass

    def __init__(self, config, space):
        super().__init__()
        if len(space.scales) != 1:
            raise ArgenzooError("generator 'backwards' needs a single grid: use a vq or kl tokenizer")
        self.dim, self.space = config.dim, space
        self.embed = token_embedding(space, config.dim)
        self.cell = nn.GRU(config.dim, config.dim, batch_first=True)

    def forward(self, context, condition, rng=None):
        x = torch.cat([condition.tokens, self.embed(context.flip(1)[:, :-1])], dim=1)
        return self.cell(x)[0].flip(1), torch.ones(context.shape[:2], dtype=torch.bool)

    def order(self, batch, known=None, rng=None, options=None) -> Iterator[torch.Tensor]:
        yield from torch.arange(self.space.num_tokens).flip(0).split(1)

    def start(self, condition, batch, known=None, options=None):
        return {"condition": condition, "hidden": None}

    def step(self, state, context, positions):
        first = state["hidden"] is None
        x = state["condition"].tokens if first else self.embed(context[:, positions + 1])
        z, state["hidden"] = self.cell(x, state["hidden"])
        return z


@pytest.fixture
def registered() -> Iterator[None]:
    generators.register("backwards")(Backwards)
    yield
    del generators._parts["backwards"]


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize("name", CELLS)
def test_a_registered_generator_trains_and_samples(name: str, tokenizer_runs: dict[str, Path], pictures: Path, tmp_path: Path):
    base = tiny(name)
    overrides = {
        **tiny_training(tmp_path / "run", pictures),
        "generator": {"name": "backwards"},
        "sampling.order": {},
        "tokenizer.weights": str(tokenizer_runs[base.tokenizer.name]),
    }
    recipe = tiny(name, overrides)
    if base.tokenizer.name == "multiscale_vq":
        with pytest.raises(ArgenzooError, match="use a vq or kl tokenizer"):
            train(recipe)
        return
    model = build_model(train(recipe))
    assert model.generate([0, 1], 2.0).shape == (2, 3, 16, 16)


def test_registry_refuses_mistakes():
    registry = Registry("generator", {"raster": "argenzoo.generators.raster:Raster"})
    with pytest.raises(ArgenzooError, match="'raster' is already registered"):
        registry.register("raster")(Backwards)
    with pytest.raises(ArgenzooError, match="needs a class attribute Config"):
        registry.register("plain")(object)
    with pytest.raises(ArgenzooError, match="unknown generator 'rastr'; did you mean 'raster'"):
        registry.get("rastr")


def test_contributing_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    blocks = re.findall(r"```python\n(.*?)```", EXAMPLE.read_text(), re.DOTALL)
    assert blocks
    monkeypatch.chdir(tmp_path)
    scope: dict = {}
    before = dict(generators._parts)
    try:
        for block in blocks:
            exec(compile(block, str(EXAMPLE), "exec"), scope)
        assert scope["pictures"].shape == (2, 3, 32, 32)
    finally:
        generators._parts = before
