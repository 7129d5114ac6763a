"""FID, sFID, Inception Score, KID with its interval, precision and recall, on features: torch-fidelity's functions."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch_fidelity.metric_isc import KEY_METRIC_ISC_MEAN, KEY_METRIC_ISC_STD, isc_features_to_metric
from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, KEY_METRIC_KID_STD, kid_features_to_metric
from torch_fidelity.metric_prc import KEY_METRIC_PRECISION, KEY_METRIC_RECALL, prc_features_to_metric

from argenzoo.errors import ArgenzooError
from argenzoo.evaluation.gaussian import Moments
from argenzoo.evaluation.reference import Reference, drawn

NO_PICTURES = "the reference holds no pictures, and their features are not in the cache: name a folder, a set, or an .npz with arr_0"
SUBSETS, SUBSET = 100, 1000  # of KID, torch-fidelity's
NEIGHBOURS = 3  # of precision and recall (arXiv 1904.06991)
MOST = 10_000  # real pictures of KID, precision and recall (ADM's file holds as many), and samples that KID's error is estimated from
BLOCK = 2_000  # pictures whose distances are held at a time
QUANTILE = 1.96  # of 95 %
FIGURES = ("fid", "sfid", "inception_score", "kid", "kid_interval", "precision", "recall")
PROTOCOL = {
    "fid": "Frechet distance (torch-fidelity) of FID Inception pool features",
    "sfid": "the same of the first 7 channels of mixed_6/conv, 17 x 17 (ADM's)",
    "inception_score": "torch-fidelity, logits without bias, 10 splits, shuffled with seed 2020",
    "real pictures of kid, precision, recall": f"all, or {MOST:,} drawn with a fixed seed where there are more",
    "kid": f"torch-fidelity, polynomial kernel of degree 3, mean over {SUBSETS} subsets of {SUBSET} (or all, where there are fewer)",
    "kid_interval": "95 %, normal: the standard error of the unbiased estimate over all pictures of both sets, and of the subsets' draw",
    "precision, recall": f"torch-fidelity, pool features (inception-v3-compat), {NEIGHBOURS} neighbours",
}


def measured(rows: Callable[[str], Iterable[Tensor]], reference: Reference) -> tuple[dict[str, Any], dict[str, str]]:
    """(figures, the reason of each that is None).

    Args:
        rows: name -> the samples' features, chunks (n, D) of pool and spatial, and of logits where there are any.
    """
    figures: dict[str, Any] = dict.fromkeys(FIGURES)
    reasons: dict[str, str] = {}
    pool = torch.cat(list(rows("pool")))
    attempt(figures, reasons, "fid", lambda: {"fid": frechet(pool.split(MOST), reference.pool)})
    attempt(figures, reasons, "sfid", lambda: {"sfid": spatial_distance(rows("spatial"), reference)})
    attempt(figures, reasons, "inception_score", lambda: inception_score(list(rows("logits"))))
    attempt(figures, reasons, "kid", lambda: kid(pool, real(reference)))
    attempt(figures, reasons, "precision", lambda: precision_recall(pool, real(reference)))
    for name, of in (("kid_interval", "kid"), ("recall", "precision")):
        if of in reasons:
            reasons[name] = reasons[of]
    return figures, reasons


def attempt(figures: dict[str, Any], reasons: dict[str, str], name: str, compute: Callable[[], dict[str, Any]]) -> None:
    try:
        figures |= compute()
    except ArgenzooError as error:
        reasons[name] = str(error)


def real(reference: Reference) -> Tensor:
    """The features of at most ``MOST`` of its pictures."""
    if reference.rows is None:
        raise ArgenzooError(NO_PICTURES)
    return reference.rows(MOST)


def frechet(chunks: Iterable[Tensor], other: Any) -> float:
    """Of chunks (n, D) and a Gaussian."""
    moments = Moments()
    for part in chunks:
        moments.add(part)
    return moments.gaussian().distance(other)


def spatial_distance(rows: Iterable[Tensor], reference: Reference) -> float:
    if reference.spatial is None:
        raise ArgenzooError("the reference has no spatial statistics (mu_s and sigma_s)")
    return frechet(rows, reference.spatial)


def inception_score(chunks: list[Tensor]) -> dict[str, Any]:
    """Mean over 10 splits, and their deviation (arXiv 1606.03498)."""
    if not chunks:
        raise ArgenzooError("these Inception weights have no final layer: torch-fidelity's own have one")
    logits = torch.cat(chunks)
    if len(logits) < 10:
        raise ArgenzooError(f"{len(logits)} pictures can't be split in 10")
    made = isc_features_to_metric(logits)
    return {"inception_score": made[KEY_METRIC_ISC_MEAN], "inception_score_std": made[KEY_METRIC_ISC_STD]}


def kid(samples: Tensor, features: Tensor) -> dict[str, Any]:
    """Kernel Inception distance (arXiv 1801.01401) of (n, D) and (m, D), and its 95 % interval."""
    size = min(SUBSET, len(samples), len(features))
    if size < 3:
        raise ArgenzooError(f"{size} pictures are too few for KID")
    settings = {"kid_subsets": SUBSETS, "kid_subset_size": size, "verbose": False}
    made = kid_features_to_metric(samples, features, **settings)
    mean = made[KEY_METRIC_KID_MEAN]
    draws = made[KEY_METRIC_KID_STD] ** 2 / SUBSETS
    error = (mmd_error(thinned(samples), thinned(features), len(samples), len(features)) ** 2 + draws) ** 0.5
    return {"kid": mean, "kid_interval": [mean - QUANTILE * error, mean + QUANTILE * error]}


def thinned(rows: Tensor) -> Tensor:
    """At most ``MOST``, drawn: labels come in turn or sorted, so that every k-th would be of a few classes."""
    return rows[drawn(len(rows), MOST)]


def mmd_error(x: Tensor, y: Tensor, n: int, m: int) -> float:
    """Standard error of the unbiased squared MMD of n and m pictures, to first order (Hoeffding's projections), from rows of each."""
    within_x, within_y = (((kernel(rows, rows).sum(1) - kernel_of_pairs(rows)) / (len(rows) - 1)) for rows in (x, y))
    across = kernel(x, y)
    own, theirs = 2 * (within_x - across.mean(1)), 2 * (within_y - across.mean(0))
    return float((own.var() / n + theirs.var() / m).sqrt())


def kernel(x: Tensor, y: Tensor) -> Tensor:
    """(x.y / D + 1)^3, (n, m) in float64 sums' precision."""
    return (x @ y.T / x.shape[1] + 1).double() ** 3


def kernel_of_pairs(x: Tensor) -> Tensor:
    """Of each row with itself, (n,)."""
    return (x.square().sum(1) / x.shape[1] + 1).double() ** 3


def precision_recall(samples: Tensor, features: Tensor) -> dict[str, Any]:
    """Share of samples near a real picture, and of real pictures near a sample."""
    fewest = min(len(samples), len(features))
    if fewest <= NEIGHBOURS:
        raise ArgenzooError(f"{fewest} pictures have no {NEIGHBOURS} neighbours")
    settings = {"prc_neighborhood": NEIGHBOURS, "prc_batch_size": BLOCK, "save_cpu_ram": True, "verbose": False}
    made = prc_features_to_metric(samples, features, **settings)
    return {"precision": made[KEY_METRIC_PRECISION], "recall": made[KEY_METRIC_RECALL]}
