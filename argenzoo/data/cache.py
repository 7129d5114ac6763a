"""Reading a cache of encoded tokens: what it holds, whether it is the recipe's, and its samples. Nothing grows with their number."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch.utils.data import Dataset

from argenzoo.data.crops import CUTS
from argenzoo.data.shards import Shard, open_shard
from argenzoo.data.views import Sample
from argenzoo.errors import ArgenzooError
from argenzoo.registry import Config
from argenzoo.rng import philox

MANIFEST = "cache.json"
PartName = Literal["train", "held_out"]
UNSEEN = {"path", "held_out_path", "cache", "in_memory", "corrupt", "check", "revision"}  # data settings that change no picture
AFTER = {"weights", "sha256", "latent_scale", "patch_size"}  # tokenizer settings that act after ``encode``
OPEN = 1024  # shards kept mapped


class PartInfo(Config):
    """Samples of the training or the held-out part; ``views`` of each."""

    count: int = Field(ge=0)
    views: int = Field(ge=1)
    corrupt: int = 0


class Manifest(Config):
    """``cache.json``, written when every shard is there."""

    format: Literal[1] = 1
    tokenizer: dict[str, Any]
    tokenizer_sha256: str
    data: dict[str, Any]
    cuts: int = 1
    image_size: int
    classes: tuple[str, ...]
    dtype: str
    shape: tuple[int, ...]
    largest: float = Field(description="id, or absolute value")
    per_shard: int
    parts: dict[PartName, PartInfo]
    about: dict[str, str]


def read_manifest(folder: str | Path) -> Manifest:
    """Raises ArgenzooError where there is no cache, or one that is not finished."""
    path = Path(folder) / MANIFEST
    if not path.is_file():
        started = any(Path(folder).glob("*.safetensors"))
        what = (
            "is not finished: run the same 'argenzoo cache' again, it goes on" if started else "is no cache: make it with 'argenzoo cache'"
        )
        raise ArgenzooError(f"data.cache {folder} {what}")
    try:
        return Manifest.parse(json.loads(path.read_text(encoding="utf-8")), str(path))
    except (ValueError, TypeError) as error:
        if isinstance(error, ArgenzooError):
            raise
        raise ArgenzooError(f"{path} is damaged ({error})") from None


def check_cache(manifest: Manifest, folder: str, tokenizer: dict[str, Any], tokenizer_sha256: str, data: dict[str, Any]) -> None:
    """Raises ArgenzooError where the cache was made from other pictures, in another way, or with another tokenizer.

    Args:
        tokenizer, data: the recipe's parts as plain values.
        tokenizer_sha256: of the weights that are loaded.
    """
    for kind, ours, theirs, free in (("data", data, manifest.data, UNSEEN), ("tokenizer", tokenizer, manifest.tokenizer, AFTER)):
        for key, value in json.loads(json.dumps(ours)).items():
            if key not in free and theirs.get(key, value) != value:
                raise ArgenzooError(f"data.cache {folder} was made with {kind}.{key} {theirs[key]}, the recipe says {value}")
    if tokenizer_sha256 != manifest.tokenizer_sha256:
        raise ArgenzooError(
            f"data.cache {folder} was made with another tokenizer: its weights' hash is {manifest.tokenizer_sha256[:12]}..."
        )
    if manifest.cuts != CUTS:
        raise ArgenzooError(f"data.cache {folder} was made by an older version, which cut pictures in another way: make it again")
    if (data.get("held_out_path") or data.get("held_out_split")) and not manifest.parts["held_out"].count:
        raise ArgenzooError(
            f"data.cache {folder} holds no held-out part: make it again with the held-out data of this recipe, or leave them out"
        )
    vocab_size = tokenizer.get("vocab_size")
    if np.issubdtype(np.dtype(manifest.dtype), np.integer) and vocab_size is not None and manifest.largest >= vocab_size:
        raise ArgenzooError(f"data.cache {folder} holds the id {manifest.largest:.0f}, the codebook has {vocab_size}")


def shard_path(folder: Path, part: PartName, number: int) -> Path:
    return folder / f"{part}_{number:06d}.safetensors"


class Cached(Dataset[Sample]):
    """A part of a cache. An item's key is (position, draw), as for ``Views``; the view is drawn in the same way."""

    encoded = True

    def __init__(self, folder: str | Path, manifest: Manifest, part: PartName, seed: int = 0, augment: bool = True) -> None:
        self.folder, self.part, self.seed, self.augment = Path(folder), part, seed, augment
        self.info, self.per_shard, self.classes = manifest.parts[part], manifest.per_shard, manifest.classes
        self.stepped_over = self.info.corrupt
        self._shape = (self.info.views, *manifest.shape)
        self._shards: dict[int, Shard] = {}

    def __len__(self) -> int:
        return self.info.count

    def label(self, position: int) -> int:
        shard, row = self._find(position)
        return int(shard.labels[row])

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        position, draw = key
        shard, row = self._find(position)
        view = int(philox(self.seed, "augment", draw).integers(self.info.views)) if self.augment else 0
        tokens = np.asarray(shard.tokens[row, view])
        wide = tokens.astype(np.int64 if np.issubdtype(tokens.dtype, np.integer) else np.float32)
        return Sample(torch.from_numpy(wide), int(shard.labels[row]))

    def _find(self, position: int) -> tuple[Shard, int]:
        number, row = divmod(position, self.per_shard)
        shard = self._shards.get(number)
        if shard is None:
            if len(self._shards) >= OPEN:
                self._shards.clear()
            shard = self._shards[number] = self._open(number)
        return shard, row

    def _open(self, number: int) -> Shard:
        path = shard_path(self.folder, self.part, number)
        shard = open_shard(path, scattered=True)
        expected = min(self.per_shard, len(self) - number * self.per_shard), *self._shape
        if shard.tokens.shape != expected:
            raise ArgenzooError(f"{path} holds {shard.tokens.shape}, the cache's manifest says {expected}: run 'argenzoo cache' again")
        return shard
