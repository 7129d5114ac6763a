"""What a set of labelled pictures is, how it is cut, and how it is split."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from PIL import Image, UnidentifiedImageError
from pydantic import Field, field_validator
from torch import Tensor

from argenzoo.data.crops import Crop
from argenzoo.errors import ArgenzooError
from argenzoo.registry import Config
from argenzoo.rng import philox

DEEP = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")  # PIL would clip these to white


class DataConfig(Config):
    """How any set is cut and split, and whether its encoded tokens are read instead."""

    crop: Crop = Field("center", description="ten: the corners and the centre, one at random")
    resize: float | tuple[float, ...] = Field(1.0, description="short side over the cut's (VAR 1.125); several: one at random")
    box_first: bool = Field(True, description="ADM's resizing; false: Lanczos")
    flip: bool = True
    held_out: float = Field(0.05, ge=0, lt=1, description="fraction of the pictures kept for evaluation")
    corrupt: Literal["fail", "skip"] = Field("fail", description="a picture that can't be read; skip: the next one, counted")
    in_memory: bool = Field(False, description="cut once and keep; needs crop: center and one resize")
    cache: str | None = Field(None, description="folder made by 'argenzoo cache': its tokens are read, not the pictures")

    @field_validator("resize")
    @classmethod
    def _at_least_one(cls, value: float | tuple[float, ...]) -> float | tuple[float, ...]:
        if not value or min(np.atleast_1d(value)) < 1:
            raise ValueError("the short side can't be smaller than the cut: at least 1 each")
        return value

    @property
    def resizes(self) -> tuple[float, ...]:
        """As a list, whichever way it was written."""
        return self.resize if isinstance(self.resize, tuple) else (self.resize,)


class ImageSet(Protocol):
    """Labelled pictures, opened when asked for. It may have ``held_out``, the indices that it keeps for evaluation itself."""

    classes: tuple[str, ...]

    def __len__(self) -> int: ...

    def label(self, index: int) -> int: ...

    def open(self, index: int) -> Image.Image:
        """Raises ArgenzooError where the picture is corrupt, naming it."""


class Arrays:
    """An image set in memory.

    Args:
        pictures: (n, H, W, 3) or (n, H, W) uint8.
        labels: (n,).
        name: of the data, in messages.

    Raises:
        ArgenzooError: another number of labels than of pictures, or a label without a class.
    """

    def __init__(self, pictures: np.ndarray, labels: np.ndarray, classes: tuple[str, ...], name: str) -> None:
        if len(labels) != len(pictures):
            raise ArgenzooError(f"{name}: {len(pictures)} pictures and {len(labels)} labels")
        if labels.max(initial=0) >= len(classes):
            raise ArgenzooError(f"{name}: label {labels.max()} is out of range, there are {len(classes)} classes")
        self._pictures, self._labels, self.classes = pictures, labels, classes

    def __len__(self) -> int:
        return len(self._labels)

    def label(self, index: int) -> int:
        return int(self._labels[index])

    def open(self, index: int) -> Image.Image:
        return Image.fromarray(self._pictures[index])


def decode(source: Path | bytes, name: str) -> Image.Image:
    """A picture from a file or its bytes. Raises ArgenzooError, with ``name``, where it is corrupt or not of 8 bits a channel."""
    try:
        image = Image.open(io.BytesIO(source) if isinstance(source, bytes) else source)
        image.load()
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ArgenzooError(f"{name} is empty, truncated or no picture ({' '.join(str(error).split())})") from None
    if image.mode in DEEP:
        raise ArgenzooError(f"{name} has pixels of mode {image.mode}: pictures of 8 bits a channel (0 to 255) are expected")
    return image


def split(images: ImageSet, config: DataConfig) -> tuple[np.ndarray, np.ndarray]:
    """Indices (for training, held out): the same for every run.

    Raises:
        ArgenzooError: a part would be empty, or the set keeps its own part and a fraction is asked for besides.
    """
    own = getattr(images, "held_out", None)
    if own is not None:
        if config.held_out:
            raise ArgenzooError(f"these data have a held-out part of their own: set data.held_out=0, not {config.held_out}")
        return np.setdiff1d(np.arange(len(images)), own), np.asarray(own)
    order = philox(0, "split", 0).permutation(len(images))
    kept = int(len(images) * config.held_out)
    if config.held_out and not kept:
        raise ArgenzooError(f"data.held_out {config.held_out} of {len(images)} pictures is none: use a larger fraction, or 0")
    return np.sort(order[kept:]), np.sort(order[:kept])


def to_unit(pictures: Tensor) -> Tensor:
    """uint8 -> float in [-1, 1]."""
    return pictures.float() / 127.5 - 1
