"""What several commands need."""

from __future__ import annotations

from collections.abc import Sequence

from argenzoo.device import is_main
from argenzoo.errors import ArgenzooError
from argenzoo.recipe import Recipe, load_recipe, parse_overrides


def recipe_from(pairs: Sequence[str]) -> Recipe:
    overrides = parse_overrides(pairs)
    name = overrides.pop("recipe", None)
    if name is None:
        raise ArgenzooError("name a recipe: recipe=NAME or recipe=PATH ('argenzoo list' shows the names)")
    return load_recipe(str(name), overrides)


def say(text: str) -> None:
    """Once, however many processes there are."""
    if is_main():
        print(text)
