"""What a recipe builds, counted on the meta device."""

from __future__ import annotations

import torch

from argenzoo.build import assemble, make_tokenizer
from argenzoo.recipe import Recipe


def parameters_by_part(recipe: Recipe) -> dict[str, int]:
    """Parameters of each part, and in all; no memory is used."""
    with torch.device("meta"):
        tokenizer = make_tokenizer(recipe.tokenizer)
        parts = {"tokenizer": tokenizer}
        if recipe.generator is not None:
            model = assemble(recipe, tokenizer)
            parts |= {"conditioner": model.conditioner, "generator": model.generator, "head": model.head}
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()}
    return {**counts, "total": sum(counts.values())}
