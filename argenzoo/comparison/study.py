"""What is compared: cells, each a recipe with overrides or a checkpoint, one budget, one way to measure."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field

from argenzoo.build import PRETRAINED, tokenizer_file
from argenzoo.errors import ArgenzooError, suggestion
from argenzoo.evaluation.settings import Settings
from argenzoo.recipe import Recipe, list_models, load_recipe, recipe_folder
from argenzoo.registry import Config
from argenzoo.weights import sha256

OURS = ("out", "resume", "log_every", "eval_every", "save_every", "sample_every")  # of the train section: a comparison sets them


class Budget(Config):
    """Of one training; without any, the recipe's own steps."""

    steps: int | None = Field(None, ge=1)
    seconds: float | None = Field(None, gt=0, description="of training steps on this machine, measured before it begins")
    flops: float | None = Field(None, gt=0, description="forward and backward passes of the network")

    @property
    def given(self) -> list[str]:
        return [f"{value:,g} {name}" for name, value in self if value is not None]

    def words(self) -> str:
        return " ".join(self.given) or "each recipe's own steps"


class Measure(Config):
    """How every cell is measured; as ``argenzoo evaluate`` takes it."""

    num: int = Field(1000, ge=2)
    seed: int = Field(0, ge=0)
    protocol: str = "argenzoo"
    reference: str | None = None
    reference_num: int | None = Field(None, ge=2)
    resize: int | None = Field(None, ge=1)
    precision: str = "fp32"
    batch: int = Field(50, ge=1)


class Cell(Config):
    """One row of the table. Cells of the same resolved recipe share a training."""

    recipe: str | None = None
    checkpoint: str | None = Field(None, description="instead of a recipe: sampled as it is; a folder, OWNER/NAME, or a published model")
    overrides: dict[str, Any] = Field({}, description="of the recipe, dotted")
    sampling: dict[str, Any] = Field({}, description="of the sampling alone, dotted")
    note: str = ""


class Sweep(Cell):
    """A cell that is sampled in several ways: with every combination of ``values``."""

    values: dict[str, list[Any]] = Field(min_length=1, description="a list a sampling key, dotted")

    def lines(self, name: str) -> dict[str, dict[str, Cell]]:
        """What a plot over the first key connects: {line: {cell: ...}}, a line for every combination of the other keys."""
        first, *others = self.values
        made = {}
        for combination in product(*(self.values[key] for key in others)):
            rest = dict(zip(others, combination, strict=True))
            points = [{first: value, **rest} for value in self.values[first]]
            made[joined(name, rest) or first] = {joined(name, point): self.sampled(point) for point in points}
        return made

    def sampled(self, values: dict[str, Any]) -> Cell:
        fields = self.model_dump(exclude={"values"})
        return Cell.parse({**fields, "sampling": {**self.sampling, **values}}, "sweep")


class Study(Config):
    """A comparison."""

    title: str
    about: str = Field("", description="what is shown, and what the papers say")
    budget: Budget = Field(default_factory=lambda: Budget.parse({}, "budget"))
    measure: Measure = Field(default_factory=lambda: Measure.parse({}, "measure"))
    overrides: dict[str, Any] = Field({}, description="of every recipe in it")
    cache: bool = Field(True, description="train from token caches, made once a tokenizer")
    cells: dict[str, Cell] = Field({}, description="and the sweeps' ones, once it is loaded")
    sweeps: dict[str, Sweep] = Field({}, description="cells that are sampled in several ways")

    @property
    def lines(self) -> dict[str, list[str]]:
        """What a plot connects: cells by line. A cell that is no sweep's is alone."""
        swept = {line: list(cells) for name, sweep in self.sweeps.items() for line, cells in sweep.lines(name).items()}
        alone = {name: [name] for name in self.cells if all(name not in cells for cells in swept.values())}
        return alone | swept

    @property
    def trains(self) -> bool:
        return any(cell.recipe is not None for cell in self.cells.values())

    @property
    def data(self) -> dict[str, Any]:
        """What the study says of every cell's data."""
        return {key: value for key, value in self.overrides.items() if key.partition(".")[0] == "data"}

    def recipe_of(self, name: str) -> Recipe:
        """A cell's, with the study's overrides, and the cell's own over them."""
        cell = self.cells[name]
        return load_recipe(cell.recipe or "", merged(self.overrides, cell.overrides))

    def training_of(self, name: str) -> str:
        """The folder of a cell's training: its recipe's name, and a hash of the settings and the tokenizer's weights that it depends on."""
        recipe = self.recipe_of(name)
        depends = {key: value for key, value in recipe.dump().items() if key not in ("name", "sampling", "pretrained")}
        weights = recipe.tokenizer.weights
        file = None if weights is None or weights == PRETRAINED else sha256(tokenizer_file(weights))
        return f"{recipe.name}-{short({**depends, 'budget': self.budget.model_dump(), 'tokenizer_sha256': file})}"


def joined(name: str, values: dict[str, Any]) -> str:
    """``name: key=value, key=value``."""
    return ": ".join(filter(None, (name, ", ".join(f"{key}={value}" for key, value in values.items()))))


def merged(*overrides: dict[str, Any]) -> dict[str, Any]:
    """Later ones over earlier ones, and after them: a key may be of a section that comes before it."""
    made: dict[str, Any] = {}
    for one in overrides:
        made = {**{key: value for key, value in made.items() if key not in one}, **one}
    return made


def short(values: Any) -> str:
    """A hash for a folder's name."""
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()[:8]


def slug(name: str) -> str:
    """A file's name for a cell's."""
    return re.sub(r"[^a-z0-9.=]+", "_", name.lower()).strip("_.") or "cell"


def list_studies() -> list[str]:
    return sorted(path.stem for path in (recipe_folder() / "studies").glob("*.yaml"))


def load_study(sources: Sequence[str], overrides: dict[str, Any], budget: dict[str, Any], measure: dict[str, Any]) -> Study:
    """Of one study's name or file, or of recipes and checkpoints.

    Args:
        overrides: dotted keys for every recipe, over the study's and the cells' own.
        budget, measure: fields that replace the study's.

    Raises:
        ArgenzooError: no such study, recipe or checkpoint; a key that is unknown; cells that would share a picture.
    """
    path = study_path(sources[0]) if len(sources) == 1 else None
    values = of_sources(sources, bool(budget)) if path is None else read(path)
    values["overrides"] = {**section(values, "overrides"), **overrides}
    if budget:
        values["budget"] = budget
    values["measure"] = {**section(values, "measure"), **measure}
    study = with_sweeps(Study.parse(values, "study"))
    cells = {name: over(cell, overrides) for name, cell in study.cells.items()}
    return checked(study.model_copy(update={"cells": cells}))


def with_sweeps(study: Study) -> Study:
    """With a cell a point of every sweep.

    Raises:
        ArgenzooError: a point that is a cell already; a key that is swept and fixed.
    """
    cells = dict(study.cells)
    for name, sweep in study.sweeps.items():
        key = next((key for key, values in sweep.values.items() if key in sweep.sampling or not values), None)
        if key is not None:
            raise ArgenzooError(f"sweep '{name}': {key} {'is fixed too' if key in sweep.sampling else 'has no values'}")
        for points in sweep.lines(name).values():
            twice = next((point for point in points if point in cells), None)
            if twice is not None:
                raise ArgenzooError(f"sweep '{name}': there is a cell '{twice}' already")
            cells |= points
    return study.model_copy(update={"cells": cells})


def over(cell: Cell, overrides: dict[str, Any]) -> Cell:
    """What the user says last goes over what a cell says."""
    return cell if cell.recipe is None else cell.model_copy(update={"overrides": merged(cell.overrides, overrides)})


def section(values: dict[str, Any], key: str) -> dict[str, Any]:
    found = values.get(key) or {}
    if not isinstance(found, dict):
        raise ArgenzooError(f"study.{key}: expected key: value, got {found!r}")
    return found


def study_path(source: str) -> Path | None:
    """A study's file; None where this is no study."""
    if source in list_studies():
        return recipe_folder() / "studies" / f"{source}.yaml"
    path = Path(source)
    return path if path.suffix in (".yaml", ".yml") and {"cells", "sweeps"} & set(read(path)) else None


def read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ArgenzooError(f"no such file {path}")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ArgenzooError(f"{path} can't be read as YAML ({' '.join(str(error).split())})") from None
    if not isinstance(values, dict):
        raise ArgenzooError(f"{path} is no study: expected title, and cells or sweeps")
    return values


def of_sources(sources: Sequence[str], budget: bool) -> dict[str, Any]:
    """A study of recipes and checkpoints."""
    cells: dict[str, Any] = {}
    for source in sources:
        if source in list_studies():
            raise ArgenzooError(f"'{source}' is a study of its own: compare it alone")
        name = source if source in cells else Path(source).stem if source.endswith((".yaml", ".yml")) else source
        if name in cells:
            raise ArgenzooError(f"'{source}' is named twice")
        cells[name] = cell_of(source, budget)
    return {"title": ", ".join(cells), "cells": cells}


def cell_of(source: str, budget: bool) -> dict[str, Any]:
    """A published model is taken with its published weights, unless a budget says that it should be trained."""
    path = Path(source)
    if path.is_dir() or path.name == "best" or (not path.suffix and re.fullmatch(r"[\w.-]+/[\w.-]+", source)):
        return {"checkpoint": source}
    if source in list_models() or path.suffix in (".yaml", ".yml"):
        published = source in list_models(pretrained=True) and not budget
        return {"checkpoint" if published else "recipe": source}
    raise ArgenzooError(f"'{source}' is neither a study, a recipe nor a checkpoint{suggestion(source, [*list_studies(), *list_models()])}")


def checked(study: Study) -> Study:
    """Raises ArgenzooError where a cell can't be; every recipe is read, so that the last cell fails before the first is trained."""
    if not study.cells:
        raise ArgenzooError("a study without cells: there is nothing to compare")
    if len(study.budget.given) > 1:
        raise ArgenzooError("one budget: steps, seconds or flops")
    Settings(**study.measure.model_dump()).check()
    pictures: dict[str, str] = {}
    for name, cell in study.cells.items():
        check_cell(study, name, cell)
        if pictures.setdefault(slug(name), name) != name:
            raise ArgenzooError(f"cells '{pictures[slug(name)]}' and '{name}' would share the picture samples_{slug(name)}: rename one")
    if not study.trains:
        useless = next((key for key in study.overrides if key not in study.data), "--budget" if study.budget.given else None)
        if useless is not None:
            raise ArgenzooError(f"'{useless}' has no effect: nothing here is trained; a checkpoint takes data.* and sampling")
    return study


def check_cell(study: Study, name: str, cell: Cell) -> None:
    if (cell.recipe is None) == (cell.checkpoint is None):
        raise ArgenzooError(f"cell '{name}': name either a recipe or a checkpoint")
    if cell.checkpoint is not None:
        if cell.overrides:
            raise ArgenzooError(f"cell '{name}': overrides have no effect on a checkpoint, only sampling has")
        key = next((key for key in study.overrides if key.partition(".")[0] == "sampling"), None)
        if key is not None:
            raise ArgenzooError(f"cell '{name}': {key} has no effect on a checkpoint: give its cell a sampling section")
        return
    if study.recipe_of(name).generator is None:
        raise ArgenzooError(f"cell '{name}': recipe '{cell.recipe}' is a tokenizer's; 'argenzoo evaluate' measures those")
    given = merged(study.overrides, cell.overrides)
    key = next((key for key in cell.sampling if f"sampling.{key}" in given), None)
    if key is not None:
        raise ArgenzooError(f"cell '{name}': sampling.{key} has no effect, the cell has a {key} of its own")
    ours = [*OURS, "steps", "epochs"] if study.budget.given else OURS
    wrong = next((key for key in ours if f"train.{key}" in given), None)
    if wrong is not None:
        raise ArgenzooError(f"cell '{name}': train.{wrong} has no effect here, the comparison sets it (--budget, --out)")
