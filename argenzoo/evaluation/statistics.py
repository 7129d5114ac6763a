"""Reference statistics of a set's features, kept by the hash of its pixels."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from argenzoo.errors import ArgenzooError
from argenzoo.evaluation.features import Features
from argenzoo.evaluation.gaussian import Gaussian
from argenzoo.evaluation.inception import Inception
from argenzoo.versions import about
from argenzoo.weights import read_about, read_weights, save_weights, write_file

KEYS = ("mu", "sigma", "mu_s", "sigma_s")  # ADM's names: of the pool features, and of the spatial ones


@dataclass(frozen=True)
class Statistics:
    """Of ``count`` pictures with ``pixels`` as their hash.

    Args:
        pool, spatial: of FID's features, and of sFID's.
        inception: the extractor's hash.
        chunks: names of the files of features, in the cache where it was made.
    """

    pool: Gaussian
    spatial: Gaussian
    count: int
    pixels: str
    inception: str
    chunks: tuple[str, ...] = ()

    def save(self, path: Path, facts: dict[str, str] | None = None) -> None:
        own = {"count": str(self.count), "pixels": self.pixels, "inception": self.inception, **about(), **(facts or {})}
        arrays = (self.pool.mu, self.pool.sigma, self.spatial.mu, self.spatial.sigma)
        tensors = {key: torch.from_numpy(array) for key, array in zip(KEYS, arrays, strict=True)}
        digests = np.frombuffer(bytes.fromhex("".join(self.chunks)), np.uint8).reshape(-1, 32)
        tensors["chunks"] = torch.from_numpy(digests.copy())
        write_file(path, lambda temporary: save_weights(temporary, tensors, own))


def read_statistics(path: Path) -> Statistics:
    """Raises ArgenzooError where the file holds none."""
    state, facts = read_weights(path), read_about(path)
    try:
        mu, sigma, mu_s, sigma_s = (state[key].double().numpy() for key in KEYS)
        chunks = tuple(bytes(row).hex() for row in state["chunks"].numpy())
        pool, spatial = Gaussian(mu, sigma), Gaussian(mu_s, sigma_s)
        return Statistics(pool, spatial, int(facts["count"]), facts["pixels"], facts["inception"], chunks)
    except (KeyError, ValueError):
        raise ArgenzooError(f"{path} holds no statistics of features: 'argenzoo stats' makes them") from None


def statistics_of(features: Features) -> Statistics:
    """Of all that was added. Raises ArgenzooError for less than two pictures."""
    pixels = features.finish()
    pool, spatial = (moments.gaussian() for moments in features.moments.values())
    return Statistics(pool, spatial, features.count, pixels, features.inception.sha256, tuple(features.chunks))


def reference(pixels: str, batches: Callable[[], Iterable[np.ndarray]], inception: Inception, cache: Path) -> tuple[Statistics, bool]:
    """(statistics of a set whose pixels have this hash, whether they were kept already)."""
    path = statistics_file(cache, inception, pixels)
    if path.is_file():
        with suppress(ArgenzooError):  # damaged, or of an earlier version: made anew
            return read_statistics(path), True
    features = Features(inception, cache)
    for pictures in batches():
        features.add(pictures)
    found = statistics_of(features)
    found.save(statistics_file(cache, inception, found.pixels))
    return found, False


def statistics_file(cache: Path, inception: Inception, pixels: str) -> Path:
    return cache / "statistics" / inception.sha256[:16] / f"{pixels}.safetensors"
