"""Pictures -> PNG: the zoo's one rounding rule, and grids."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from einops import rearrange
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor


def to_uint8(pictures: Tensor) -> np.ndarray:
    """(B, 3, H, W) in [0, 1] -> (B, H, W, 3), rounded to nearest: round(255 x)."""
    return rearrange((pictures.float().clamp(0, 1) * 255).round().byte().cpu().numpy(), "b c h w -> b h w c")


def save_png(picture: np.ndarray, path: Path, facts: dict[str, str]) -> None:
    """(H, W, 3) uint8, with ``facts`` as text in the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    info = PngInfo()
    for key, value in facts.items():
        info.add_text(key, value)
    Image.fromarray(picture).save(path, pnginfo=info)


def grid(rows: Tensor, gap: int = 2) -> np.ndarray:
    """(R, columns, 3, H, W) in [0, 1] -> one picture (height, width, 3) uint8 on white."""
    pictures = rearrange(to_uint8(rows.flatten(0, 1)), "(r k) h w c -> r k h w c", r=len(rows))
    padded = np.pad(pictures, ((0, 0), (0, 0), (0, gap), (0, gap), (0, 0)), constant_values=255)
    return np.ascontiguousarray(rearrange(padded, "r k h w c -> (r h) (k w) c")[:-gap, :-gap])


def save_grid(rows: Tensor, path: Path, facts: dict[str, str]) -> None:
    save_png(grid(rows), path, facts)
