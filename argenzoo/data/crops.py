"""Picture -> square uint8 array, as each paper cuts them."""

from __future__ import annotations

from typing import Literal

import numpy as np
from PIL import Image

Crop = Literal["center", "random", "ten"]


def resize_short_side(image: Image.Image, size: int, box_first: bool) -> Image.Image:
    """Short side to ``size``: ADM's way (halved by box filters while it is twice too large, then bicubic), or one Lanczos step (VAR)."""
    while box_first and min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    target = (max(size, round(image.width * scale)), max(size, round(image.height * scale)))
    return image.resize(target, Image.Resampling.BICUBIC if box_first else Image.Resampling.LANCZOS)


def corner(crop: Crop, free: tuple[int, int], rng: np.random.Generator) -> tuple[int, int]:
    """Top left corner of the cut, where ``free`` = (width, height) is what the picture has to spare."""
    if crop == "center":
        return free[0] // 2, free[1] // 2
    if crop == "random":
        return int(rng.integers(free[0] + 1)), int(rng.integers(free[1] + 1))
    corners = [(0, 0), (free[0], 0), (0, free[1]), free, (free[0] // 2, free[1] // 2)]  # of the ten, the flip makes the other five
    return corners[int(rng.integers(5))]


def cut(image: Image.Image, size: int, short_side: int, crop: Crop, box_first: bool, rng: np.random.Generator) -> np.ndarray:
    """(size, size, 3) uint8."""
    resized = resize_short_side(image.convert("RGB"), short_side, box_first)
    left, top = corner(crop, (resized.width - size, resized.height - size), rng)
    return np.asarray(resized.crop((left, top, left + size, top + size)))
