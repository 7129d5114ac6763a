"""What a set of labelled pictures is, and its views at a tokenizer's size."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from PIL import Image
from pydantic import Field
from torch import Tensor
from torch.utils.data import Dataset

from argenzoo.data.crops import Crop, cut
from argenzoo.errors import ArgenzooError
from argenzoo.registry import Config
from argenzoo.rng import philox


class DataConfig(Config):
    """How any set is cut and split."""

    crop: Crop = Field("center", description="ten: the corners and the centre, one at random")
    resize: float = Field(1.0, ge=1, description="short side over the cut's, before cutting (VAR 1.125, LlamaGen 1.1)")
    box_first: bool = Field(True, description="ADM's resizing; false: Lanczos")
    flip: bool = True
    held_out: float = Field(0.05, ge=0, lt=1, description="fraction of the pictures kept for evaluation")
    in_memory: bool = Field(False, description="cut once and keep; needs crop: center")


class ImageSet(Protocol):
    """Labelled pictures, opened when asked for."""

    classes: tuple[str, ...]

    def __len__(self) -> int: ...

    def label(self, index: int) -> int: ...

    def open(self, index: int) -> Image.Image:
        """Raises ArgenzooError where the picture is corrupt, naming it."""


class Views(Dataset[tuple[Tensor, int]]):
    """A set at ``size`` pixels. An item's key is (index, draw): its cut and flip depend on (seed, draw) alone.

    Args:
        indices: the part of the set that is seen (training or held out).
        augment: flips and random cuts; off for evaluation.
    """

    def __init__(self, images: ImageSet, config: DataConfig, size: int, indices: np.ndarray, seed: int = 0, augment: bool = True) -> None:
        if config.in_memory and config.crop != "center":
            raise ArgenzooError(f"data.in_memory keeps one cut of each picture: it needs data.crop=center, not {config.crop}")
        self.images, self.config, self.size, self.indices, self.seed, self.augment = images, config, size, indices, seed, augment
        self._kept: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, int]:
        """(picture (3, size, size) uint8, label)."""
        position, draw = key
        index = int(self.indices[position])
        rng = philox(self.seed, "augment", draw)
        array = self._cut(index, rng)
        if self.augment and self.config.flip and rng.random() < 0.5:
            array = array[:, ::-1]
        return torch.from_numpy(array.transpose(2, 0, 1).copy()), self.images.label(index)

    def _cut(self, index: int, rng: np.random.Generator) -> np.ndarray:
        if index in self._kept:
            return self._kept[index]
        config = self.config
        crop: Crop = config.crop if self.augment else "center"
        array = cut(self.images.open(index), self.size, round(self.size * config.resize), crop, config.box_first, rng)
        if config.in_memory:
            self._kept[index] = array
        return array


def split(count: int, held_out: float) -> tuple[np.ndarray, np.ndarray]:
    """Indices (for training, held out): the same for every run. Raises ArgenzooError where a part would be empty."""
    order = philox(0, "split", 0).permutation(count)
    kept = int(count * held_out)
    if held_out and not kept:
        raise ArgenzooError(f"data.held_out {held_out} of {count} pictures is none: use a larger fraction, or 0")
    return np.sort(order[kept:]), np.sort(order[:kept])


def to_unit(pictures: Tensor) -> Tensor:
    """uint8 -> float in [-1, 1]."""
    return pictures.float() / 127.5 - 1
