"""What the commands that measure have in common: where things are, and which tokenizer is meant."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from argenzoo.build import PRETRAINED, find, weights_in
from argenzoo.errors import ArgenzooError
from argenzoo.evaluation.features import default_cache
from argenzoo.evaluation.pictures import named_by_user
from argenzoo.recipe import Recipe


@dataclass
class Settings:
    """Where pictures, weights and results are.

    Args:
        num: pictures; None: all.
        batch: pictures at a time; changes nothing but memory and speed.
        inception, lpips: files of weights; None: what the packages bring or download.
        cache: folder of features and statistics.
    """

    num: int | None = None
    out: str | Path | None = None
    batch: int = 32
    inception: str | None = None
    lpips: str | None = None
    cache: str | Path = field(default_factory=default_cache)
    device: str | None = None
    overwrite: bool = False


def with_weights(source: str | Path, overrides: dict[str, Any]) -> Recipe:
    """A tokenizer's recipe that names its weights, and the data that the user named."""
    wrong = next((key for key in overrides if key.partition(".")[0] not in ("data", "tokenizer")), None)
    if wrong is not None:
        raise ArgenzooError(f"'{wrong}' has no effect here: only data.* and tokenizer.* do")
    recipe, folder = find(source, overrides)
    if folder is not None and recipe.generator is not None:
        raise ArgenzooError(f"{folder} is a generator's checkpoint: this is for tokenizers, name the tokenizer's run folder")
    if folder is not None:
        recipe = replace(recipe, tokenizer=replace(recipe.tokenizer, weights=str(weights_in(folder)), sha256=None))
    if recipe.tokenizer.weights is None:
        hint = f", or to {PRETRAINED}" if recipe.pretrained is not None else ""
        raise ArgenzooError(f"recipe '{recipe.name}' has no weights to measure: set tokenizer.weights to a run folder or file{hint}")
    return replace(recipe, data=named_by_user(recipe.data, overrides))
