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

ROUNDS, PROBE, WINDOW = 3, 16, 4  # in which steps are timed, and between two readings of them
EVALUATIONS, LINES = 8, 40  # of a run's log


def within(recipe: Recipe, budget: Budget, run: Path) -> Recipe:
    """The recipe with as many steps as the budget allows; one in seconds was ``measured`` for ``run`` before."""
    counted = countable(recipe, budget)
    steps = int(read_json(kept(run))["steps"]) if counted is None else counted
    evaluated = max(1, steps // EVALUATIONS)
    every = {"eval_every": evaluated, "save_every": 2 * evaluated, "sample_every": None}
    return recipe.with_train(steps=steps, epochs=None, log_every=max(1, steps // LINES), out=str(run), **every)


def kept(run: Path) -> Path:
    """What was measured for a run, once: it holds when the run goes on."""
    return run.with_name(f"{run.name}.budget.json")


def measured(trainings: dict[Path, Recipe], budget: Budget) -> None:
    """Seconds -> steps, for the runs where that is not known yet.

    All of them are timed in turn, round by round, so that what else the machine does in the meantime falls on all alike.
    """
    if budget.seconds is None:
        return
    missing = {run: recipe for run, recipe in trainings.items() if not known(kept(run), budget)}
    rates: dict[Path, list[float]] = {run: [] for run in missing}
    for _ in range(ROUNDS):
        for run, recipe in missing.items():
            rates[run] += images_per_second(recipe, run.with_name(f"{run.name}.probe"))
    for run, recipe in missing.items():
        assert recipe.train is not None
        rate = median(rates[run])
        facts = {"seconds": budget.seconds, "images_per_second": rate, "cpu_threads": torch.get_num_threads(), **about()}
        facts["steps"] = at_least_one(budget.seconds * rate / recipe.train.batch_size, budget)
        if is_main():
            replace_text(kept(run), json.dumps(facts, indent=1) + "\n")
    together()


def known(path: Path, budget: Budget) -> bool:
    return path.is_file() and read_json(path).get("seconds") == budget.seconds


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


def at_least_one(steps: float, budget: Budget) -> int:
    if steps < 1:
        raise ArgenzooError(f"a budget of {budget.words()} is less than one step")
    return int(steps)


def images_per_second(recipe: Recipe, folder: Path) -> list[float]:
    """Of a few training steps here and now, but the first, without what is done between them. ``folder`` is used, and removed."""
    remove(folder)
    never = {"eval_every": None, "save_every": None, "sample_every": None, "eval_samples": 1}
    out = train(recipe.with_train(steps=PROBE, epochs=None, log_every=WINDOW, out=str(folder), resume=False, **never))
    rates = [entry["images_per_second"] for entry in read_log(out) if entry["event"] == "train"]
    together()
    remove(folder)
    return rates[1:]


def remove(folder: Path) -> None:
    """By the main process; the others wait."""
    if is_main() and folder.exists():
        shutil.rmtree(folder)
    together()
