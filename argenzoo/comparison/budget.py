"""A budget -> optimizer steps."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from statistics import median

import torch

from argenzoo.comparison.study import Budget
from argenzoo.device import is_main, together
from argenzoo.errors import ArgenzooError
from argenzoo.recipe import Recipe
from argenzoo.summary import cost
from argenzoo.training.logs import read_log
from argenzoo.training.trainer import train
from argenzoo.versions import about
from argenzoo.weights import read_json, replace_text

PROBE, WINDOW = 24, 4  # steps that are timed, and between two readings
EVALUATIONS, LINES = 8, 40  # of a run's log


def within(recipe: Recipe, budget: Budget, run: Path) -> Recipe:
    """The recipe with as many steps as the budget allows; what was measured for ``run`` once holds when it goes on."""
    steps = steps_of(recipe, budget, run.with_name(f"{run.name}.budget.json"))
    evaluated = max(1, steps // EVALUATIONS)
    every = {"eval_every": evaluated, "save_every": 2 * evaluated, "sample_every": None}
    return recipe.with_train(steps=steps, epochs=None, log_every=max(1, steps // LINES), out=str(run), **every)


def countable(recipe: Recipe, budget: Budget) -> int | None:
    """Steps, where nothing must be timed for them.

    Raises:
        ArgenzooError: a budget below one step, or none for a recipe that counts epochs.
    """
    assert recipe.train is not None
    if budget.steps is not None:
        return budget.steps
    if budget.flops is not None:
        return at_least_one(budget.flops / (cost(recipe).train * recipe.train.batch_size), budget)
    if budget.seconds is None and recipe.train.steps is None:
        raise ArgenzooError(f"recipe '{recipe.name}' counts epochs: give a budget in steps, seconds or flops")
    return None if budget.seconds is not None else recipe.train.steps


def steps_of(recipe: Recipe, budget: Budget, kept: Path) -> int:
    if (counted := countable(recipe, budget)) is not None:
        return counted
    assert recipe.train is not None
    assert budget.seconds is not None
    known = read_json(kept) if kept.is_file() else {}
    if known.get("seconds") != budget.seconds:
        rate = images_per_second(recipe, kept.with_suffix(".probe"))
        known = {"seconds": budget.seconds, "images_per_second": rate, "cpu_threads": torch.get_num_threads(), **about()}
        known["steps"] = at_least_one(budget.seconds * rate / recipe.train.batch_size, budget)
        if is_main():
            replace_text(kept, json.dumps(known, indent=1) + "\n")
        together()
    return int(read_json(kept)["steps"])  # the same on every process


def at_least_one(steps: float, budget: Budget) -> int:
    if steps < 1:
        raise ArgenzooError(f"a budget of {budget.words()} is less than one step")
    return int(steps)


def images_per_second(recipe: Recipe, folder: Path) -> float:
    """Of a few training steps here and now, without what is done between them. ``folder`` is used, and removed."""
    remove(folder)
    never = {"eval_every": None, "save_every": None, "sample_every": None, "eval_samples": 1}
    out = train(recipe.with_train(steps=PROBE, epochs=None, log_every=WINDOW, out=str(folder), resume=False, **never))
    rates = [entry["images_per_second"] for entry in read_log(out) if entry["event"] == "train"]
    together()
    remove(folder)
    return median(rates[1:])


def remove(folder: Path) -> None:
    """By the main process; the others wait."""
    if is_main() and folder.exists():
        shutil.rmtree(folder)
    together()
