"""Inception features of pictures, kept by what they were computed from: nothing is computed twice, and an interrupted run goes on."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from argenzoo.errors import ArgenzooError
from argenzoo.evaluation.gaussian import Moments
from argenzoo.evaluation.inception import Inception
from argenzoo.evaluation.pictures import to_tensor
from argenzoo.versions import about
from argenzoo.weights import read_weights, save_weights, write_file

CHUNK = 50  # pictures a file
AT_ONCE = 5  # pictures through the Inception on a CPU: maps of more leave its caches (benchmarks/inception.py)
SUMMED = ("pool", "spatial")  # whose mean and covariance are wanted


def default_cache() -> Path:
    """Where features and statistics are kept between runs."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "argenzoo" / "evaluation"


class Pixels:
    """The hash of a set of pictures, which come bit by bit: of chunks of ``CHUNK``, whatever the bits were."""

    def __init__(self) -> None:
        self._whole = hashlib.sha256()
        self._waiting: list[np.ndarray] = []
        self.count = 0

    def add(self, pictures: np.ndarray) -> None:
        """(n, H, W, 3) uint8."""
        self._waiting.extend(pictures)
        self.count += len(pictures)
        while len(self._waiting) >= CHUNK:
            self._take(CHUNK)

    def finish(self) -> str:
        if self._waiting:
            self._take(len(self._waiting))
        return self._whole.hexdigest()

    def _take(self, count: int) -> None:
        chunk = np.stack(self._waiting[:count])
        del self._waiting[:count]
        digest = hashed(chunk)
        self._whole.update(digest.encode())
        self._note(chunk, digest)

    def _note(self, chunk: np.ndarray, digest: str) -> None:
        """Nothing but the hash is wanted."""


class Features(Pixels):
    """The hash, and the features' sums and sums of products: of a million pictures as little is kept as of a thousand.

    Args:
        cache: folder; a file a chunk, named by the weights' hash and the pixels'.

    Attributes:
        chunks: the files' names, in order.
    """

    def __init__(self, inception: Inception, cache: Path) -> None:
        super().__init__()
        self.inception, self.cache = inception, cache
        self.chunks: list[str] = []
        self.moments = {name: Moments() for name in SUMMED}

    def _note(self, chunk: np.ndarray, digest: str) -> None:
        path = file_of(self.cache, self.inception.sha256, digest)
        found = kept(path, len(chunk), self.inception.provides)
        if found is None:
            found = self.compute(chunk)
            write_file(path, lambda temporary: save_weights(temporary, found, about()))
        self.chunks.append(digest)
        for name, moments in self.moments.items():
            moments.add(found[name])

    def compute(self, pictures: np.ndarray) -> dict[str, Tensor]:
        """(n, H, W, 3) -> n rows of each."""
        return features_of(self.inception, pictures)


def features_of(inception: Inception, pictures: np.ndarray) -> dict[str, Tensor]:
    """(n, H, W, 3) uint8 -> n rows a name, in float32, which TF32 is not. Raises ArgenzooError where they are not finite."""
    device = next(inception.parameters()).device
    parts = to_tensor(pictures).split(AT_ONCE if device.type == "cpu" else len(pictures))
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        made = [inception.features(part.to(device)) for part in parts]
    found = {name: torch.cat([one[name] for one in made]).cpu() for name in made[0]}
    if not all(rows.isfinite().all() for rows in found.values()):
        raise ArgenzooError(f"the features of these pictures are not finite: are the Inception's weights ({inception.source}) whole?")
    return found


def hashed(pictures: np.ndarray) -> str:
    """Of a few pictures (n, H, W, 3) uint8."""
    return hashlib.sha256(f"{pictures.shape}".encode() + pictures.tobytes()).hexdigest()


def file_of(cache: Path, inception: str, digest: str) -> Path:
    return cache / "features" / inception[:16] / f"{digest}.safetensors"


def kept(path: Path, count: int, names: Iterable[str]) -> dict[str, Tensor] | None:
    """A chunk's features where a file has all of them; a file that is damaged is none."""
    if not path.is_file():
        return None
    try:
        found = read_weights(path)
    except ArgenzooError:
        return None
    whole = all(name in found and found[name].shape[:1] == (count,) and bool(found[name].isfinite().all()) for name in names)
    return found if whole else None
