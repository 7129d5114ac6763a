"""Official weights -> ARModel: sizes from the shapes, the rest from a recipe or named arguments, nothing loaded by halves."""

from __future__ import annotations

import operator
from pathlib import Path
from typing import Any

import torch

from argenzoo.build import assemble, make_tokenizer
from argenzoo.errors import ArgenzooError
from argenzoo.hub.official.families import family_of
from argenzoo.hub.official.pickles import Source
from argenzoo.hub.official.reading import Weights
from argenzoo.hub.official.resolve import Scales, resolved
from argenzoo.model import ARModel
from argenzoo.recipe import Part, Recipe
from argenzoo.tokenizers.scale import LatentScale
from argenzoo.weights import load_strict


def import_official(
    family: str,
    generator: Source | None = None,
    tokenizer: Source | None = None,
    recipe: str | Path | Recipe | None = None,
    scales: Scales | None = None,
    num_heads: int | None = None,
    patch_size: int | None = None,
    buffer_size: int | None = None,
    averaged: bool = True,
) -> ARModel:
    """The authors' weights as a model of the zoo, in evaluation mode, on the CPU (on the meta device, from meta tensors).

    Args:
        family: ``llamagen``, ``var`` or ``mar``.
        generator, tokenizer: the authors' files, or state dicts, whose tensors become the model's own; the part that is not given is
            None in the model, and using it raises.
        recipe: what shapes can't tell, and the sampling defaults (of other sizes than the weights: a warning); None: the published
            recipe that fits, where one does.
        scales: sides of the token grids, coarse to fine; one for a single grid, e.g. ``[24]`` for LlamaGen at 384 px.
        num_heads, patch_size, buffer_size: where neither shapes nor recipe tell them; checked where they do.
        averaged: MAR's EMA weights where the file has both (as published); False takes the raw ones.

    Raises:
        ArgenzooError: an unreadable file, or one with code in it; another family's; parts that don't belong together; a key
            left over or missing on either side; something that nobody tells.
    """
    kind = family_of(family)
    if recipe is not None and not isinstance(recipe, str | Path | Recipe):
        raise ArgenzooError(f"recipe: expected a name, a file or a Recipe, got a {type(recipe).__name__}")
    if generator is None and tokenizer is None:
        raise ArgenzooError(f"nothing to import: give a generator of {family}, a tokenizer, or both")
    named = {"generator.num_heads": num_heads, "generator.buffer_size": buffer_size, "tokenizer.patch_size": patch_size}
    told = {key: value for key, value in named.items() if value is not None}
    for key, value in told.items():
        if not hasattr(value, "__index__") or isinstance(value, bool) or value < 1:
            raise ArgenzooError(f"{key.split('.')[1]}: expected a whole number from 1 on, got {value!r:.40}")
        told[key] = operator.index(value)
    if generator is None and any(key.startswith("generator.") for key in told):
        raise ArgenzooError(f"{next(iter(told)).split('.')[1]} has no effect: no generator is given")
    network = None if generator is None else Weights.read(kind, "generator", generator, averaged)
    codes = None if tokenizer is None else Weights.read(kind, "tokenizer", tokenizer)
    return filled(resolved(kind, network, codes, recipe, scales, told), network, codes)


def filled(recipe: Recipe, network: Weights | None, codes: Weights | None) -> ARModel:
    """A model built on the meta device and filled; a part without weights becomes None.

    Raises:
        ArgenzooError: keys or shapes that don't fit, both sides listed.
    """
    with torch.device("meta"):
        tokenizer = make_tokenizer(recipe.tokenizer)
        model = ARModel(tokenizer, None, None, recipe) if network is None else assemble(recipe, tokenizer)
    if codes is not None:
        fill_tokenizer(tokenizer, recipe.tokenizer, codes)
    if network is not None:
        load_strict(model.network, network.state, network.what)
    model.tokenizer = None if codes is None else tokenizer
    files = {"network": network, "tokenizer": codes}
    model.sources = {part: weights.path for part, weights in files.items() if weights is not None and weights.path is not None}
    return model.eval()


def fill_tokenizer(tokenizer: Any, part: Part, codes: Weights, published: float | None = None) -> None:
    """The weights, and the latent scale, which the authors keep in their code: the recipe's, or the ``published`` one.

    Raises:
        ArgenzooError: keys or shapes that don't fit; tokens that are vectors, and a recipe that leaves their scale open.
    """
    scale = getattr(part.config, "latent_scale", None) or published
    if tokenizer.space.vocab_size is None and scale is None:
        raise ArgenzooError(f"{codes.what} does not say its latent scale: set tokenizer.latent_scale (0.2325 for MAR's KL-16 on ImageNet)")
    factors = LatentScale(scale, tokenizer.space.sizes).factors
    load_strict(tokenizer, {"scale.factors": factors, **codes.state}, codes.what)
