"""The pictures that a tokenizer is measured on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from argenzoo.data.images import split
from argenzoo.data.views import Views
from argenzoo.errors import ArgenzooError
from argenzoo.recipe import Part
from argenzoo.registry import datasets


@dataclass(frozen=True)
class Chosen:
    """``positions`` of a set at a size: the short side resized, the centre cut, nothing mirrored."""

    views: Views
    positions: list[int]
    part: str

    def __len__(self) -> int:
        return len(self.positions)

    def batches(self, size: int) -> Iterator[np.ndarray]:
        """(n, H, W, 3) uint8."""
        for start in range(0, len(self), size):
            some = [self.views[position, position].stored for position in self.positions[start : start + size]]
            yield torch.stack(some).permute(0, 2, 3, 1).numpy()


def chosen(data: Part | None, size: int, num: int | None, held_out: bool = True) -> Chosen:
    """``num`` pictures (None: all) spread evenly over the held-out part of a set, where it has one, or over the rest.

    Raises:
        ArgenzooError: no data section, or fewer pictures than asked for.
    """
    if data is None:
        raise ArgenzooError("there are no data to measure on: give data.name and data.path")
    images: Any = datasets.get(data.name)(data.config)
    training, kept = split(images, data.config)
    part, indices = ("held out", kept) if held_out and len(kept) else ("training" if len(kept) else "all", training)
    if num is not None and not 0 < num <= len(indices):
        raise ArgenzooError(f"--num {num}: the set has {len(indices)} pictures ({part})")
    plain = data.config.model_copy(update={"crop": "center", "resize": 1.0, "flip": False, "in_memory": False})
    count = num or len(indices)
    positions = [i * len(indices) // count for i in range(count)]
    return Chosen(Views(images, plain, size, indices, augment=False), positions, part)
