"""A training that is part of something larger: done once, gone on with where it stopped."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from argenzoo.checkpoint import RECIPE, checkpoints
from argenzoo.errors import ArgenzooError
from argenzoo.recipe import Recipe, load_recipe
from argenzoo.training.logs import ended
from argenzoo.training.state import same_part
from argenzoo.training.trainer import train


def train_once(recipe: Recipe, say: Callable[[str], object]) -> None:
    """Nothing where the run is finished. ``train.steps`` and ``train.out`` are set.

    Raises:
        ArgenzooError: a run in that folder that was made by another recipe.
    """
    assert recipe.train is not None
    out = Path(recipe.train.out or "")
    saved = checkpoints(out)
    if saved:
        check_same(recipe, load_recipe(saved[-1] / RECIPE), out)
    if saved and saved[-1].name == f"step_{recipe.train.steps:07d}" and ended(out, recipe.train.steps or 0):
        say(f"{recipe.name}: trained already")
        return
    say(f"{recipe.name}: {recipe.train.steps} steps of {recipe.train.batch_size}")
    train(recipe.with_train(resume=bool(saved)))


def check_same(recipe: Recipe, saved: Recipe, out: Path) -> None:
    """Raises ArgenzooError where a run in ``out`` was made by a recipe with other parts or another training."""
    parts = all(
        same_part(getattr(recipe, kind), getattr(saved, kind)) for kind in ("tokenizer", "conditioner", "generator", "head", "data")
    )
    exempt = {"out", "resume"}
    training = recipe.train and saved.train and recipe.train.model_dump(exclude=exempt) == saved.train.model_dump(exclude=exempt)
    if not (parts and training and recipe.loss == saved.loss):
        raise ArgenzooError(f"{out} was made by an earlier version of recipe '{recipe.name}': remove it, or choose another --out")
