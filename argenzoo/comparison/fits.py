"""Power laws L = (beta X)^alpha, with and without an irreducible term (as in VAR, arXiv 2404.02905, after arXiv 2001.08361)."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import OptimizeWarning, curve_fit
from scipy.stats import t as students

from argenzoo.errors import ArgenzooError

CONFIDENCE = 0.95


def student(count: int) -> float:
    """Two-sided 95 % quantile for ``count`` - 1 degrees of freedom."""
    return float(students.ppf((1 + CONFIDENCE) / 2, count - 1))


@dataclass(frozen=True)
class Fit:
    """L = floor + (beta X)^alpha; alpha is negative where more is better.

    Args:
        log_beta: to base 10; beta itself leaves the range of floats where alpha is small.
        covariance: of (log beta X0, alpha[, floor]), X0 the geometric mean of the points; None where they leave no degree of freedom, or
            the floor lies at its bound, 0 or the least loss.
        correlation: of log L and log X, where there is no floor.
    """

    alpha: float
    log_beta: float
    floor: float
    parameters: np.ndarray
    covariance: np.ndarray | None
    centre: float
    freedom: int
    correlation: float | None

    def at(self, x: np.ndarray) -> np.ndarray:
        return law(np.log(x / self.centre), *self.parameters)

    def band(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
        """The 95 % confidence band of the curve, to first order; None without a degree of freedom."""
        if self.covariance is None:
            return None
        logs, middle = np.log(x / self.centre), self.at(x)
        gradient = np.stack([derivative(logs, self.parameters, i) for i in range(len(self.parameters))])  # (P, n)
        deviation = np.sqrt(np.einsum("pn,pq,qn->n", gradient, self.covariance, gradient).clip(0))
        width = student(self.freedom + 1) * deviation
        return middle - width, middle + width

    def alpha_interval(self) -> tuple[float, float] | None:
        if self.covariance is None:
            return None
        width = student(self.freedom + 1) * float(np.sqrt(self.covariance[1, 1]))
        return self.alpha - width, self.alpha + width

    def dump(self) -> dict[str, Any]:
        values = {"alpha": self.alpha, "alpha_interval": self.alpha_interval(), "log10_beta": self.log_beta, "floor": self.floor}
        return {**values, "degrees_of_freedom": self.freedom, "correlation": self.correlation}


def law(logs: np.ndarray, level: float, alpha: float, floor: float = 0.0) -> np.ndarray:
    """floor + exp(alpha (log x + level))."""
    return floor + np.exp(alpha * (logs + level))


def derivative(logs: np.ndarray, parameters: np.ndarray, number: int) -> np.ndarray:
    step = 1e-6 * max(1.0, abs(float(parameters[number])))
    up, down = parameters.copy(), parameters.copy()
    up[number] += step
    down[number] -= step
    return np.asarray((law(logs, *up) - law(logs, *down)) / (2 * step))


def fit(x: Any, losses: Any, irreducible: bool = False) -> Fit:
    """Least squares in log L (in L, with a floor, which is between 0 and the least loss).

    Raises:
        ArgenzooError: fewer points than parameters, or values that have no logarithm.
    """
    x, losses = np.asarray(x, np.float64), np.asarray(losses, np.float64)
    count = 2 + irreducible
    if len(x) < count or len(np.unique(x)) < 2:
        raise ArgenzooError(f"{len(x)} points can't fix a law of {count} parameters")
    if np.ptp(losses) == 0:
        raise ArgenzooError("the losses do not change with size: there is no law")
    if (x <= 0).any() or (losses <= 0).any():
        raise ArgenzooError("a power law needs sizes and losses above zero")
    centre = float(np.exp(np.log(x).mean()))
    logs, freedom = np.log(x / centre), len(x) - count
    parameters, covariance = (with_floor if irreducible else plain)(logs, losses)
    level, alpha = parameters[:2]
    floor = float(parameters[2]) if irreducible else 0.0
    correlation = None if irreducible else float(np.corrcoef(logs, np.log(losses))[0, 1])
    log_beta = float(level - np.log(centre)) / np.log(10)
    return Fit(float(alpha), log_beta, floor, parameters, covariance if freedom > 0 else None, centre, freedom, correlation)


def plain(logs: np.ndarray, losses: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """A line through log L; the covariance is moved from (intercept, slope) to (level, alpha)."""
    design = np.stack([np.ones_like(logs), logs], 1)
    (intercept, slope), *_ = np.linalg.lstsq(design, np.log(losses), rcond=None)
    slope = slope if abs(slope) > 1e-12 else 1e-12
    rest = np.log(losses) - design @ np.array([intercept, slope])
    parameters = np.array([intercept / slope, slope])
    if len(logs) <= 2:
        return parameters, None
    own = np.linalg.inv(design.T @ design) * float(rest @ rest) / (len(logs) - 2)
    jacobian = np.array([[1 / slope, -intercept / slope**2], [0.0, 1.0]])
    return parameters, jacobian @ own @ jacobian.T


def with_floor(logs: np.ndarray, losses: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    start = plain(logs, losses)[0]
    least, best = float(losses.min()), None
    for share in (0.0, 0.3, 0.6, 0.9):  # the floor has several local optima
        guess = [*plain(logs, np.maximum(losses - share * least, 1e-9))[0], share * least] if share else [*start, 0.0]
        bounds = ([-np.inf, -np.inf, 0.0], [np.inf, np.inf, least])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", OptimizeWarning)  # no covariance: as many points as parameters
            try:
                found, covariance = curve_fit(law, logs, losses, p0=guess, bounds=bounds, max_nfev=20_000)
            except RuntimeError:  # did not converge from here
                continue
        error = float(np.square(law(logs, *found) - losses).sum())
        if best is None or error < best[0]:
            best = (error, found, covariance)
    if best is None:
        raise ArgenzooError("no law with an irreducible term fits these points")
    at_bound = not 1e-6 * least < best[1][2] < (1 - 1e-6) * least
    return best[1], best[2] if np.isfinite(best[2]).all() and not at_bound else None


def frontier(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points (x, loss) that no cheaper one is as good as."""
    kept: list[tuple[float, float]] = []
    for x, loss in sorted(points):
        if not kept or loss < kept[-1][1]:
            kept.append((x, loss))
    return kept
