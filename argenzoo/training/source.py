"""Where samples come from: pictures, or a cache of tokens. The loop reads both in the same way."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from argenzoo.data.cache import Cached, Manifest, check_cache, read_manifest
from argenzoo.data.images import ImageSet, split
from argenzoo.data.views import Views
from argenzoo.errors import ArgenzooError
from argenzoo.recipe import Part, Recipe
from argenzoo.registry import datasets
from argenzoo.weights import fingerprint

Samples = Views | Cached


@dataclass(frozen=True)
class Source:
    """A recipe's data, opened: ``images``, or the ``manifest`` of its cache."""

    part: Part
    images: ImageSet | None
    manifest: Manifest | None

    @property
    def classes(self) -> tuple[str, ...]:
        holder = self.images or self.manifest
        assert holder is not None
        return holder.classes

    def samples(self, recipe: Recipe, tokenizer: Any) -> tuple[Samples, Samples]:
        """(training, held out). Raises ArgenzooError where a cache is not this recipe's."""
        config, seed = self.part.config, recipe.train.seed if recipe.train else 0
        if self.manifest is None:
            assert self.images is not None
            if config.in_memory and recipe.train is not None and recipe.train.workers:
                raise ArgenzooError(
                    "data.in_memory would keep a copy in each of train.workers: set train.workers=0, or data.in_memory=false"
                )
            kept, held_out = split(self.images, config)
            size = tokenizer.image_size
            return Views(self.images, config, size, kept, seed), Views(self.images, config, size, held_out, seed, augment=False)
        if recipe.generator is None:
            raise ArgenzooError("data.cache holds tokens: a tokenizer trains on pictures, leave data.cache out")
        encoded_by = replace(recipe.tokenizer, weights=None, sha256=None).dump()
        check_cache(self.manifest, config.cache, encoded_by, fingerprint(tokenizer.state_dict()), self.part.dump())
        return (Cached(config.cache, self.manifest, "train", seed), Cached(config.cache, self.manifest, "held_out", seed, augment=False))


def open_source(part: Part) -> Source:
    """Opens the cache where the recipe names one, without touching the pictures; else the set."""
    if part.config.cache is not None:
        return Source(part, None, read_manifest(part.config.cache))
    return Source(part, datasets.get(part.name)(part.config), None)
