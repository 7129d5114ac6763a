"""Whether the figures can be trusted: real CIFAR-10 against itself, against its test set, against noise and blur.

    python benchmarks/metrics.py --data CIFAR10 --out results/metrics

Features are cached, so a second run takes seconds. The table goes to metrics.md: FID ours (sums in float64 over chunks) and by
torch-fidelity's own statistics of the same features, KID with its interval, precision and recall.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFilter
from torch import Tensor
from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_features_to_statistics, fid_statistics_to_metric

from argenzoo.evaluation.features import Features, default_cache
from argenzoo.evaluation.gaussian import Moments
from argenzoo.evaluation.inception import Inception, load_inception
from argenzoo.evaluation.metrics import kid, precision_recall
from argenzoo.evaluation.pictures import chosen
from argenzoo.evaluation.reference import rows_of
from argenzoo.recipe import data_part
from argenzoo.rng import philox

Change = Callable[[np.ndarray, int], np.ndarray]


def noise(deviation: float) -> Change:
    """Gaussian, in bytes; keyed by the picture's number."""

    def change(picture: np.ndarray, index: int) -> np.ndarray:
        drawn = philox(0, "noise", index).standard_normal(picture.shape) * deviation
        return np.asarray((picture + drawn).round().clip(0, 255), np.uint8)

    return change


def blur(radius: float) -> Change:
    """Gaussian, in pixels."""
    return lambda picture, index: np.asarray(Image.fromarray(picture).filter(ImageFilter.GaussianBlur(radius)))


def rows(data: str, split: str, num: int, inception: Inception, cache: Path, change: Change | None = None) -> Tensor:
    """Pool features (num, 2048) of pictures spread over a split; of the training set, over the part that recipes train on."""
    part = data_part({"name": "cifar10", "path": data, "split": split, "held_out": 0.05 if split == "train" else 0.0})

    def changed() -> Iterator[np.ndarray]:
        index = 0
        for pictures in chosen(part, 32, num, held_out=False).batches(50, f"{split}, {num}"):
            yield pictures if change is None else np.stack([change(picture, index + i) for i, picture in enumerate(pictures)])
            index += len(pictures)

    features = Features(inception, cache)
    for pictures in changed():
        features.add(pictures)
    features.finish()
    found = rows_of(cache, inception, features.chunks)
    assert found is not None
    return found(num)


def row(name: str, samples: Tensor, reference: Tensor) -> str:
    parts = []
    for features in (samples, reference):
        moments = Moments()
        moments.add(features)
        parts.append(moments.gaussian())
    theirs = fid_statistics_to_metric(*(fid_features_to_statistics(part) for part in (samples, reference)), verbose=False)[KEY_METRIC_FID]
    distance: dict[str, Any] = {**kid(samples, reference), **precision_recall(samples, reference)}
    low, high = distance["kid_interval"]
    words = f"{1000 * distance['kid']:.2f} ({1000 * low:.2f} to {1000 * high:.2f})"
    shares = f"{distance['precision']:.3f} | {distance['recall']:.3f}"
    count = f"{len(samples):,} / {len(reference):,}"
    return f"| {name} | {count} | {parts[0].distance(parts[1]):z.3f} | {theirs:z.3f} | {words} | {shares} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--inception")
    parser.add_argument("--cache", type=Path, default=default_cache())
    arguments = parser.parse_args()
    inception = load_inception(arguments.inception)

    def of(split: str, num: int, change: Change | None = None) -> Tensor:
        return rows(arguments.data, split, num, inception, arguments.cache, change)

    head = ["| samples | counts | FID | torch-fidelity's | KID x 1000 (95 %) | precision | recall |", "|---|---|---|---|---|---|---|"]
    test = of("test", 2500)
    train = of("train", 10_000)  # the reference of the studies
    made = [
        row("test set against the studies' reference", test, train),
        row("training set against test set", of("train", 2500), test),
        row("test set against itself", test, test),
    ]
    plain = of("test", 1000)
    changes = {f"noise of {d} levels": noise(d) for d in (8.0, 24.0, 64.0)} | {f"blur of {r} px": blur(r) for r in (0.5, 1.0, 2.0)}
    for name, change in changes.items():
        made.append(row(f"{name} against the same pictures", of("test", 1000, change), plain))
        print("\n".join([*head, *made]), flush=True)
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "metrics.md").write_text("\n".join([*head, *made]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
