"""Mean and covariance of features, gathered bit by bit, and the Frechet distance between two."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_statistics_to_metric

from argenzoo.errors import ArgenzooError

FEWEST = 2  # pictures that have a covariance


@dataclass(frozen=True)
class Gaussian:
    """mu (D,) and sigma (D, D) in float64. Raises ArgenzooError for anything else, which a stranger's file may hold."""

    mu: np.ndarray
    sigma: np.ndarray

    def __post_init__(self) -> None:
        shapes = self.mu.shape, self.sigma.shape
        if self.mu.ndim != 1 or self.sigma.shape != (len(self.mu), len(self.mu)):
            raise ArgenzooError(f"statistics of features have mu (D,) and sigma (D, D), not {shapes[0]} and {shapes[1]}")
        if not (np.isfinite(self.mu).all() and np.isfinite(self.sigma).all()):
            raise ArgenzooError("these statistics of features are not finite")

    def distance(self, other: Gaussian) -> float:
        """Frechet distance, by torch-fidelity's function. Raises ArgenzooError where the features are others."""
        if self.mu.shape != other.mu.shape:
            raise ArgenzooError(f"these statistics have {len(self.mu)} and {len(other.mu)} features: they are of different layers")
        pair = ({"mu": part.mu, "sigma": part.sigma} for part in (self, other))
        return fid_statistics_to_metric(*pair, verbose=False)[KEY_METRIC_FID]


class Moments:
    """Sum and sum of products of rows (n, D), in float64."""

    def __init__(self) -> None:
        self.count = 0
        self.total: Tensor | float = 0.0  # (D,)
        self.products: Tensor | float = 0.0  # (D, D)

    def add(self, rows: Tensor) -> None:
        rows = rows.double()
        self.count += len(rows)
        self.total = self.total + rows.sum(0)
        self.products = self.products + rows.T @ rows

    def gaussian(self) -> Gaussian:
        """Raises ArgenzooError for less than two rows."""
        if self.count < FEWEST:
            plural = "s have" if self.count != 1 else " has"
            raise ArgenzooError(f"{self.count} picture{plural} no covariance: at least {FEWEST} are needed, thousands make sense")
        assert isinstance(self.total, Tensor)
        assert isinstance(self.products, Tensor)
        mu = self.total / self.count
        sigma = (self.products - self.count * torch.outer(mu, mu)) / (self.count - 1)
        return Gaussian(mu.numpy(), sigma.numpy())
