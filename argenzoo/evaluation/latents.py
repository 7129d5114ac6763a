"""``argenzoo tokenizer stats``: the latent scale, measured on pictures of one's own."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from argenzoo.build import PRETRAINED, build_tokenizer, measure_scale
from argenzoo.data.images import to_unit
from argenzoo.device import checked_device
from argenzoo.evaluation.pictures import chosen, to_tensor
from argenzoo.evaluation.settings import Settings, with_weights
from argenzoo.hub.hosting import free
from argenzoo.model import ARModel
from argenzoo.recipe import Recipe
from argenzoo.versions import about
from argenzoo.weights import replace_text


def latent_stats(source: str | Path, overrides: dict[str, Any] | None, settings: Settings) -> dict[str, Any]:
    """Measure a tokenizer's latent scale on training pictures; with ``settings.out``, write a tokenizer that has it in its configuration.

    Returns:
        ``latent_scale``: a factor a scale; ``before``: what it was; the pictures. With ``out``, latent_scale.json holds the same.
    """
    overrides = overrides or {}
    if settings.out is not None:
        free(settings.out, settings.overwrite)
    recipe, device = with_weights(source, overrides), checked_device(settings.device)
    tokenizer = build_tokenizer(recipe, device=device)
    before = tokenizer.scale.factors.tolist()
    pictures = chosen(recipe.data, tokenizer.image_size, settings.num, held_out=False)
    batches = pictures.batches(settings.batch, "encoding")
    measure_scale(tokenizer, (to_unit(to_tensor(batch)).to(device) for batch in batches))
    made = {"latent_scale": tokenizer.scale.factors.tolist(), "before": before, "data": pictures.facts(), **about()}
    if settings.out is not None:
        trained = with_weights(source, {key: value for key, value in overrides.items() if not key.startswith("data")})
        save_scaled(tokenizer, trained, Path(settings.out), settings.overwrite)
        replace_text(Path(settings.out) / "latent_scale.json", json.dumps(made, indent=1) + "\n")
    return made


def save_scaled(tokenizer: Any, recipe: Recipe, out: Path, overwrite: bool) -> None:
    """A checkpoint of the tokenizer whose configuration has the scale that its weights have."""
    factors = tokenizer.scale.factors.tolist()
    scaled = recipe.with_part("tokenizer", latent_scale=factors[0] if len(factors) == 1 else tuple(factors))
    model = ARModel(tokenizer, None, None, replace(scaled, tokenizer=replace(scaled.tokenizer, weights=None, sha256=None)))
    if recipe.tokenizer.weights != PRETRAINED:
        model.sources["tokenizer"] = Path(recipe.tokenizer.weights or "")
    model.save_pretrained(out, overwrite=overwrite)
