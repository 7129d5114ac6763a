"""The committed tokenizers of CIFAR-10 are what their hashes say, fit their recipes, and work."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import CIFAR
from safetensors.torch import load_file

from argenzoo.build import build_tokenizer
from argenzoo.checkpoint import MODEL, RECIPE
from argenzoo.data.images import to_unit
from argenzoo.recipe import load_recipe
from argenzoo.weights import sha256

WEIGHTS = Path(__file__).parents[1] / "benchmarks" / "weights"
SUMS = {line.split()[1].split("/")[0]: line.split()[0] for line in (WEIGHTS / "SHA256SUMS").read_text().splitlines()}
LARGEST = 5_000_000  # bytes


def test_every_folder_has_its_hash():
    assert sorted(SUMS) == sorted(path.name for path in WEIGHTS.iterdir() if path.is_dir())


@pytest.mark.parametrize("name", sorted(SUMS))
def test_files_are_small_whole_and_half_precision(name: str):
    path = WEIGHTS / name / MODEL
    assert sha256(path) == SUMS[name]
    assert path.stat().st_size <= LARGEST
    kinds = {key: tensor.dtype for key, tensor in load_file(path).items()}
    assert {kind for key, kind in kinds.items() if not key.startswith("scale.")} == {torch.float16}


@pytest.mark.parametrize("name", sorted(set(SUMS) & set(CIFAR)))
def test_they_are_the_recipes(name: str):
    """The same architecture, losses, data and training but for its precision, and nothing of the machine that made them."""
    recipe, made = load_recipe(name), load_recipe(WEIGHTS / name / RECIPE)
    assert (made.tokenizer.name, made.tokenizer.config) == (recipe.tokenizer.name, recipe.tokenizer.config)
    assert made.train is not None
    assert made.with_train(precision="fp32").train == recipe.train
    assert (made.loss, made.codebook, made.data) == (recipe.loss, recipe.codebook, recipe.data)


@pytest.mark.parametrize("name", sorted(SUMS))
@torch.no_grad()
def test_they_reconstruct(name: str):
    """A hazy sky comes back better than 25 dB, from the tokens alone."""
    tokenizer = build_tokenizer(WEIGHTS / name)
    _, down = torch.meshgrid(torch.arange(32), torch.arange(32), indexing="xy")
    picture = torch.stack([90 + 3 * down, 110 + 3 * down, 150 + 2 * down])[None].byte()
    unit = to_unit(picture)
    made = tokenizer.decode(tokenizer.tokens(tokenizer.encode(unit))).clamp(-1, 1)
    assert -10 * ((made - unit) / 2).square().mean().log10() > 25


def test_generators_of_the_comparison_start_from_them():
    """Every cell of CIFAR-10 can name one of these as tokenizer.weights."""
    for name in CIFAR:
        part = load_recipe(name).tokenizer
        made = [folder for folder in SUMS if load_recipe(WEIGHTS / folder / RECIPE).tokenizer.name == part.name and folder in CIFAR]
        assert made, name
        for folder in made:
            assert build_tokenizer(load_recipe(name, {"tokenizer.weights": str(WEIGHTS / folder)})).space.dim == part.config.dim
