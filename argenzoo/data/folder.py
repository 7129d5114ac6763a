"""A folder of pictures whose sub-folders are the classes."""

from __future__ import annotations

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
        self.classes, self._files = scan(Path(config.path), "data.path")
        if config.held_out_path is not None:
            classes, files = scan(Path(config.held_out_path), "data.held_out_path")
            if classes != self.classes:
                other = sorted(set(classes) ^ set(self.classes))
                raise ArgenzooError(f"data.held_out_path {config.held_out_path} has other classes than data.path: {', '.join(other[:3])}")
            self.held_out = np.arange(len(self._files), len(self._files) + len(files))
            self._files += files

    def __len__(self) -> int:
        return len(self._files)

    def label(self, index: int) -> int:
        return self._files[index][1]

    def open(self, index: int) -> Image.Image:
        path = self._files[index][0]
        return decode(path, str(path))


def scan(root: Path, key: str) -> tuple[tuple[str, ...], list[tuple[Path, int]]]:
    """(class names, (file, label) of every picture). Raises ArgenzooError where there are none."""
    if not root.is_dir():
        raise ArgenzooError(f"{key} {root} is no folder")
    classes = tuple(sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")))
    files = [
        (path, label) for label, name in enumerate(classes) for path in sorted((root / name).rglob("*")) if path.suffix.lower() in SUFFIXES
    ]
    found = {label for _, label in files}
    empty = [name for label, name in enumerate(classes) if label not in found]
    if not classes or empty:
        what = f"class folder '{empty[0]}' holds no pictures" if empty else "it has no sub-folders; each class is one"
        raise ArgenzooError(f"{key} {root}: {what} ({', '.join(sorted(SUFFIXES))})")
    return classes, files
