"""A set of pictures at a tokenizer's size, as training and evaluation see it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from argenzoo.data.crops import CENTER, View, cut, views_of
from argenzoo.data.images import DataConfig, ImageSet
from argenzoo.errors import ArgenzooError
from argenzoo.rng import philox

IN_A_ROW = 100  # corrupt pictures that are stepped over before it is said that the set is broken


class Sample(NamedTuple):
    """A picture (3, size, size) uint8, or stored tokens; its label; what was wrong with the pictures stepped over."""

    stored: Tensor
    label: int
    notes: tuple[str, ...] = ()


class Views(Dataset[Sample]):
    """A set at ``size`` pixels. An item's key is (position, draw): its view depends on (seed, draw) alone.

    Args:
        indices: the part of the set that is seen (training or held out).
        augment: one of the recipe's views at random; else the centre, not mirrored.
    """

    encoded = False
    stepped_over = 0  # said as it happens

    def __init__(self, images: ImageSet, config: DataConfig, size: int, indices: np.ndarray, seed: int = 0, augment: bool = True) -> None:
        self.views = views_of(config.crop, config.resizes, config.flip)
        if config.in_memory and len({(view.resize, view.corner) for view in self.views if view.corner is not None}) != 1:
            raise ArgenzooError(
                f"data.in_memory keeps one cut of each picture: it needs data.crop=center and one data.resize, not {config.crop}"
            )
        self.images, self.config, self.size, self.indices, self.seed, self.augment = images, config, size, indices, seed, augment
        self.classes = images.classes
        self._kept: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self.indices)

    def label(self, position: int) -> int:
        return self.images.label(int(self.indices[position]))

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        position, draw = key
        rng = philox(self.seed, "augment", draw)
        plain = View(self.config.resizes[0], CENTER, False)
        return self.see(position, self.views[int(rng.integers(len(self.views)))] if self.augment else plain, rng)

    def see(self, position: int, view: View, rng: np.random.Generator) -> Sample:
        """One view of a picture; of the next readable one where ``data.corrupt`` is skip.

        Raises:
            ArgenzooError: a corrupt picture, or too many in a row.
        """
        notes: list[str] = []
        for step in range(min(IN_A_ROW, len(self))):
            index = int(self.indices[(position + step) % len(self)])
            try:
                array = self._cut(index, view, rng)
            except ArgenzooError as error:
                if self.config.corrupt == "fail":
                    raise ArgenzooError(f"{error}; data.corrupt=skip steps over such pictures") from None
                notes.append(str(error))
                continue
            array = array[:, ::-1] if view.flip else array
            return Sample(torch.from_numpy(array.transpose(2, 0, 1).copy()), self.images.label(index), tuple(notes))
        raise ArgenzooError(f"{len(notes)} pictures in a row can't be read, the first: {notes[0]}")

    def _cut(self, index: int, view: View, rng: np.random.Generator) -> np.ndarray:
        if index in self._kept:
            return self._kept[index]
        array = cut(self.images.open(index), self.size, view, self.config.box_first, rng)
        if self.config.in_memory:
            self._kept[index] = array
        return array
