"""Which recipe a file belongs to, or, for sizes that nobody published, a recipe of its own."""

from __future__ import annotations

import math
import operator
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from argenzoo.errors import ArgenzooError
from argenzoo.hub.official.families import Family
from argenzoo.hub.official.reading import Weights
from argenzoo.hub.official.shapes import Facts, side_of, tokens_of
from argenzoo.recipe import Recipe, list_models, load_recipe, override, override_order, parse_recipe

Scales = int | Sequence[int | tuple[int, int]]
LARGEST = 4096  # tokens a side
GRID = ("tokenizer.image_size", "tokenizer.scales")


def resolved(
    family: Family, network: Weights | None, codes: Weights | None, recipe: str | Path | Recipe | None, scales: Scales | None, named: Facts
) -> Recipe:
    """The recipe of these weights.

    Args:
        scales: sides or (height, width) of the token grids, where they are given.
        named: dotted keys that were given by name.

    Raises:
        ArgenzooError: files, recipe and arguments contradict each other, or say too little.
    """
    facts = agreed(shapes_of(family, network, codes), named, "arguments")
    asked = recipe if recipe is None or isinstance(recipe, Recipe) else load_recipe(recipe)
    template = asked or load_recipe(family.templates[facts.get("conditioner.name", "class_labels")])
    if wrong := differences(template, {key: value for key, value in facts.items() if key.endswith(".name")}):
        raise ArgenzooError(f"the weights do not fit recipe '{template.name}': {'; '.join(wrong[:3])}")
    if network is not None and asked is None and family.head_width is not None:
        facts.setdefault("generator.num_heads", max(1, facts["generator.dim"] // family.head_width))
    facts |= patches(network, codes, facts, template)
    facts |= grids(network, scales, facts, template)
    if asked is not None:
        given = {*named, *(GRID if scales is not None else ())}
        shaped = {key: value for key, value in facts.items() if key not in given}
        chosen = as_asked(asked, facts, shaped, family, network)
    else:
        chosen = tokenizer_alone(family, facts, template) if network is None else found(family, facts, template, network)
    check_scales(chosen, network, codes)
    return chosen


def found(family: Family, facts: Facts, template: Recipe, network: Weights) -> Recipe:
    """The published recipe that fits, else one of these sizes. Raises ArgenzooError where several fit."""
    recipes = candidates(family)
    fits = [recipe for recipe in recipes if not differences(recipe, facts)]
    if len(fits) > 1:
        choices = ", ".join(recipe.name for recipe in fits)
        raise ArgenzooError(f"{network.what} fits {choices}, and its shapes can't tell which: give recipe, or scales")
    sized = {key: value for key, value in facts.items() if key not in GRID}
    near = [recipe for recipe in recipes if not differences(recipe, sized)]  # a published size at another resolution
    return fits[0] if fits else of_its_own(family, facts, (near or [template])[0], network, bool(near))


def shapes_of(family: Family, network: Weights | None, codes: Weights | None) -> Facts:
    """What the shapes say. Raises ArgenzooError where generator and tokenizer don't belong together."""
    parts = family.parts
    told: Facts = {"tokenizer.name": parts["tokenizer"]}
    if network is not None:
        told |= {f"{kind}.name": parts[kind] for kind in ("generator", "head")}
        told |= network.sizes("conditioner", parts["generator"], parts["head"])
    return told if codes is None else agreed(told, codes.sizes(parts["tokenizer"]), "tokenizer")


def agreed(facts: Facts, others: Facts, whose: str) -> Facts:
    """Both together. Raises ArgenzooError where they say different things."""
    for key in sorted(facts.keys() & others.keys()):
        if facts[key] != others[key]:
            raise ArgenzooError(
                f"{key} is {facts[key]} by the generator's shapes, {others[key]} by the {whose}: they don't belong together"
            )
    return {**facts, **others}


def patches(network: Weights | None, codes: Weights | None, facts: Facts, template: Recipe) -> Facts:
    """Channels and patch size where tokens are patches of latents: the generator tells their product, dim p^2."""
    if not hasattr(template.tokenizer.config, "patch_size"):
        if facts.pop("tokenizer.patch_size", 1) != 1:
            raise ArgenzooError(f"patch_size has no effect: tokenizer '{template.tokenizer.name}' has no patches")
        return {}
    if network is None:
        return {}
    width = network.state["generator.embed.weight"].shape[1]
    dim, size = facts.get("tokenizer.dim"), facts.get("tokenizer.patch_size")
    known = dim or template.tokenizer.config.dim
    whole = math.isqrt(width // known)
    size = size or (whole if dim is not None or known * whole**2 == width else template.tokenizer.config.patch_size)
    dim = dim or width // size**2
    if dim * size**2 != width:
        channels = f"{dim} channels" if codes is not None else "any channels"
        raise ArgenzooError(f"{network.what} reads tokens of {width}, which patches of {size} x {size} x {channels} can't make")
    return {"tokenizer.dim": dim, "tokenizer.patch_size": size}


def grids(network: Weights | None, scales: Scales | None, facts: Facts, template: Recipe) -> Facts:
    """Image size and scales, where shapes, buffers or arguments tell them."""
    sides = None if scales is None else square(scales)
    if network is not None:
        tokens = tokens_of(network.state, network.what)
        grid = (side_of(tokens[0]),) if tokens is not None and tokens[1] is None else None
        for told in (network.sides, grid):
            sides = sides if told is None else same(sides, told, network.what)
    if sides is None:
        return {}
    levels = len(facts.get("tokenizer.multipliers", template.tokenizer.config.multipliers))
    patch = facts.get("tokenizer.patch_size", getattr(template.tokenizer.config, "patch_size", 1))
    pyramid = {"tokenizer.scales": list(sides)} if hasattr(template.tokenizer.config, "scales") else {}
    if not pyramid and len(sides) > 1:
        raise ArgenzooError(f"scales {list(sides)}: tokenizer '{template.tokenizer.name}' has a single grid, give one side")
    return {"tokenizer.image_size": sides[-1] * patch * 2 ** (levels - 1), **pyramid}


def square(scales: Scales) -> tuple[int, ...]:
    """Sides of grids that are given as sides or as (height, width). Raises ArgenzooError where one is not square."""
    try:
        given: list[Any] = list(scales) if isinstance(scales, Iterable) else [scales]
        pairs = [tuple(scale) if isinstance(scale, Iterable) else (scale, scale) for scale in given]
        sides = tuple(operator.index(height) for height, width in pairs if height == width and 1 <= height <= LARGEST)
    except (TypeError, ValueError):
        given, sides = [], ()
    if not sides or len(sides) != len(given):
        raise ArgenzooError(f"scales {scales!s:.80}: expected the sides of square grids, such as [1, 2, 4] or [16]")
    return sides


def same(sides: tuple[int, ...] | None, told: tuple[int, ...], what: str) -> tuple[int, ...]:
    if sides is not None and sides != told:
        raise ArgenzooError(f"scales {list(sides)} are not those of {what}: {list(told)}")
    return told


def candidates(family: Family) -> list[Recipe]:
    """Every recipe whose generator this family's authors published."""
    recipes = (load_recipe(name) for name in list_models(pretrained=True))
    return [recipe for recipe in recipes if recipe.pretrained is not None and recipe.pretrained.family == family.name]


def differences(recipe: Recipe, facts: Facts) -> list[str]:
    """What the facts say otherwise than the recipe."""
    values = recipe.dump()
    out = []
    for key, told in facts.items():
        section, _, name = key.partition(".")
        ours = values.get(section, {}).get(name)
        if ours != told:
            out.append(f"{key} is {told} in the weights, {ours} in the recipe")
    return out


def as_asked(recipe: Recipe, facts: Facts, shaped: Facts, family: Family, network: Weights | None) -> Recipe:
    """The recipe that was asked for. Sizes are read from the shapes all the same: where they differ (``shaped``), a warning says so.

    Raises:
        ArgenzooError: the sizes are the recipe's, but an argument contradicts it.
    """
    plain = recipe if network is not None else Recipe(recipe.name, replace(recipe.tokenizer, weights=None))
    if not (wrong := differences(recipe, shaped)):
        if against := differences(recipe, {key: value for key, value in facts.items() if key not in shaped}):
            raise ArgenzooError(f"recipe '{recipe.name}': {against[0].replace('in the weights', 'by the arguments')}")
        return plain
    fits = [other for other in candidates(family) if network is not None and not differences(other, shaped)]
    hint = f"; they fit {', '.join(other.name for other in fits)}" if fits else ""
    text = f"the weights are not of recipe '{recipe.name}'s sizes, and keep their own: {'; '.join(wrong[:3])}{hint}"
    warnings.warn(f"{text}. What shapes can't tell is the recipe's", stacklevel=4)
    heads = {"generator.num_heads": fits[0].generator.config.num_heads} if fits and fits[0].generator is not None else {}
    levels = len(facts.get("tokenizer.multipliers", recipe.tokenizer.config.multipliers))
    grid = {"tokenizer.image_size": recipe.tokenizer.config.grid * 2 ** (levels - 1)}
    return resized(plain, {**heads, **grid, **facts}, network, f"{recipe.name}_imported")


def tokenizer_alone(family: Family, facts: Facts, template: Recipe) -> Recipe:
    """At the published size of pictures, where the tokenizer is as wide as published; else the grid must be given."""
    free = ("tokenizer.multipliers", "tokenizer.image_size", "tokenizer.scales")
    if "tokenizer.image_size" not in facts and differences(template, {key: value for key, value in facts.items() if key not in free}):
        raise ArgenzooError("the tokenizer's shapes can't tell the size of its grid: give scales, such as [16], or recipe")
    return resized(Recipe(template.name, template.tokenizer), facts, None, f"{family.name}_tokenizer")


def of_its_own(family: Family, facts: Facts, template: Recipe, network: Weights, sized: bool) -> Recipe:
    """The template at these sizes. Raises ArgenzooError where something is told by nobody; a template of the same size (``sized``)
    tells the heads."""
    for key, argument in {"generator.num_heads": "num_heads", "tokenizer.image_size": "scales"}.items():
        if key not in facts and not (sized and argument == "num_heads"):
            raise ArgenzooError(f"these sizes are no published model's, and shapes can't tell {key}: give {argument}, or recipe")
    return resized(template, facts, network, f"{family.name}_imported")


def resized(recipe: Recipe, facts: Facts, network: Weights | None, name: str) -> Recipe:
    """A recipe at other sizes, for sampling alone."""
    values = {key: value for key, value in recipe.dump().items() if key not in ("data", "train", "pretrained")}
    for key, value in sorted(facts.items(), key=override_order):
        override(values, key, value)
    if network is not None:
        within(values["sampling"], facts, network)
    return parse_recipe({**values, "name": name})


def within(sampling: dict[str, Any], facts: Facts, network: Weights) -> None:
    """The published sampling, kept within what so small a model can do: top-k up to V, at most one token a step."""
    tokens = tokens_of(network.state, network.what)
    if (sampling["head"].get("top_k") or 0) > facts.get("tokenizer.vocab_size", math.inf):
        sampling["head"]["top_k"] = None
    if tokens is not None and (sampling["order"].get("num_steps") or 0) > tokens[0]:
        sampling["order"]["num_steps"] = None


def check_scales(recipe: Recipe, network: Weights | None, codes: Weights | None) -> None:
    """Raises ArgenzooError where a pyramid's scales are not those that the weights were trained with."""
    scales = list(getattr(recipe.tokenizer.config, "scales", ()))
    if not scales:
        return
    if network is not None and (told := tokens_of(network.state, network.what)) and told != (sum(s * s for s in scales), len(scales)):
        raise ArgenzooError(
            f"{network.what} has {told[1]} scales of {told[0]} tokens in all, not those of scales {scales}: give its scales"
        )
    if network is not None and network.sides is not None and list(network.sides) != scales:
        raise ArgenzooError(f"{network.what} was trained with scales {list(network.sides)}, not with {scales}")
    if codes is not None and codes.num_scales is not None and codes.num_scales != len(scales):
        raise ArgenzooError(f"{codes.what} was trained with {codes.num_scales} scales, the recipe has {len(scales)}: {scales}")
