"""Mean and covariance of a set's features, kept by the hash of its pixels; the Fréchet distance between two."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_features_to_statistics, fid_statistics_to_metric

from argenzoo.evaluation.features import Features, set_hash
from argenzoo.evaluation.inception import Inception
from argenzoo.versions import about
from argenzoo.weights import read_about, read_weights, save_weights, write_file


@dataclass(frozen=True)
class Statistics:
    """Of ``count`` pictures with ``pixels`` as their hash: mu (2048,) and sigma (2048, 2048) in float64."""

    mu: np.ndarray
    sigma: np.ndarray
    count: int
    pixels: str
    inception: str

    def distance(self, other: Statistics) -> float:
        """Fréchet distance, by torch-fidelity's function."""
        pair = ({"mu": part.mu, "sigma": part.sigma} for part in (self, other))
        return fid_statistics_to_metric(*pair, verbose=False)[KEY_METRIC_FID]

    def save(self, path: Path) -> None:
        facts = {"count": str(self.count), "pixels": self.pixels, "inception": self.inception, **about()}
        tensors = {"mu": torch.from_numpy(self.mu), "sigma": torch.from_numpy(self.sigma)}
        write_file(path, lambda temporary: save_weights(temporary, tensors, facts))


def read_statistics(path: Path) -> Statistics:
    state, facts = read_weights(path), read_about(path)
    return Statistics(state["mu"].numpy(), state["sigma"].numpy(), int(facts["count"]), facts["pixels"], facts["inception"])


def statistics_of(features: Tensor, pixels: str, inception: str) -> Statistics:
    """Of features (N, 2048) in float32."""
    found = fid_features_to_statistics(features)
    return Statistics(found["mu"].astype(np.float64), found["sigma"].astype(np.float64), len(features), pixels, inception)


def reference(batches: Callable[[], Iterable[np.ndarray]], inception: Inception, cache: Path) -> tuple[Statistics, Path]:
    """(statistics of a set of (n, H, W, 3) uint8 batches, their file), computed where the cache has none of this hash."""
    path = cache / "statistics" / inception.sha256[:16] / f"{set_hash(iter(batches()))}.safetensors"
    if not path.is_file():
        features = Features(inception, cache)
        for pictures in batches():
            features.add(pictures)
        statistics_of(*features.finish(), inception.sha256).save(path)
    return read_statistics(path), path
