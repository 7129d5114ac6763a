"""Recipes are complete, typed, and say what is wrong in one line."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from conftest import CIFAR, PUBLISHED, PUBLISHED_TOKENIZERS

import argenzoo
from argenzoo.build import assemble, make_tokenizer
from argenzoo.errors import ArgenzooError
from argenzoo.recipe import list_models, load_recipe, parse_overrides, parse_recipe, recipe_folder
from argenzoo.registry import tokenizers
from argenzoo.summary import parameters_by_part
from argenzoo.training.player import make_optimizer

# as published, in millions, without the tokenizer, with the head; d24, d30 and d36 by the real count (the last is quoted as 2.3B)
MILLIONS = {
    "llamagen_b_256": 111,
    "llamagen_l_256": 343,
    "llamagen_b_384": 111,
    "llamagen_l_384": 343,
    "llamagen_xl_384": 775,
    "llamagen_xxl_384": 1411,
    "llamagen_3b_384": 3100,
    "llamagen_xl_t2i_256": 775,
    "llamagen_xl_t2i_512": 775,
    "var_d16": 310,
    "var_d20": 600,
    "var_d24": 1033,
    "var_d30": 2010,
    "var_d36": 2354,
    "mar_b": 208,
    "mar_l": 479,
    "mar_h": 943,
}
TABLE1 = [f"mar_table1_{order}_{head}" for order in ("raster", "random", "masked") for head in ("ce", "diffusion")]
PUBLISHED_TOKENIZERS_MILLIONS = {"vq16": 71.9, "vq8": 70.1, "msvq16": 108.9, "kl16": 66.5}
TOKENIZER_MILLIONS = {"vq": 71.9, "multiscale_vq": 108.9, "kl": 66.5}


@pytest.mark.parametrize("name", list_models())
def test_round_trip_and_header(name: str):
    recipe = load_recipe(name)
    assert parse_recipe(yaml.safe_load(recipe.yaml())) == recipe
    header = [line for line in (recipe_folder() / f"{name}.yaml").read_text().splitlines() if line.startswith("#")]
    assert any(line.startswith("# Command: ") and f"recipe={name}" in line for line in header)
    assert any("arXiv" in line for line in header)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_recipes_say_what_to_expect(name: str):
    header = [line for line in (recipe_folder() / f"{name}.yaml").read_text().splitlines() if line.startswith("#")]
    for word in ("# Paper: arXiv 24", "Expected FID", "# Cost: ", "GPU hours"):
        assert any(word in line for line in header), word


@pytest.mark.parametrize("name", PUBLISHED_TOKENIZERS)
def test_published_tokenizers_say_what_to_expect(name: str):
    header = [line for line in (recipe_folder() / f"{name}.yaml").read_text().splitlines() if line.startswith("#")]
    for word in (
        "# Paper: arXiv 24",
        "Expected rFID-50k (256 px): ",
        "# Cost: ",
        "GPU hours",
        f"evaluate {name} tokenizer.weights=pretrained",
    ):
        assert any(word in line for line in header), word


@pytest.mark.parametrize("name", PUBLISHED_TOKENIZERS)
def test_published_tokenizers_are_those_of_the_generators(name: str):
    """The same architecture, file and hash as where a generator names them; everything the zoo adds is off."""
    recipe = load_recipe(name)
    assert parameters_by_part(recipe)["total"] / 1e6 == pytest.approx(PUBLISHED_TOKENIZERS_MILLIONS[name], rel=0.005)
    assert recipe.codebook is None
    assert "entropy" not in recipe.loss
    assert recipe.loss["adversarial"].norm == "batch"
    same = [load_recipe(other) for other in PUBLISHED if load_recipe(other).pretrained]
    same = [other for other in same if other.pretrained.tokenizer.file == recipe.pretrained.tokenizer.file]
    assert same or name == "vq8"
    for other in same:
        free = {"image_size", "scales", "latent_scale"}
        assert other.tokenizer.config.model_dump(exclude=free) == recipe.tokenizer.config.model_dump(exclude=free)
        assert other.pretrained.tokenizer == recipe.pretrained.tokenizer


def test_every_published_model_has_a_recipe():
    assert sorted([*MILLIONS, *TABLE1]) == sorted(PUBLISHED)
    assert sorted(PUBLISHED_TOKENIZERS_MILLIONS) == sorted(PUBLISHED_TOKENIZERS)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_parameter_counts(name: str):
    counts = parameters_by_part(load_recipe(name))
    millions = (counts["total"] - counts["tokenizer"]) / 1e6
    assert millions == pytest.approx(MILLIONS.get(name, 436), rel=0.02 if name in MILLIONS else 0.03)  # table 1: six of one size
    assert counts["tokenizer"] / 1e6 == pytest.approx(TOKENIZER_MILLIONS[load_recipe(name).tokenizer.name], rel=0.005)


def test_the_six_cells_on_cifar10_have_one_size():
    cells = [load_recipe(name) for name in CIFAR if load_recipe(name).generator is not None]
    assert {(cell.generator.name, cell.head.name) for cell in cells} >= {
        (generator, head) for generator in ("raster", "var", "mar") for head in ("cross_entropy", "diffusion")
    }
    counts = [parameters_by_part(cell) for cell in cells]
    assert all(count["total"] - count["tokenizer"] == pytest.approx(2.56e6, rel=0.03) for count in counts)
    assert all(count["tokenizer"] == pytest.approx(0.79e6, rel=0.05) for count in counts)


def test_table_1_is_one_set_of_trainings():
    """Only order, head and what they need may differ (appendix B: the schedule too)."""
    recipes = [load_recipe(name) for name in TABLE1]
    assert len({recipe.data for recipe in recipes}) == 1
    trains = {recipe.train.model_copy(update={"no_decay": (), "schedule": "constant"}) for recipe in recipes}  # cosine with cross-entropy
    assert len(trains) == 1
    assert {recipe.sampling.guidance for recipe in recipes} == {recipes[0].sampling.guidance}


@pytest.mark.parametrize("name", PUBLISHED)
def test_decay_groups_name_real_parameters(name: str):
    recipe = load_recipe(name)
    with torch.device("meta"):
        network = assemble(recipe, make_tokenizer(recipe.tokenizer)).network
    optimizer = make_optimizer(network, recipe.train)
    assert sum(p.numel() for group in optimizer.param_groups for p in group["params"]) == sum(p.numel() for p in network.parameters())
    assert all(p.dim() >= 2 for group in optimizer.param_groups if group["decays"] for p in group["params"])


def test_overrides():
    recipe = load_recipe("mar_b", {"head.depth": 3, "train.lr": "1e-4", "sampling.order.num_steps": 64})
    assert recipe.head.config.depth == 3
    assert recipe.train.lr == 1e-4
    assert recipe.sampling.order.num_steps == 64
    assert load_recipe("mar_b", {"train.steps": 7}).train.epochs is None
    assert parse_overrides(["train.lr=1e-4", "train.clip=null", "tokenizer.weights=runs/vq"]) == {
        "train.lr": "1e-4",
        "train.clip": None,
        "tokenizer.weights": "runs/vq",
    }


def test_naming_another_part_drops_the_old_ones_keys():
    recipe = load_recipe("mar_b", {"head.name": "cross_entropy", "sampling.head": None, "tokenizer.name": "vq"})
    assert recipe.head.config.init_std == 0.0
    assert recipe.tokenizer.config.vocab_size == 16384


@pytest.mark.parametrize(
    ("name", "overrides", "words"),
    [
        ("var_d21", {}, ["unknown recipe 'var_d21'", "var_d20"]),
        ("var_d20", {"train.learning": 1}, ["unknown key 'train.learning'", "choices"]),
        ("var_d20", {"trian.lr": 1}, ["trian", "did you mean 'train'"]),
        ("var_d20", {"train.lr": "fast"}, ["train.lr", "'fast'"]),
        ("var_d20", {"train.lr": -1}, ["train.lr", "greater than 0", "-1"]),
        ("var_d20", {"generator.deth": 3}, ["generator.deth", "did you mean 'depth'"]),
        ("var_d20", {"generator.name": "va"}, ["unknown generator 'va'", "did you mean 'var'"]),
        ("var_d20", {"sampling.head.topk": 3}, ["sampling.head.topk", "did you mean 'top_k'"]),
        ("var_d20", {"sampling.gidance": 3}, ["sampling.gidance", "did you mean 'guidance'"]),
        ("var_d20", {"train.epochs": None}, ["either steps or epochs"]),
        ("nowhere.yaml", {}, ["no recipe file nowhere.yaml"]),
    ],
)
def test_mistakes_name_the_nearest_right_thing(name: str, overrides: dict, words: list[str]):
    with pytest.raises(ArgenzooError) as caught:
        load_recipe(name, overrides)
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_are_no_recipes(tmp_path: Path):
    for text in ("- 1\n- 2\n", "a: [1", ""):
        (tmp_path / "x.yaml").write_text(text)
        with pytest.raises(ArgenzooError, match=r"no recipe|no YAML"):
            load_recipe(tmp_path / "x.yaml")


def test_public_names():
    assert "mar_b" in argenzoo.list_models()
    assert tokenizers.names() == ["kl", "multiscale_vq", "vq"]
    with pytest.raises(ArgenzooError, match="build_tokenizer"):
        argenzoo.build_model("fruit_vq")
    with pytest.raises(ArgenzooError, match="neither a folder nor a recipe; did you mean 'mar_b'"):
        argenzoo.build_model("mar_bb")


def test_overrides_stay_the_callers():
    """A section that is given whole, and one key of it: the next recipe of the same dict must not see that key."""
    plain = {"loss": {"l2": 1.0, "codebook": 1.0, "commitment": 0.25}}
    assert load_recipe("fruit_vq", {**plain, "loss.entropy": 0.05}).loss == {**plain["loss"], "entropy": 0.05}
    assert load_recipe("fruit_vq", plain).loss == {"l2": 1.0, "codebook": 1.0, "commitment": 0.25}
