"""A cell of a study: its cache, its training, its samples' figures. What is trained or sampled already is left."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from argenzoo.build import PRETRAINED, build_tokenizer, find
from argenzoo.caching import cache
from argenzoo.checkpoint import EVALUATION
from argenzoo.comparison.budget import countable, measured, within
from argenzoo.comparison.study import Cell, Study, short
from argenzoo.device import checked_device
from argenzoo.errors import ArgenzooError
from argenzoo.evaluation.generator import Referring, compared_with, evaluate_generator
from argenzoo.evaluation.inception import Inception, find_weights, load_inception
from argenzoo.evaluation.reference import Reference
from argenzoo.evaluation.settings import Settings
from argenzoo.recipe import Recipe
from argenzoo.registry import datasets
from argenzoo.sampling.command import planned
from argenzoo.summary import Cost, cost, parameters_by_part, parts_of
from argenzoo.training.logs import read_log
from argenzoo.training.once import train_once

Say = Callable[[str], object]


@dataclass(frozen=True)
class Outcome:
    """What a cell has to show.

    Args:
        source: the run or checkpoint that was sampled.
        folder: evaluation.json and grid.png; cells that are sampled alike share it.
        log: the training's; empty for a checkpoint from elsewhere.
        evaluation: the JSON's content.
    """

    name: str
    cell: Cell
    recipe: Recipe
    source: str
    folder: Path
    log: list[dict[str, Any]]
    evaluation: dict[str, Any]
    cost: Cost
    parameters: dict[str, int]

    @property
    def network_parameters(self) -> int:
        return self.parameters["total"] - self.parameters["tokenizer"]

    @property
    def end(self) -> dict[str, Any]:
        """The last entry of the log, or nothing."""
        return next((entry for entry in reversed(self.log) if entry["event"] == "end"), {})

    @property
    def training_flops(self) -> float | None:
        """Of all steps: the network's, without the tokenizer's."""
        steps = self.end.get("steps")
        return None if steps is None or self.recipe.train is None else steps * self.recipe.train.batch_size * self.cost.train

    @property
    def training_seconds(self) -> float | None:
        """Of the optimizer's steps, without evaluations and checkpoints: what a budget of seconds is about. Every step counts once."""
        if self.recipe.train is None:
            return None
        seconds, at = {}, 0
        for entry in self.log:
            if entry["event"] == "train":
                seconds[entry["step"]] = (entry["step"] - at) * self.recipe.train.batch_size / entry["images_per_second"]
            at = entry["step"] if entry["event"] in ("start", "train") else at
        return sum(seconds.values()) or None

    def held_out(self, name: str = "held_out_loss") -> list[tuple[int, float]]:
        """(step, value) of every evaluation."""
        last = {entry["step"]: entry[name] for entry in self.log if entry["event"] == "held_out" and entry.get(name) is not None}
        return sorted(last.items())  # a run that was killed says a step twice


@dataclass(frozen=True)
class Planned:
    """Every cell's recipe, and what all are compared with."""

    recipes: dict[str, Recipe]
    referring: Referring


def plan(study: Study, settings: Settings) -> Planned:
    """Nothing is written yet.

    Raises:
        ArgenzooError: a cell that can't be trained or sampled: now, and not after the cells before it.
    """
    recipes = {
        name: study.recipe_of(name) if cell.checkpoint is None else find(cell.checkpoint, study.data)[0]
        for name, cell in study.cells.items()
    }
    ready(study, recipes, settings)
    first = next(iter(recipes.values()))
    return Planned(recipes, once_a_size(compared_with(first, {}, replace(settings, **study.measure.model_dump()))))


def run(study: Study, planned: Planned, shared: Path, settings: Settings, say: Say) -> list[Outcome]:
    """Every cell's outcome: trained and sampled below ``shared`` where it is missing, against one reference."""
    recipes = {name: planned.recipes[name] for name, cell in study.cells.items() if cell.checkpoint is None}
    made: set[Path] = set()
    recipes = {name: cached(recipe, shared / "caches", made) if study.cache else recipe for name, recipe in recipes.items()}
    runs = {name: shared / "runs" / study.training_of(name) for name in recipes}
    measured({runs[name]: recipe for name, recipe in recipes.items()}, study.budget)
    outcomes = []
    for name, cell in study.cells.items():
        say(f"{name}:")
        if name in recipes:
            train_once(within(recipes[name], study.budget, runs[name]), say)
        source = cell.checkpoint or str(runs[name])
        outcomes.append(evaluated(study, name, planned, source, shared / "samples", settings))
    return outcomes


def read_reference(study: Study, planned: Planned, settings: Settings) -> None:
    """Raises ArgenzooError where a file is no reference for every cell: now, and not after the first training."""
    if study.measure.reference is not None and Path(study.measure.reference).is_file():
        inception = load_inception(settings.inception, checked_device(settings.device))
        for recipe in planned.recipes.values():
            planned.referring(study.measure.resize or parts_of(recipe)[0].image_size, inception)


def once_a_size(referring: Referring) -> Referring:
    """The same reference for every cell of a size: not made, or read, once a cell."""
    made: dict[tuple[int, str], Reference] = {}

    def once(size: int, inception: Inception) -> Reference:
        key = size, inception.sha256
        if key not in made:
            made[key] = referring(size, inception)
        return made[key]

    return once


def ready(study: Study, recipes: dict[str, Recipe], settings: Settings) -> None:
    """Raises ArgenzooError where a cell can't be trained or sampled: now, and not after the cells before it."""
    find_weights(settings.inception)
    opened: set[str] = set()
    for name, cell in study.cells.items():
        recipe = recipes[name]
        planned(recipe, None, cell.sampling)
        if cell.recipe is None:
            continue
        weights, data = recipe.tokenizer.weights, recipe.data
        if weights is None or data is None or recipe.train is None:
            missing = "tokenizer.weights" if weights is None else "a data section" if data is None else "a train section"
            raise ArgenzooError(f"cell '{name}': recipe '{recipe.name}' needs {missing} to be trained")
        countable(recipe, study.budget)
        if weights != PRETRAINED and short(recipe.tokenizer.dump()) not in opened:
            build_tokenizer(recipe)
        if data.config.cache is None and short(data.dump()) not in opened:
            datasets.get(data.name)(data.config)
        opened |= {short(recipe.tokenizer.dump()), short(data.dump())}


def cached(recipe: Recipe, folder: Path, made: set[Path]) -> Recipe:
    """The recipe reading from a cache of its tokenizer's tokens on its data; one is made where there is none.

    ``made``: those of this study, which need not be read again to be sure that they are whole.
    """
    if recipe.data is None or recipe.data.config.cache is not None:
        return recipe
    what = {"tokenizer": recipe.tokenizer.dump(), "data": recipe.data.dump()}
    place = folder / f"{recipe.tokenizer.name}-{short(what)}"
    if place not in made:
        cache(recipe, place)
        made.add(place)
    return recipe.with_part("data", cache=str(place))


def evaluated(study: Study, name: str, planned: Planned, source: str, place: Path, settings: Settings) -> Outcome:
    """A cell's samples and their figures; sampled as the recipe says today, and the cell over it."""
    cell, sampling = study.cells[name], planned.recipes[name].sampling
    assert sampling is not None
    options = sampling.override(cell.sampling)
    folder = place / sampled_as(study, cell.checkpoint or Path(source).name, options.dump(), planned)
    made = evaluate_generator(source, options.dotted(), replace(settings, out=folder, **study.measure.model_dump()), planned.referring)
    made = made or json.loads((folder / EVALUATION).read_text(encoding="utf-8"))  # of the main process
    log = read_log(Path(source)) if (Path(source) / "log.jsonl").is_file() else []
    trained_recipe = replace(find(source, study.data if cell.checkpoint is not None else {})[0], sampling=options)
    return Outcome(name, cell, trained_recipe, source, folder, log, made, cost(trained_recipe), parameters_by_part(trained_recipe))


def sampled_as(study: Study, source: str, sampling: dict[str, Any], planned: Planned) -> str:
    """The folder of samples and figures: what was sampled, and a hash of how, and of what it is compared with."""
    data = next(iter(planned.recipes.values())).data if study.measure.reference is None else None
    depends = {"source": source, "sampling": sampling, "measure": study.measure.model_dump(), "data": data and data.dump()}
    return f"{Path(source).name}-{short(depends)}"
