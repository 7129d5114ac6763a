"""Inception features of pictures, kept by what they were computed from: nothing is computed twice, and an interrupted run goes on."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from argenzoo.errors import ArgenzooError
from argenzoo.evaluation.inception import Inception
from argenzoo.evaluation.pictures import to_tensor
from argenzoo.versions import about
from argenzoo.weights import read_weights, save_weights, write_file

CHUNK = 50  # pictures a file, and at a time


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
        digest = hashlib.sha256(f"{chunk.shape}".encode() + chunk.tobytes()).hexdigest()
        self._whole.update(digest.encode())
        self._note(chunk, digest)

    def _note(self, chunk: np.ndarray, digest: str) -> None:
        """Nothing but the hash is wanted."""


class Features(Pixels):
    """The hash, and the features' sum and sum of products: of a million pictures as little is kept as of a thousand.

    Args:
        cache: folder; a file a chunk, named by the weights' hash and the pixels'.
    """

    def __init__(self, inception: Inception, cache: Path) -> None:
        super().__init__()
        self.inception, self.folder = inception.to(memory_format=torch.channels_last), cache / "features" / inception.sha256[:16]
        self.total: Tensor | float = 0.0  # (2048,)
        self.products: Tensor | float = 0.0  # (2048, 2048)

    def _note(self, chunk: np.ndarray, digest: str) -> None:
        path = self.folder / f"{digest}.safetensors"
        features = kept(path, len(chunk))
        if features is None:
            features = self.compute(chunk)
            if not features.isfinite().all():
                raise ArgenzooError(
                    f"the features of these pictures are not finite: are the Inception's weights ({self.inception.source}) whole?"
                )
            made = {"features": features}
            write_file(path, lambda temporary: save_weights(temporary, made, about()))
        self.total = self.total + features.double().sum(0)
        self.products = self.products + features.double().T @ features.double()

    @torch.inference_mode()
    def compute(self, pictures: np.ndarray) -> Tensor:
        """(n, 2048) in float32, which TF32 is not."""
        device = next(self.inception.parameters()).device
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            return self.inception(to_tensor(pictures).to(device))[0].cpu()


def kept(path: Path, count: int) -> Tensor | None:
    """A chunk's features where a file has them; a file that is damaged is none."""
    if not path.is_file():
        return None
    try:
        features = read_weights(path).get("features")
    except ArgenzooError:
        return None
    whole = features is not None and features.dim() == 2 and len(features) == count and bool(features.isfinite().all())
    return features if whole else None
