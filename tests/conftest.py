"""What the tests share: a small folder of pictures, and recipes shrunk to the size of a test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hub_server import HUB, Hub  # before the zoo: it points huggingface_hub at itself
from PIL import Image
from safetensors.torch import save_file

from argenzoo.build import assemble, build_tokenizer, make_tokenizer
from argenzoo.evaluation.gaussian import Gaussian
from argenzoo.model import ARModel
from argenzoo.recipe import Recipe, list_models, load_recipe

torch.set_num_threads(1)

SMALL = [name for name in list_models() if name.startswith("fruit_")]
CELLS = [name for name in SMALL if load_recipe(name).generator is not None]
TOKENIZERS = [name for name in SMALL if name not in CELLS]
CIFAR = [name for name in list_models() if name.startswith("cifar10_")]
PUBLISHED = [name for name in list_models() if name not in SMALL + CIFAR and load_recipe(name).generator is not None]
PUBLISHED_TOKENIZERS = [name for name in list_models() if name not in SMALL + CIFAR + PUBLISHED]


@pytest.fixture
def hub() -> Hub:
    """The tests' own Hub; repositories of earlier tests may be there, their faults are not."""
    for faults in (HUB.cut, HUB.ill, HUB.private, HUB.gated, HUB.requests):
        faults.clear()
    return HUB


TINY: dict[str, Any] = {"tokenizer.image_size": 16}
TINY_OF: dict[str, dict[str, Any]] = {
    "vq": {"tokenizer.vocab_size": 32},
    "multiscale_vq": {"tokenizer.vocab_size": 32, "tokenizer.scales": [1, 2, 4]},
    "kl": {},
    "raster": {"generator.dim": 32, "generator.depth": 2, "generator.num_heads": 2, "generator.dropout": 0.0},
    "var": {"generator.dim": 32, "generator.depth": 2, "generator.num_heads": 2},
    "mar": {"generator.dim": 32, "generator.depth": 4, "generator.num_heads": 2, "generator.buffer_size": 3, "sampling.order.num_steps": 5},
    "cross_entropy": {"sampling.head": {"top_k": 20}},
    **{head: {"head.width": 32, "head.depth": 2, "sampling.head": {"num_steps": 4}} for head in ("diffusion", "flow")},
}


def tiny(name: str, overrides: dict[str, Any] | None = None) -> Recipe:
    """A recipe of the zoo at test size: 16 px, a 4 x 4 grid, two classes."""
    plain = load_recipe(name)
    parts = [part.name for part in (plain.tokenizer, plain.generator, plain.head) if part is not None]
    changes = {**TINY, **{key: value for part in parts for key, value in TINY_OF[part].items()}}
    if plain.generator is not None:
        changes["conditioner.num_classes"] = 2
    return load_recipe(name, {**changes, **(overrides or {})})


def tiny_model(name: str, overrides: dict[str, Any] | None = None, seed: int = 0) -> ARModel:
    """With every weight drawn at random, so that nothing starts at zero."""
    torch.manual_seed(seed)
    recipe = tiny(name, overrides)
    model = assemble(recipe, make_tokenizer(recipe.tokenizer))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2 if parameter.dim() < 2 else parameter.shape[-1] ** -0.5)
    return model.eval()


def write_pictures(folder: Path, per_class: int = 12, classes: tuple[str, ...] = ("red", "green")) -> Path:
    """Coloured noise, non-square; the classes differ in their channel."""
    rng = np.random.default_rng(0)
    for label, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for i in range(per_class):
            array = rng.integers(0, 90, (20 + i % 3, 24, 3), dtype=np.uint8)
            array[..., label % 3] += 150
            Image.fromarray(array).save(folder / name / f"{i:03d}.png")
    return folder


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("pictures") / "set")


def tiny_training(out: Path, data: Path, **train: Any) -> dict[str, Any]:
    """Overrides that train on ``data`` for a few steps."""
    changes = {
        "steps": 3,
        "batch_size": 4,
        "log_every": 1,
        "eval_every": None,
        "sample_every": None,
        "save_every": None,
        "eval_samples": 4,
        **train,
    }
    return {
        "data": {"name": "folder", "path": str(data), "held_out": 0.2},
        "train.out": str(out),
        **{f"train.{key}": value for key, value in changes.items()},
    }


@pytest.fixture(scope="session")
def inception_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Inception's shapes, drawn at random."""
    from argenzoo.evaluation.inception import blocks

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "inception.safetensors"
    state = {f"{name}.{key}": tensor for name, block in blocks().items() for key, tensor in block.state_dict().items()}
    save_file(state, path)
    return path


@pytest.fixture(scope="session")
def generator_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a tiny generator whose data are a folder."""
    folder = tmp_path_factory.mktemp("generator") / "model"
    tiny_model("fruit_raster", {"data": {"name": "folder", "path": None, "held_out": 0.0}}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tokenizer_runs(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> dict[str, Path]:
    """A trained tiny tokenizer of each kind, by its part's name."""
    from argenzoo.training.trainer import train

    runs = {}
    for name in TOKENIZERS:
        recipe = tiny(name, tiny_training(tmp_path_factory.mktemp("tokenizers") / name, pictures))
        runs[recipe.tokenizer.name] = train(recipe)
        assert build_tokenizer(runs[recipe.tokenizer.name]).space.dim == 8
    return runs


def recipe_for(name: str, runs: dict[str, Path], out: Path, data: Path, overrides: dict[str, Any] | None = None, **settings: Any) -> Recipe:
    """A tiny recipe that trains on ``data`` with its trained tokenizer."""
    plain = tiny(name)
    changes = tiny_training(out, data, **settings)
    if plain.generator is not None:
        changes["tokenizer.weights"] = str(runs[plain.tokenizer.name])
    return tiny(name, {**changes, **(overrides or {})})


def losses(out: Path) -> list[float]:
    """Of every logged step."""
    from argenzoo.training.logs import read_log

    return [entry["loss"] for entry in read_log(out) if entry["event"] == "train"]


@pytest.fixture(scope="session")
def caches(tmp_path_factory: pytest.TempPathFactory, tokenizer_runs: dict[str, Path], pictures: Path) -> dict[str, Path]:
    """A cache for each cell, by its tokenizer's name; ``_vectors`` where it does not quantize."""
    from argenzoo.caching import cache

    made: dict[str, Path] = {}
    for name in CELLS:
        recipe = recipe_for(name, tokenizer_runs, Path("unused"), pictures)
        if (key := cache_name(recipe)) not in made:
            made[key] = tmp_path_factory.mktemp("caches") / key
            cache(recipe, made[key], per_shard=8)
    return made


def cache_name(recipe: Recipe) -> str:
    return recipe.tokenizer.name + ("" if getattr(recipe.tokenizer.config, "quantize", True) else "_vectors")


@pytest.fixture
def quick_distance(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests of what becomes of a distance: the real one takes 4 seconds for 2,048 features, twice an evaluation."""

    def distance(ours: Gaussian, theirs: Gaussian) -> float:
        return float(np.square(ours.mu - theirs.mu).sum() + abs(np.trace(ours.sigma) - np.trace(theirs.sigma)))

    monkeypatch.setattr(Gaussian, "distance", distance)
