"""Every view of a picture at once, from one decoding: what a cache encodes."""

from __future__ import annotations

from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from argenzoo.data.crops import CENTER, View
from argenzoo.data.images import ImageSet
from argenzoo.data.views import Sample, Views
from argenzoo.errors import ArgenzooError
from argenzoo.rng import philox


class AllViews(Dataset[Any]):
    """Every view of a picture: (views, 3, size, size) uint8, its label, notes on corrupt ones; or the error, to be raised by the reader.

    Args:
        copies: how many random cuts, where the recipe cuts at random.
    """

    def __init__(self, views: Views, copies: int | None) -> None:
        self.views = views
        views.images = Once(views.images)
        random = views.augment and views.config.crop == "random"
        if random and copies is None:
            raise ArgenzooError(
                "data.crop is random: say how many cuts of each picture to keep, e.g. --copies 4, or set data.crop=center or ten"
            )
        if not random and copies is not None and views.augment:
            raise ArgenzooError(f"--copies has no effect with data.crop={views.config.crop}: all its views are kept")
        self.chosen = views.views if views.augment else (View(views.config.resizes[0], CENTER, False),)
        self.count = copies if random and copies else len(self.chosen)

    def __len__(self) -> int:
        return len(self.views)

    def __getitem__(self, position: int) -> tuple[Tensor, int, list[str]] | ArgenzooError:
        try:
            samples = [self._see(position, copy) for copy in range(self.count)]
        except ArgenzooError as error:  # a worker process would wrap it in its traceback
            return error
        return torch.stack([sample.stored for sample in samples]), samples[0].label, list(samples[0].notes)

    def _see(self, position: int, copy: int) -> Sample:
        rng = philox(self.views.seed, "cache", position * self.count + copy)
        random = self.chosen[0].corner is None
        return self.views.see(position, self.chosen[int(rng.integers(len(self.chosen)))] if random else self.chosen[copy], rng)


class Once:
    """An image set that keeps the last picture: its views are cut from one decoding."""

    def __init__(self, images: ImageSet) -> None:
        self.images, self.classes = images, images.classes
        self._last: tuple[int, Image.Image] | None = None

    def __len__(self) -> int:
        return len(self.images)

    def label(self, index: int) -> int:
        return self.images.label(index)

    def open(self, index: int) -> Image.Image:
        if self._last is None or self._last[0] != index:
            self._last = index, self.images.open(index)
        return self._last[1]
