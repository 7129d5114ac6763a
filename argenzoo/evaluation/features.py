"""Inception features of pictures, kept by what they were computed from: nothing is computed twice, and an interrupted run goes on."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from argenzoo.evaluation.inception import Inception
from argenzoo.versions import about
from argenzoo.weights import read_weights, save_weights, write_file

CHUNK = 50  # pictures a file, and at a time


def default_cache() -> Path:
    """Where features and statistics are kept between runs."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "argenzoo" / "evaluation"


def pixel_hash(pictures: np.ndarray) -> str:
    """Of (n, H, W, 3) uint8: shape and pixels."""
    return hashlib.sha256(f"{pictures.shape}".encode() + np.ascontiguousarray(pictures).tobytes()).hexdigest()


class Features:
    """Collects the features of pictures that come bit by bit.

    Args:
        cache: folder; a file a chunk, named by the weights' hash and the pixels'.
    """

    def __init__(self, inception: Inception, cache: Path) -> None:
        self.inception, self.folder = inception.to(memory_format=torch.channels_last), cache / "features" / inception.sha256[:16]
        self._waiting: list[np.ndarray] = []
        self._done: list[Tensor] = []
        self._hash = hashlib.sha256()

    def add(self, pictures: np.ndarray) -> None:
        """(n, H, W, 3) uint8."""
        self._waiting.extend(pictures)
        while len(self._waiting) >= CHUNK:
            self._compute(CHUNK)

    def finish(self) -> tuple[Tensor, str]:
        """((N, 2048) of all that was added, the hash of their pixels)."""
        if self._waiting:
            self._compute(len(self._waiting))
        return torch.cat(self._done), self._hash.hexdigest()

    def _compute(self, count: int) -> None:
        pictures = np.stack(self._waiting[:count])
        del self._waiting[:count]
        digest = pixel_hash(pictures)
        self._hash.update(digest.encode())
        path = self.folder / f"{digest}.safetensors"
        if not path.is_file():
            features = self._features(pictures)
            write_file(path, lambda temporary: save_weights(temporary, {"features": features}, about()))
        self._done.append(read_weights(path)["features"])

    @torch.inference_mode()
    def _features(self, pictures: np.ndarray) -> Tensor:
        device = next(self.inception.parameters()).device
        return self.inception(torch.from_numpy(pictures).permute(0, 3, 1, 2).to(device))[0].cpu()


def set_hash(chunks: Iterator[np.ndarray]) -> str:
    """What ``Features.finish`` would say of these pictures, without computing features."""
    whole = hashlib.sha256()
    waiting: list[np.ndarray] = []
    for pictures in chunks:
        waiting.extend(pictures)
        while len(waiting) >= CHUNK:
            whole.update(pixel_hash(np.stack(waiting[:CHUNK])).encode())
            del waiting[:CHUNK]
    if waiting:
        whole.update(pixel_hash(np.stack(waiting)).encode())
    return whole.hexdigest()
