"""Mean and covariance of a set's features, kept by the hash of its pixels; the Frechet distance between two."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_statistics_to_metric

from argenzoo.errors import ArgenzooError
from argenzoo.evaluation.features import Features
from argenzoo.evaluation.inception import Inception
from argenzoo.versions import about
from argenzoo.weights import read_about, read_weights, save_weights, write_file

FEWEST = 2  # pictures that have a covariance


@dataclass(frozen=True)
class Statistics:
    """Of ``count`` pictures with ``pixels`` as their hash: mu (2048,) and sigma (2048, 2048) in float64."""

    mu: np.ndarray
    sigma: np.ndarray
    count: int
    pixels: str
    inception: str

    def distance(self, other: Statistics) -> float:
        """Frechet distance, by torch-fidelity's function."""
        pair = ({"mu": part.mu, "sigma": part.sigma} for part in (self, other))
        return fid_statistics_to_metric(*pair, verbose=False)[KEY_METRIC_FID]

    def save(self, path: Path, facts: dict[str, str] | None = None) -> None:
        own = {"count": str(self.count), "pixels": self.pixels, "inception": self.inception, **about(), **(facts or {})}
        tensors = {"mu": torch.from_numpy(self.mu), "sigma": torch.from_numpy(self.sigma)}
        write_file(path, lambda temporary: save_weights(temporary, tensors, own))


def read_statistics(path: Path) -> Statistics:
    state, facts = read_weights(path), read_about(path)
    try:
        return Statistics(state["mu"].numpy(), state["sigma"].numpy(), int(facts["count"]), facts["pixels"], facts["inception"])
    except (KeyError, ValueError):
        raise ArgenzooError(f"{path} holds no statistics of features: 'argenzoo stats' makes them") from None


def statistics_of(features: Features) -> Statistics:
    """Of all that was added. Raises ArgenzooError for less than two pictures."""
    pixels, count = features.finish(), features.count
    if count < FEWEST:
        raise ArgenzooError(f"{count} picture{'s' * (count != 1)} have no covariance: at least {FEWEST} are needed, thousands make sense")
    assert isinstance(features.total, Tensor)
    assert isinstance(features.products, Tensor)
    mu = features.total / count
    sigma = (features.products - count * torch.outer(mu, mu)) / (count - 1)
    return Statistics(mu.numpy(), sigma.numpy(), count, pixels, features.inception.sha256)


def reference(pixels: str, batches: Callable[[], Iterable[np.ndarray]], inception: Inception, cache: Path) -> tuple[Statistics, bool]:
    """(statistics of a set whose pixels have this hash, whether they were kept already)."""
    path = statistics_file(cache, inception, pixels)
    if path.is_file():
        return read_statistics(path), True
    features = Features(inception, cache)
    for pictures in batches():
        features.add(pictures)
    found = statistics_of(features)
    found.save(statistics_file(cache, inception, found.pixels))
    return found, False


def statistics_file(cache: Path, inception: Inception, pixels: str) -> Path:
    return cache / "statistics" / inception.sha256[:16] / f"{pixels}.safetensors"
