"""Fashion-MNIST (Xiao et al., arXiv 1708.07747) from its four idx files, packed or not (Debian: dataset-fashion-mnist)."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from argenzoo.data.images import Arrays, DataConfig
from argenzoo.errors import ArgenzooError

CLASSES = ("T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle-boot")
PREFIX = {"train": "train", "test": "t10k"}


class FashionMNIST(Arrays):
    """60,000 + 10,000 grey pictures of 28 px, kept in memory. MNIST's own files are read as well: the format is the same."""

    class Config(DataConfig):
        path: str | None = Field(None, description="folder with train-images-idx3-ubyte(.gz) and the other three")
        split: Literal["train", "test"] = "train"
        flip: bool = False

    def __init__(self, config: Config) -> None:
        if config.path is None:
            raise ArgenzooError("data.path is not set: name the folder of Fashion-MNIST's idx files (Debian: dataset-fashion-mnist)")
        root, prefix = Path(config.path), PREFIX[config.split]
        pictures, labels = idx(root, f"{prefix}-images-idx3-ubyte", 3), idx(root, f"{prefix}-labels-idx1-ubyte", 1)
        super().__init__(pictures, labels, CLASSES, str(root))


def idx(root: Path, name: str, dims: int) -> np.ndarray:
    """An idx file of unsigned bytes: magic 0 0 8 dims, the sizes as big-endian 32-bit numbers, the values."""
    path = next((path for path in (root / name, root / f"{name}.gz") if path.is_file()), None)
    if path is None:
        raise ArgenzooError(f"data.path {root} holds no {name} or {name}.gz")
    try:
        blob = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        sizes = np.frombuffer(blob, ">u4", dims, offset=4)
        if blob[:4] != bytes([0, 0, 8, dims]):
            raise ValueError("another magic number")
        return np.frombuffer(blob, np.uint8, offset=4 + 4 * dims).reshape(tuple(sizes.tolist()))
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise ArgenzooError(f"{path} is truncated or no idx file ({error})") from None
