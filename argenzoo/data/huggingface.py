"""Any image set with class labels that Hugging Face ``datasets`` can read: from the Hub, or a local folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pydantic import Field

from argenzoo.data.images import DataConfig, decode
from argenzoo.errors import ArgenzooError, suggestion


class HuggingFace:
    """Memory-mapped by ``datasets``; pictures are decoded here, so that a corrupt one is named. Needs ``argenzoo[data]``."""

    class Config(DataConfig):
        path: str | None = Field(None, description="a Hub repository, a folder of save_to_disk, or one that load_dataset reads")
        subset: str | None = Field(None, description="the data set's configuration, where it has several")
        revision: str | None = None
        split: str = "train"
        held_out_split: str | None = Field(None, description="a split to evaluate on; needs held_out: 0")
        image: str | None = Field(None, description="column; None: the only one of pictures")
        label: str | None = Field(None, description="column; None: the only one of class labels")

    def __init__(self, config: Config) -> None:
        if config.path is None:
            raise ArgenzooError("data.path is not set: name a repository on the Hub, or a folder that datasets can read")
        parts = [load(config, config.split)]
        if config.held_out_split is not None:
            parts.append(load(config, config.held_out_split))
            self.held_out = np.arange(len(parts[0]), len(parts[0]) + len(parts[1]))
        self.image = column(parts[0], "Image", config.image, "data.image")
        self.name = column(parts[0], "ClassLabel", config.label, "data.label")
        self.classes = tuple(parts[0].features[self.name].names)
        if any(part.features.get(self.name) != parts[0].features[self.name] for part in parts):
            raise ArgenzooError(f"data.held_out_split {config.held_out_split} has other classes than data.split {config.split}")
        self._parts = [part.cast_column(self.image, undecoded()) for part in parts]

    def __len__(self) -> int:
        return sum(map(len, self._parts))

    def _row(self, index: int, key: str) -> Any:
        for part in self._parts:
            if index < len(part):
                return part[index][key]
            index -= len(part)
        raise IndexError(index)

    def label(self, index: int) -> int:
        label = self._row(index, self.name)
        if label is None or not 0 <= label < len(self.classes):
            raise ArgenzooError(f"row {index} has label {label}: there are {len(self.classes)} classes")
        return int(label)

    def open(self, index: int) -> Image.Image:
        entry = self._row(index, self.image)
        name = f"picture of row {index}"
        if not entry or (entry.get("bytes") is None and entry.get("path") is None):
            raise ArgenzooError(f"{name} is missing")
        return decode(entry["bytes"] if entry.get("bytes") is not None else Path(entry["path"]), name)


def undecoded() -> Any:
    from datasets import Image as Feature

    return Feature(decode=False)


def load(config: HuggingFace.Config, split: str) -> Any:
    """One split. Raises ArgenzooError where it can't be had."""
    try:
        import datasets
    except ImportError:
        raise ArgenzooError("Hugging Face datasets is not installed: pip install 'argenzoo[data]'") from None
    path = str(config.path)
    try:
        if any((Path(path) / name).is_file() for name in ("dataset_info.json", "dataset_dict.json")):
            saved = datasets.load_from_disk(path)
            if isinstance(saved, datasets.DatasetDict):
                if split not in saved:
                    raise ArgenzooError(f"data.path {path} has no split '{split}'{suggestion(split, saved)}")
                return saved[split]
            return saved
        return datasets.load_dataset(path, config.subset, split=split, revision=config.revision)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        if isinstance(error, ArgenzooError):
            raise
        raise ArgenzooError(f"data.path {path} ({split}) can't be loaded: {' '.join(str(error).split())[:200]}") from None


def column(part: Any, kind: str, named: str | None, key: str) -> str:
    """The column of a feature type. Raises ArgenzooError where it is missing, of another type, or not the only one."""
    found = [name for name, feature in part.features.items() if type(feature).__name__ == kind]
    if named is not None and named not in found:
        raise ArgenzooError(f"{key} {named} is no {kind} column{suggestion(named, found)}")
    if named is None and len(found) != 1:
        raise ArgenzooError(f"these data have {len(found)} {kind} columns ({', '.join(found) or 'none'}): set {key}")
    return named or found[0]
