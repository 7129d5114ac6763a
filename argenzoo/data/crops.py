"""Picture -> square uint8 array, as each paper cuts them."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Literal

import numpy as np
from PIL import Image

Crop = Literal["center", "random", "ten"]
CENTER = 4
CUTS = 1  # raised when the same settings give other pixels: caches of the old ones are refused


@dataclass(frozen=True)
class View:
    """One way to cut a picture.

    Args:
        resize: short side over the cut's.
        corner: 0 to 3, ``CENTER``, or None for anywhere.
        flip: mirrored.
    """

    resize: float
    corner: int | None
    flip: bool


def views_of(crop: Crop, resizes: tuple[float, ...], flip: bool) -> tuple[View, ...]:
    """What a picture is seen as in training, one at random: of the ten crops, the flip makes five."""
    corners: dict[Crop, tuple[int | None, ...]] = {"center": (CENTER,), "random": (None,), "ten": (0, 1, 2, 3, CENTER)}
    return tuple(View(*choice) for choice in product(resizes, corners[crop], (False, True) if flip else (False,)))


def resize_short_side(image: Image.Image, size: int, box_first: bool) -> Image.Image:
    """Short side to ``size``: ADM's way (halved by box filters while it is twice too large, then bicubic), or one Lanczos step (VAR)."""
    while box_first and min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    target = (max(size, round(image.width * scale)), max(size, round(image.height * scale)))
    return image.resize(target, Image.Resampling.BICUBIC if box_first else Image.Resampling.LANCZOS)


def corner_of(view: View, free: tuple[int, int], rng: np.random.Generator) -> tuple[int, int]:
    """Top left corner of the cut, where ``free`` = (width, height) is what the picture has to spare.

    The four corners are those of the central square (LlamaGen cuts it first), not of a wide or tall picture.
    """
    if view.corner is None:
        return int(rng.integers(free[0] + 1)), int(rng.integers(free[1] + 1))
    if view.corner == CENTER:
        return free[0] // 2, free[1] // 2
    room = min(free)
    left, top = (free[0] - room) // 2, (free[1] - room) // 2
    return left + room * (view.corner % 2), top + room * (view.corner // 2)


def cut(image: Image.Image, size: int, view: View, box_first: bool, rng: np.random.Generator) -> np.ndarray:
    """(size, size, 3) uint8, not mirrored yet."""
    resized = resize_short_side(image.convert("RGB"), int(size * view.resize + 1e-6), box_first)
    left, top = corner_of(view, (resized.width - size, resized.height - size), rng)
    return np.asarray(resized.crop((left, top, left + size, top + size)))
