"""Studies: cells that are trained once within a budget, measured alike, reported in one page; sweeps; scaling laws."""

from __future__ import annotations

import html
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from conftest import recipe_for
from PIL import Image
from test_processes import launch

from argenzoo.cli import main
from argenzoo.comparison import budget as budgets
from argenzoo.comparison import cells, sections
from argenzoo.comparison.budget import within
from argenzoo.comparison.command import compare, scale, sweep
from argenzoo.comparison.fits import fit, frontier, law
from argenzoo.comparison.scaling import number_of
from argenzoo.comparison.study import Budget, list_studies, load_study
from argenzoo.errors import ArgenzooError
from argenzoo.evaluation.samples import Samples
from argenzoo.evaluation.settings import Settings
from argenzoo.recipe import Recipe, load_recipe, recipe_folder
from argenzoo.summary import cost
from argenzoo.training import once

pytestmark = pytest.mark.usefixtures("quick_distance")

QUIET = {"num": 4, "reference_num": 4, "batch": 4}


@pytest.fixture
def settings(inception_weights: Path, tmp_path: Path) -> Settings:
    return Settings(inception=str(inception_weights), cache=tmp_path / "features")


@pytest.fixture
def recipes(tokenizer_runs: dict[str, Path], pictures: Path, tmp_path: Path) -> dict[str, str]:
    """Two tiny recipes as files, data and tokenizer named."""
    made = {}
    for name in ("fruit_raster", "fruit_mar"):
        recipe = recipe_for(name, tokenizer_runs, tmp_path / "unused", pictures, steps=4)
        (tmp_path / f"{name}.yaml").write_text(recipe.yaml())
        made[name] = str(tmp_path / f"{name}.yaml")
    return made


@pytest.fixture
def study(recipes: dict[str, str], tmp_path: Path) -> str:
    text = f"""
title: Two paradigms
about: What the papers say.
measure: {{num: 4, reference_num: 4, batch: 4}}
cells:
  raster: {{recipe: {recipes["fruit_raster"]}}}
  raster, guided: {{recipe: {recipes["fruit_raster"]}, sampling: {{guidance: 3.0}}}}
  masked: {{recipe: {recipes["fruit_mar"]}, overrides: {{train.lr: 1.0e-3}}}}
"""
    (tmp_path / "study.yaml").write_text(text)
    return str(tmp_path / "study.yaml")


def test_a_study_is_trained_once_and_reported(
    study: str, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pictures: Path
):
    trained: list[str] = []
    train = once.train
    monkeypatch.setattr(once, "train", lambda recipe: trained.append(recipe.name) or train(recipe))
    out = tmp_path / "out"
    text = compare([study], out, {}, {"steps": 2}, {}, settings, print)
    assert trained == ["fruit_raster", "fruit_mar"]
    assert sorted(path.name.partition("-")[0] for path in (out / "samples").iterdir()) == ["fruit_mar", "fruit_raster", "fruit_raster"]
    assert {f"samples_{name}.png" for name in ("masked", "raster", "raster_guided")} <= {path.name for path in (out / "figures").iterdir()}
    page = (out / "report.html").read_text()
    assert not re.search(r"(src|href)=.(?!data:)", page)  # all of it inside
    assert page.count("data:image/png;base64,") == len(list((out / "figures").glob("*.png"))) >= 8
    assert "What the papers say." in page
    assert text == (out / "report.md").read_text()
    assert "| raster, guided | vq, raster, cross_entropy |" in text
    assert "Budget of each training: 2 steps. 4 samples a cell, seed 0, against 4 pictures of folder (training)" in text
    protocol = json.loads(html.unescape(page.rpartition("<pre>")[2].partition("</pre>")[0]))
    assert protocol["protocol"]["reference"]["count"] == 4  # common to all
    assert "recipe" not in protocol
    assert protocol["cells"]["masked"]["recipe"] == "fruit_mar"
    made = json.loads((out / "results.json").read_text())["cells"]
    assert made["raster"]["weights_sha256"] == made["raster, guided"]["weights_sha256"]
    assert made["raster"]["samples"] != made["raster, guided"]["samples"]
    assert made["masked"]["training"]["steps"] == 2
    assert made["raster"]["training"]["flops"] == pytest.approx(2 * 4 * cost(load_study([study], {}, {}, {}).recipe_of("raster")).train)
    assert made["raster"]["protocol"]["reference"]["count"] == 4
    for picture in (out / "figures").glob("*.png"):
        with Image.open(picture) as opened:
            assert opened.width > 50
    trained.clear()
    again = compare([study], out, {}, {"steps": 2}, {}, settings, print)
    assert trained == []
    assert again == text
    with pytest.raises(ArgenzooError, match="holds a study with another budget"):
        compare([study], out, {}, {"steps": 3}, {}, settings, print)
    compare([study], out, {}, {"steps": 3}, {}, replace(settings, overwrite=True), print)
    assert len(list((out / "runs").glob("*/step_*"))) >= 4  # the old trainings stay


def test_two_processes_make_one_report(study: str, settings: Settings, tmp_path: Path):
    """From nothing: caches, trainings, samples, and the budget's probe."""
    words = ["compare", study, "--budget", "1s", "--out", str(tmp_path / "two"), "--cache", str(settings.cache)]
    (tmp_path / "words.json").write_text(json.dumps([*words, "--inception", str(settings.inception)]))
    launch(2, [tmp_path / "words.json"], "argenzoo_main.py")
    made = json.loads((tmp_path / "two" / "results.json").read_text())["cells"]
    assert list(made) == ["raster", "raster, guided", "masked"]
    assert made["raster"]["weights_sha256"] == made["raster, guided"]["weights_sha256"]
    for cell in made.values():
        assert (
            cell["training"]["steps"]
            == json.loads(next((tmp_path / "two" / "runs").glob(f"{cell['recipe']}-*.budget.json")).read_text())["steps"]
        )


def test_a_folder_is_one_studys(study: str, recipes: dict[str, str], settings: Settings, tmp_path: Path):
    """Nothing is lost: neither another study's report, nor pictures that somebody keeps there."""
    out, steps = tmp_path / "out", {"steps": 1}
    with pytest.raises(ArgenzooError, match="no such"):
        compare([study], out, {"tokenizer.weights": str(tmp_path / "mistyped")}, steps, {}, settings, print)
    assert not (out / "study.json").exists()
    (out / "figures").mkdir(parents=True)
    (out / "figures" / "mine.png").write_bytes(b"mine")
    one = [recipes["fruit_raster"]]
    compare(one, out, {}, steps, QUIET, settings, print)
    before = {path.name for path in (out / "figures").iterdir()}
    with pytest.raises(ArgenzooError, match=r"holds another study \(fruit_raster\): choose another --out"):
        compare([recipes["fruit_mar"]], out, {}, steps, QUIET, settings, print)
    compare([recipes["fruit_mar"]], out, {}, steps, QUIET, replace(settings, overwrite=True), print)
    after = {path.name for path in (out / "figures").iterdir()}
    assert {"mine.png", "samples_fruit_mar.png"} <= after
    assert "samples_fruit_raster.png" in before - after


def test_a_report_without_the_checkpoints_data(generator_run: Path, settings: Settings, tmp_path: Path, pictures: Path):
    """A model whose training pictures lie elsewhere: what can be shown is, and the rest has its reason."""
    shutil.copytree(generator_run, tmp_path / "moved")
    for path in (tmp_path / "moved").glob("**/recipe.yaml"):
        path.write_text(path.read_text().replace(str(pictures), str(tmp_path / "gone")))
    text = compare([str(tmp_path / "moved")], tmp_path / "out", {}, {}, {**QUIET, "reference": str(pictures)}, settings, print)
    assert "| KID" in text
    assert "nothing to show (" in (tmp_path / "out" / "report.html").read_text()


def test_what_is_said_last_counts(study: str, recipes: dict[str, str], tmp_path: Path):
    """A cell's section does not drop a key of it that the command line names; settings that a cell would ignore are errors."""
    values = yaml.safe_load(Path(study).read_text())
    values["cells"]["masked"]["overrides"]["tokenizer"] = {"name": "kl", "weights": "theirs", "image_size": 16}
    (tmp_path / "changed.yaml").write_text(yaml.safe_dump(values))
    loaded = load_study([str(tmp_path / "changed.yaml")], {"tokenizer.weights": "mine"}, {}, {})
    assert loaded.recipe_of("masked").tokenizer.weights == "mine"
    with pytest.raises(ArgenzooError, match=r"cell 'raster, guided': sampling\.guidance has no effect"):
        load_study([study], {"sampling.guidance": 2.0}, {}, {})


def test_other_data_are_another_training(recipes: dict[str, str], tmp_path: Path, pictures: Path):
    shutil.copytree(pictures, tmp_path / "other")
    studies = [load_study([recipes["fruit_raster"]], {"data.path": str(path)}, {}, {}) for path in (pictures, tmp_path / "other")]
    assert studies[0].training_of("fruit_raster") != studies[1].training_of("fruit_raster")
    sampled = load_study([recipes["fruit_raster"]], {"data.path": str(pictures), "sampling.guidance": 3.0}, {}, {})
    assert sampled.training_of("fruit_raster") == studies[0].training_of("fruit_raster")  # sampling changes no training


def test_checkpoints_and_recipes_share_one_reference(
    recipes: dict[str, str], generator_run: Path, settings: Settings, tmp_path: Path, pictures: Path
):
    overrides = {"data.path": str(pictures)}
    compare([recipes["fruit_raster"], str(generator_run)], tmp_path / "out", overrides, {"steps": 1}, QUIET, settings, print)
    made = json.loads((tmp_path / "out" / "results.json").read_text())["cells"]
    first, second = (cell["protocol"]["reference"] for cell in made.values())
    assert first == second
    assert first["data"]["part"] == "training"


def test_what_a_late_cell_gets_wrong_is_found_before_the_first_is_trained(
    recipes: dict[str, str], settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def never(recipe: Any) -> None:
        raise AssertionError("trained")

    monkeypatch.setattr(once, "train", never)
    good = {"recipe": recipes["fruit_raster"]}
    for wrong, message in (
        ({"sampling": {"order.nm_steps": 3}}, "order.nm_steps"),
        ({"overrides": {"generator.num_heads": 3}}, "num_heads|heads"),
        ({"overrides": {"tokenizer.weights": None}}, "needs tokenizer.weights"),
        ({"overrides": {"tokenizer.weights": "nowhere"}}, "nowhere"),
        ({"overrides": {"data.path": "nowhere"}}, "nowhere"),
        ({"overrides": {"train.out": "x"}}, "train.out has no effect here"),
        ({"overrides": {"train.steps": 7}}, "train.steps has no effect here"),
    ):
        (tmp_path / "late.yaml").write_text(yaml.safe_dump({"title": "x", "cells": {"first": good, "late": {**good, **wrong}}}))
        with pytest.raises(ArgenzooError, match=message):
            compare([str(tmp_path / "late.yaml")], tmp_path / "out", {}, {"steps": 1}, QUIET, settings, print)


def test_a_reference_that_is_none_is_found_before_anything_is_trained(
    recipes: dict[str, str], settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delattr(once, "train")
    np.savez(tmp_path / "wrong.npz", other=np.zeros(3))
    with pytest.raises(ArgenzooError, match=r"wrong.npz has neither pictures \(arr_0\) nor statistics"):
        compare(
            [recipes["fruit_raster"]],
            tmp_path / "out",
            {},
            {"steps": 1},
            {"num": 4, "reference": str(tmp_path / "wrong.npz")},
            settings,
            print,
        )
    assert not (tmp_path / "out").exists()


def test_what_a_sweep_gets_wrong(recipes: dict[str, str], tmp_path: Path):
    good = {"recipe": recipes["fruit_mar"], "values": {"guidance": [1, 2]}}
    for wrong, message in (
        ({"sweeps": {"a": {**good, "sampling": {"guidance": 3}}}}, "sweep 'a': guidance is fixed too"),
        ({"sweeps": {"a": {**good, "values": {"guidance": []}}}}, "sweep 'a': guidance has no values"),
        ({"sweeps": {"a": {**good, "values": {}}}}, "at least 1 item"),
        ({"sweeps": {"a": good}, "cells": {"a: guidance=2": {"recipe": "fruit_mar"}}}, "there is a cell 'a: guidance=2' already"),
        ({"sweeps": {}}, "without cells"),
    ):
        (tmp_path / "wrong.yaml").write_text(yaml.safe_dump({"title": "x", **wrong}))
        with pytest.raises(ArgenzooError, match=message):
            load_study([str(tmp_path / "wrong.yaml")], {}, {}, {})


def test_a_cache_is_made_once_a_tokenizer(study: str, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """And read through once: for the second cell of a tokenizer nothing is verified again."""
    loaded = load_study([study], {}, {"steps": 1}, {})
    made: set[Path] = set()
    places, cache = [], cells.cache
    monkeypatch.setattr(cells, "cache", lambda recipe, place: places.append(place) or cache(recipe, place))
    first, second = (cells.cached(loaded.recipe_of(name), tmp_path / "caches", made) for name in ("raster", "raster, guided"))
    assert len(places) == 1
    assert first.data is not None
    assert second.data is not None
    assert first.data.config.cache == second.data.config.cache
    masked = cells.cached(loaded.recipe_of("masked"), tmp_path / "caches", made)
    assert len(places) == 2
    assert masked.data is not None
    assert masked.data.config.cache != first.data.config.cache


def test_budgets_become_steps(recipes: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    recipe = load_study([recipes["fruit_raster"]], {}, {}, {}).recipe_of("fruit_raster")
    assert recipe.train is not None

    def steps(run: str = "run", **budget: float) -> int:
        given = Budget.parse(budget, "budget")
        budgets.measured({tmp_path / run: recipe}, given)
        made = within(recipe, given, tmp_path / run).train
        assert made is not None
        assert made.out == str(tmp_path / run)
        return made.steps or 0

    assert steps() == 4
    assert steps(steps=7) == 7
    assert steps(flops=10.5 * cost(recipe).train * recipe.train.batch_size) == 10
    monkeypatch.setattr("argenzoo.comparison.budget.PROBE", 8)
    first = steps(seconds=20.0)
    assert first > 4
    assert sorted(path.name for path in tmp_path.glob("run*")) == ["run.budget.json"]
    monkeypatch.setattr("argenzoo.comparison.budget.images_per_second", lambda recipe, folder: [1.0])
    assert steps(seconds=20.0) == first  # measured once
    assert steps("other", seconds=20.0) == 5
    assert steps("other", seconds=40.0) == 10
    with pytest.raises(ArgenzooError, match="less than one step"):
        steps("less", seconds=0.5)


def test_trainings_are_timed_in_turn(recipes: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A machine that is slow for a while is slow for all of them."""
    order: list[str] = []
    speeds = iter([4.0, 8.0, 1.0, 2.0, 4.0, 8.0])  # the second round is slow
    monkeypatch.setattr(budgets, "images_per_second", lambda recipe, folder: order.append(folder.name) or [next(speeds)])
    trainings = {tmp_path / name: load_study([recipes[name]], {}, {}, {}).recipe_of(name) for name in recipes}
    budgets.measured(trainings, Budget.parse({"seconds": 80.0}, "budget"))
    assert order == [f"{name}.probe" for name in recipes] * 3
    steps = [json.loads((tmp_path / f"{name}.budget.json").read_text())["steps"] for name in recipes]
    assert steps == [80, 160]


def test_a_sweep_is_a_study_of_one_checkpoint(generator_run: Path, settings: Settings, tmp_path: Path, pictures: Path):
    values: dict[str, list[Any]] = {"guidance": [1, 2], "head.temperature": [0.8, 1.0]}
    text = sweep(str(generator_run), tmp_path / "out", values, {"data.path": str(pictures)}, QUIET, settings, print)
    assert text.count("\n| guidance=") == 4
    assert (tmp_path / "out" / "figures" / "sweep_kid.png").is_file()
    made = json.loads((tmp_path / "out" / "results.json").read_text())["cells"]
    assert made["guidance=2, head.temperature=0.8"]["sampling"]["guidance"] == 2
    assert "training FLOPs" not in text  # nothing is known of it


def test_a_studys_sweeps_share_a_training(recipes: dict[str, str], settings: Settings, tmp_path: Path):
    """Cells and sweeps in one report; figures are over the first key, a line for every value of the other."""
    values = {"guidance": [1, 2], "order.num_steps": [2, 4]}
    sweeps = {
        "steps": {"recipe": recipes["fruit_mar"], "values": values},
        "alone": {"recipe": recipes["fruit_mar"], "values": {"guidance": [3]}},
    }
    made = {"title": "Sweeps", "cells": {"plain": {"recipe": recipes["fruit_mar"]}}, "sweeps": sweeps}
    (tmp_path / "swept.yaml").write_text(yaml.safe_dump(made, sort_keys=False))
    study = load_study([str(tmp_path / "swept.yaml")], {}, {"steps": 1}, {})
    assert study.lines["steps: order.num_steps=4"] == ["steps: guidance=1, order.num_steps=4", "steps: guidance=2, order.num_steps=4"]
    assert list(study.lines) == ["plain", "steps: order.num_steps=2", "steps: order.num_steps=4", "alone"]
    text = compare([str(tmp_path / "swept.yaml")], tmp_path / "out", {}, {"steps": 1}, QUIET, settings, print)
    assert text.count("\n| steps: guidance=") == 4
    assert len(list((tmp_path / "out" / "runs").iterdir())) == 1
    figures = {path.name for path in (tmp_path / "out" / "figures").iterdir()}
    assert {"sweep_steps_kid.png", "sweep_alone_precision.png", "recall_seconds.png", "precision_flops.png"} <= figures


def test_studies_can_share_trainings_and_samples(
    recipes: dict[str, str], settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The second one encodes and samples nothing; other sampling or another count is sampled anew."""
    sampled: list[int] = []
    make = Samples.sampled
    monkeypatch.setattr(Samples, "sampled", lambda self, model, indices: sampled.append(len(indices)) or make(self, model, indices))
    for name in ("one", "two"):
        compare([recipes["fruit_raster"]], tmp_path / name, {}, {"steps": 1}, QUIET, settings, print, tmp_path / "shared")
    assert sum(sampled) == QUIET["num"]
    for name, overrides, measure in (("three", {"sampling.guidance": 2.5}, QUIET), ("four", {}, {**QUIET, "num": QUIET["num"] + 1})):
        compare([recipes["fruit_raster"]], tmp_path / name, overrides, {"steps": 1}, measure, settings, print, tmp_path / "shared")
    assert sum(sampled) == 3 * QUIET["num"] + 1
    made = [json.loads((tmp_path / name / "results.json").read_text())["cells"]["fruit_raster"] for name in ("one", "two")]
    assert made[0]["weights_sha256"] == made[1]["weights_sha256"]
    assert made[0]["training"]["seconds"] == made[1]["training"]["seconds"] > 0
    assert {path.name for path in (tmp_path / "two").iterdir()} & {"runs", "caches"} == set()


def test_a_tokenizer_is_shown_once(monkeypatch: pytest.MonkeyPatch):
    """Every training keeps a file of its own, whose hash tells who wrote it; what it gives back is the same."""
    names = {"raster": b"vq", "masked": b"vq", "next scale": b"pyramid"}
    outcomes = [SimpleNamespace(name=name, evaluation={"tokenizer_sha256": name}, recipe=load_recipe("fruit_vq")) for name in names]
    monkeypatch.setattr(sections, "tokenizer_of", lambda outcome: "vq")
    monkeypatch.setattr(sections, "given_back", lambda outcome, name: names[outcome.name])
    assert [picture.png for picture in sections.reconstructions(outcomes).pictures] == [b"vq", b"pyramid"]


def test_seconds_are_of_the_steps(recipes: dict[str, str]):
    """Once each, also where a killed run repeated some; evaluations between them are not among them."""
    recipe = load_study([recipes["fruit_raster"]], {}, {"steps": 1}, {}).recipe_of("fruit_raster")
    assert recipe.train is not None
    rate = float(recipe.train.batch_size)  # a step a second
    train = [{"event": "train", "step": step, "images_per_second": rate / slow} for step, slow in ((2, 1), (4, 1), (6, 10), (6, 1))]
    log = [{"event": "start", "step": 0}, *train[:2], {"event": "held_out", "step": 4, "seconds": 99.0}, train[2]]
    log += [{"event": "start", "step": 4}, train[3], {"event": "end", "step": 6, "seconds": 500.0}]
    outcome = cells.Outcome("x", cells.Cell.parse({}, "cell"), recipe, "x", Path(), log, {}, cost(recipe), {})
    assert outcome.training_seconds == pytest.approx(6.0)


def test_scaling_trains_a_ladder_and_fits(recipes: dict[str, str], settings: Settings, tmp_path: Path):
    ladder = {"generator.dim": [32, 48, 64], "generator.depth": [1, 2, 2]}
    text = scale(recipes["fruit_raster"], tmp_path / "out", ladder, {}, {"steps": 8}, QUIET, settings, print)
    found = json.loads((tmp_path / "out" / "scaling.json").read_text())
    assert {(entry["measure"], entry["over"]) for entry in found} == {
        (measure, axis) for measure in ("loss", "token error") for axis in ("parameters", "tokens", "training FLOPs")
    }
    over_sizes = next(entry for entry in found if (entry["measure"], entry["over"]) == ("loss", "parameters"))
    assert len(over_sizes["points"]) == 3
    assert over_sizes["fits"]["power law"]["degrees_of_freedom"] == 1
    assert "| dim 48, depth 2 |" in text
    assert "| loss | parameters | power law |" in text


def test_fits_find_the_law():
    x = np.geomspace(1e5, 1e9, 12)
    found = fit(x, (3e-6 * x) ** -0.2)
    assert (found.alpha, found.log_beta) == pytest.approx((-0.2, np.log10(3e-6)), rel=1e-6)
    assert found.correlation == pytest.approx(-1)
    floored = fit(x, 1.5 + (3e-6 * x) ** -0.2, irreducible=True)
    assert (floored.alpha, floored.floor, floored.log_beta) == pytest.approx((-0.2, 1.5, np.log10(3e-6)), rel=1e-3)
    np.testing.assert_allclose(floored.at(x), 1.5 + (3e-6 * x) ** -0.2, rtol=1e-6)
    assert fit([1.0, 10.0], [2.0, 1.0]).band(x) is None
    for wrong in (([1.0], [1.0]), ([1.0, 1.0], [1.0, 2.0]), ([1.0, 2.0], [0.0, 1.0])):
        with pytest.raises(ArgenzooError):
            fit(*wrong)
    with pytest.raises(ArgenzooError, match="2 points can't fix a law of 3 parameters"):
        fit([1.0, 2.0], [2.0, 1.0], irreducible=True)


@pytest.mark.parametrize("irreducible", [False, True])
def test_bands_cover_the_truth(irreducible: bool):
    """95 % bands at a point between the others, over many noisy ladders."""
    rng, x, floor = np.random.default_rng(0), np.geomspace(1e5, 1e8, 9), 1.0 * irreducible
    truth, inside, at = floor + (1e-5 * x) ** -0.3, 0, np.array([3e6])
    for _ in range(100):
        noisy = truth * np.exp(0.01 * rng.standard_normal(len(x)))
        band = fit(x, noisy, irreducible).band(at)
        assert band is not None
        inside += bool(band[0][0] < floor + (1e-5 * at[0]) ** -0.3 < band[1][0])
    assert 88 <= inside <= 100


def test_frontier_keeps_what_nothing_cheaper_equals():
    assert number_of("scale_10_13x13") > number_of("scale_9_10x10")
    assert frontier([(3, 1.0), (1, 3.0), (2, 3.5), (4, 0.5), (5, 0.5)]) == [(1, 3.0), (3, 1.0), (4, 0.5)]
    assert law(np.zeros(1), 0.0, -1.0, 2.0) == pytest.approx([3.0])


@pytest.mark.parametrize("name", list_studies())
def test_the_zoos_studies_can_be_built(name: str):
    """Every cell's recipe resolves; tokenizers' weights and data are named on the command line."""
    study = load_study([name], {}, {}, {})
    assert study.about
    networks: dict[str, Recipe] = {}
    for cell in study.cells:
        recipe = study.recipe_of(cell)
        assert recipe.tokenizer.weights is not None
        assert (recipe_folder().parent / recipe.tokenizer.weights / "model.safetensors").is_file()
        networks[str((recipe.generator, recipe.head))] = recipe
    assert all(cost(recipe).train > 0 for recipe in networks.values())


MISTAKES = [
    (["compare", "cifar10_rastr"], "did you mean 'cifar10_raster'"),
    (["compare", "fruit_vq"], "is a tokenizer's; 'argenzoo evaluate' measures those"),
    (["compare", "fruit_raster", "generator.dpth=2"], "did you mean 'depth'"),
    (["compare", "fruit_raster", "--budget", "soon"], "--budget soon: expected such as 2000steps"),
    (["compare", "fruit_raster", "--budget", "2.5steps"], "--budget 2.5steps: expected such as 2000steps"),
    (["compare", "fruit_raster", "--num", "1"], "greater than or equal to 2"),
    (["compare", "fruit_raster", "--protocol", "x"], "--protocol x: no such protocol"),
    (["compare", "cifar10_cells", "fruit_raster"], "is a study of its own: compare it alone"),
    (["compare", "fruit_raster", "fruit_raster"], "is named twice"),
    (["compare", "{generator}", "--budget", "5steps"], "'--budget' has no effect: nothing here is trained"),
    (["compare", "{generator}", "head.depth=2"], "'head.depth' has no effect: nothing here is trained"),
    (["compare", "fruit_raster", "train.save_every=5"], "train.save_every has no effect here"),
    (["compare", "a=b"], "name a study, or recipes and checkpoints"),
    (["sweep", "{generator}", "guidance=2"], "nothing to sweep"),
    (["sweep", "nowhere", "guidance=1,2"], "neither a folder nor a recipe"),
    (["scaling", "fruit_raster", "generator.dim=32,64"], "a ladder of 2 sizes shows no law"),
    (["scaling", "fruit_raster", "generator.dim=32,64,96", "generator.depth=1,2"], "as many values of each key"),
    (["scaling", "fruit_raster"], "is one size: give a ladder"),
]


@pytest.mark.parametrize(("arguments", "message"), MISTAKES)
def test_mistakes_are_one_line(
    arguments: list[str], message: str, tmp_path: Path, generator_run: Path, inception_weights: Path, capsys: pytest.CaptureFixture
):
    words = [argument.format(generator=generator_run) for argument in arguments]
    assert main([*words, "--out", str(tmp_path / "out"), "--inception", str(inception_weights)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("argenzoo: error") == 1
