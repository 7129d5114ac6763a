"""A folder of pictures whose sub-folders are the classes; without any, it is one class."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from pydantic import Field

from argenzoo.data.images import DataConfig, decode
from argenzoo.errors import ArgenzooError

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}


class Folder:
    """Classes in the order of their names."""

    class Config(DataConfig):
        path: str | None = Field(None, description="the folder that holds one sub-folder a class")
        held_out_path: str | None = Field(None, description="a second such folder to evaluate on (ImageNet's val); needs held_out: 0")

    def __init__(self, config: Config) -> None:
        if config.path is None:
            raise ArgenzooError("data.path is not set: name the folder that holds one sub-folder of pictures a class")
        self.classes, names, labels = scan(Path(config.path), "data.path")
        self._parts = [(Path(config.path), names, labels)]
        if config.held_out_path is not None:
            classes, names, labels = scan(Path(config.held_out_path), "data.held_out_path")
            if classes != self.classes:
                other = sorted(set(classes) ^ set(self.classes))
                raise ArgenzooError(f"data.held_out_path {config.held_out_path} has other classes than data.path: {', '.join(other[:3])}")
            self.held_out = np.arange(len(self), len(self) + len(names))
            self._parts.append((Path(config.held_out_path), names, labels))

    def __len__(self) -> int:
        return sum(len(names) for _, names, _ in self._parts)

    def label(self, index: int) -> int:
        _, _, labels, row = self._find(index)
        return int(labels[row])

    def open(self, index: int) -> Image.Image:
        root, names, _, row = self._find(index)
        path = root / os.fsdecode(names[row])
        return decode(path, str(path))

    def _find(self, index: int) -> tuple[Path, np.ndarray, np.ndarray, int]:
        for root, names, labels in self._parts:
            if index < len(names):
                return root, names, labels, index
            index -= len(names)
        raise IndexError(index)


def scan(root: Path, key: str) -> tuple[tuple[str, ...], np.ndarray, np.ndarray]:
    """(class names, every picture's path below ``root`` as bytes, its label): arrays, which worker processes share.

    Raises:
        ArgenzooError: there is no such folder, or a class without pictures.
    """
    if not root.is_dir():
        raise ArgenzooError(f"{key} {root} is no folder")
    classes = tuple(sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")))
    if not classes and (flat := sorted(pictures_in(root, "."))):  # no classes: all one
        return (root.resolve().name,), np.array(flat, dtype=bytes), np.zeros(len(flat), dtype=np.int32)
    found = [sorted(pictures_in(root, name)) for name in classes]
    empty = [name for name, names in zip(classes, found, strict=True) if not names]
    if not classes or empty:
        what = f"class folder '{empty[0]}' holds no pictures" if empty else "it has no sub-folders; each class is one"
        raise ArgenzooError(f"{key} {root}: {what} ({', '.join(sorted(SUFFIXES))})")
    labels = np.repeat(np.arange(len(classes), dtype=np.int32), [len(names) for names in found])
    return classes, np.array([name for names in found for name in names], dtype=bytes), labels


def pictures_in(root: Path, name: str) -> Iterator[bytes]:
    """Paths below ``root`` of a class's pictures, at any depth."""
    for folder, _, files in os.walk(root / name):
        inner = os.path.relpath(folder, root)
        yield from (os.fsencode(os.path.join(inner, file)) for file in files if os.path.splitext(file)[1].lower() in SUFFIXES)
