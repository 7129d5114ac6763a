"""The pictures that are measured on: which, at what size, and what was wrong with those that were not."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from argenzoo.data.images import split
from argenzoo.data.views import Views
from argenzoo.errors import ArgenzooError
from argenzoo.recipe import Part
from argenzoo.registry import datasets

HOW = "short side resized as ADM does (box filters while it is twice too large, then bicubic), centre cut, uint8"
PLAIN = {"crop": "center", "resize": 1.0, "box_first": True, "flip": False, "in_memory": False, "cache": None}
OTHERS = ("held_out_path", "held_out_split")  # a second set, which a set that is named anew does not have


def named_by_user(data: Part | None, overrides: dict[str, Any]) -> Part | None:
    """The data section, where the user named a set: all of that set, unless ``data.held_out`` says otherwise.

    Raises:
        ArgenzooError: a setting that measuring does not have.
    """
    given = {key.removeprefix("data.") for key in overrides if key.startswith("data.")} | set(overrides.get("data") or {})
    wrong = next((key for key in PLAIN if key in given), None)
    if wrong is not None:
        raise ArgenzooError(f"data.{wrong} has no effect here: pictures are measured as the centre cut of the short side, not mirrored")
    if data is None or not given & {"name", "path", "split"}:
        return data
    unset = {key: None for key in OTHERS if key in type(data.config).model_fields and key not in given}
    whole = {} if "held_out" in given else {"held_out": 0.0}
    return replace(data, config=data.config.model_copy(update={**unset, **whole}))


@dataclass
class Chosen:
    """``positions`` of a set at a size: the short side resized as ADM does, the centre cut, nothing mirrored."""

    data: Part
    views: Views
    positions: list[int]
    part: str
    corrupt: set[int] = field(default_factory=set)  # positions that were left out

    def __len__(self) -> int:
        return len(self.positions)

    def batches(self, size: int, what: str) -> Iterator[np.ndarray]:
        """(n, H, W, 3) uint8, with a bar; corrupt pictures are left out where ``data.corrupt`` is skip."""
        with tqdm(total=len(self), desc=what, unit="picture") as bar:
            for start in range(0, len(self), size):
                some = [found for position in self.positions[start : start + size] if (found := self._picture(position)) is not None]
                if some:
                    yield np.stack(some)
                bar.update(min(size, len(self) - start))

    def _picture(self, position: int) -> np.ndarray | None:
        sample = self.views[position, position]
        if not sample.notes:
            return sample.stored.permute(1, 2, 0).numpy()
        if position not in self.corrupt:
            tqdm.write(f"skipped: {sample.notes[0]}", file=sys.stderr)
        self.corrupt.add(position)
        return None

    def facts(self) -> dict[str, Any]:
        """What a result says of its pictures."""
        return {**self.data.dump(), "part": self.part, "num": len(self) - len(self.corrupt), "corrupt": len(self.corrupt)}


def chosen(data: Part | None, size: int, num: int | None, held_out: bool = True, option: str = "--num") -> Chosen:
    """``num`` pictures (None: all) spread evenly over the held-out part of a set, where it has one, or over the rest.

    Args:
        option: that gave ``num``, for a message.

    Raises:
        ArgenzooError: no data section, a size or number that can't be.
    """
    if data is None:
        raise ArgenzooError("there are no data to measure on: give data.name and data.path")
    if size < 1:
        raise ArgenzooError(f"--size {size}: at least 1 pixel")
    images: Any = datasets.get(data.name)(data.config)
    training, kept = split(images, data.config)
    part, indices = ("held out", kept) if held_out and len(kept) else ("training" if len(kept) else "all", training)
    if num is not None and not 0 < num <= len(indices):
        raise ArgenzooError(f"{option} {num}: expected 1 to {len(indices)}, the pictures of the set ({part})")
    plain = replace(data, config=data.config.model_copy(update=PLAIN))
    count = num or len(indices)
    positions = [i * len(indices) // count for i in range(count)]
    return Chosen(plain, Views(images, plain.config, size, indices, augment=False), positions, part)


def to_tensor(pictures: np.ndarray) -> torch.Tensor:
    """(n, H, W, 3) uint8 -> (n, 3, H, W)."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2)
