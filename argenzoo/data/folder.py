"""A folder of pictures whose sub-folders are the classes."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, UnidentifiedImageError
from pydantic import Field

from argenzoo.data.images import DataConfig
from argenzoo.errors import ArgenzooError

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}


class Folder:
    """Classes in the order of their names."""

    class Config(DataConfig):
        path: str | None = Field(None, description="the folder that holds one sub-folder a class")

    def __init__(self, config: Config) -> None:
        if config.path is None:
            raise ArgenzooError("data.path is not set: name the folder that holds one sub-folder of pictures a class")
        root = Path(config.path)
        if not root.is_dir():
            raise ArgenzooError(f"data.path {root} is no folder")
        self.classes = tuple(sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")))
        self._files = [
            (path, label)
            for label, name in enumerate(self.classes)
            for path in sorted((root / name).rglob("*"))
            if path.suffix.lower() in SUFFIXES
        ]
        found = {label for _, label in self._files}
        empty = [name for label, name in enumerate(self.classes) if label not in found]
        if not self.classes or empty:
            what = f"class folder '{empty[0]}' holds no pictures" if empty else "it has no sub-folders; each class is one"
            raise ArgenzooError(f"data.path {root}: {what} ({', '.join(sorted(SUFFIXES))})")

    def __len__(self) -> int:
        return len(self._files)

    def label(self, index: int) -> int:
        return self._files[index][1]

    def open(self, index: int) -> Image.Image:
        path = self._files[index][0]
        try:
            image = Image.open(path)
            image.load()
        except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise ArgenzooError(f"{path} is empty, truncated or no picture ({' '.join(str(error).split())})") from None
        return image
