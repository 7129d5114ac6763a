"""What generated pictures are compared with: a folder, a named set, a file of statistics, or one of ADM's ``.npz``."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from argenzoo.errors import ArgenzooError
from argenzoo.evaluation import npz
from argenzoo.evaluation.features import Features, Pixels, file_of
from argenzoo.evaluation.gaussian import Gaussian
from argenzoo.evaluation.inception import Inception
from argenzoo.evaluation.pictures import Chosen
from argenzoo.evaluation.statistics import KEYS, Statistics, read_statistics, reference, statistics_file, statistics_of
from argenzoo.rng import philox
from argenzoo.weights import read_about, read_weights, sha256

ADM = {
    "VIRTUAL_imagenet256_labeled.npz": "b32732719497e42660a9affb4a966068cba0855ac449b82015e34ec376d20758"
}  # as several projects record it


@dataclass(frozen=True)
class Reference:
    """Statistics, and where there are pictures their features.

    Args:
        pool, spatial: for FID and sFID; None where a file has none of them.
        rows: pool features (n, 2048) of at most so many, for KID, precision and recall; None where there are no pictures.
        facts: what a result says of it.
    """

    pool: Gaussian
    spatial: Gaussian | None
    rows: Callable[[int], Tensor] | None
    facts: dict[str, Any]


def of_pictures(pictures: Chosen, batch: int, inception: Inception, cache: Path) -> Reference:
    """Of a set at the samples' size; features and statistics are computed once."""
    pixels = Pixels()
    for some in pictures.batches(batch, "reading"):
        pixels.add(some)
    found, _ = reference(pixels.finish(), lambda: pictures.batches(batch, "reference"), inception, cache)
    if rows_of(cache, inception, found.chunks) is None:  # statistics are kept, features were deleted
        features = Features(inception, cache)
        for some in pictures.batches(batch, "reference"):
            features.add(some)
        found = statistics_of(features)
        found.save(statistics_file(cache, inception, found.pixels))
    return kept_reference(found, inception, cache, {"data": pictures.facts()})


def of_file(path: Path, size: int, inception: Inception, cache: Path) -> Reference:
    """Of ``argenzoo stats``' .safetensors, or of an .npz with mu and sigma, mu_s and sigma_s, or pictures as arr_0.

    Raises:
        ArgenzooError: no such file, none of these, statistics of another extractor, pictures of another size where the file says theirs.
    """
    if not path.is_file():
        raise ArgenzooError(f"--reference {path}: no such file, folder or set")
    if path.suffix == ".npz":
        return of_npz(path, size, inception, cache)
    if path.suffix != ".safetensors":
        raise ArgenzooError(f"--reference {path}: expected a folder, a set, .safetensors of 'argenzoo stats', or .npz")
    found = read_statistics(path)
    if found.inception != inception.sha256:
        raise ArgenzooError(
            f"--reference {path} was made with another Inception ({found.inception[:16]}) than is used now ({inception.sha256[:16]})"
        )
    check_size(path, read_about(path).get("size"), size)
    return kept_reference(found, inception, cache, {"file": path.name, "sha256": sha256(path)})


def check_size(path: Path, theirs: int | str | None, size: int) -> None:
    if theirs is not None and int(theirs) != size:
        raise ArgenzooError(
            f"--reference {path} is of pictures of {theirs} px, the samples have {size}: --resize {theirs} makes them alike"
        )


def kept_reference(found: Statistics, inception: Inception, cache: Path, facts: dict[str, Any]) -> Reference:
    rows = rows_of(cache, inception, found.chunks)
    return Reference(found.pool, found.spatial, rows, {**facts, "pixels": found.pixels, "count": found.count})


def rows_of(cache: Path, inception: Inception, chunks: Sequence[str]) -> Callable[[int], Tensor] | None:
    """The pool features of chunks in the cache; None where they are not all there."""
    files = [file_of(cache, inception.sha256, digest) for digest in chunks]
    return partial(some_rows, files) if files and all(file.is_file() for file in files) else None


def some_rows(files: Sequence[Path], most: int) -> Tensor:
    """Pool features of at most ``most`` pictures, drawn from all chunks; files are mapped, so what is not drawn is not read."""
    counts = [len(read_weights(file)["pool"]) for file in files]
    chosen = drawn(sum(counts), most)
    ends = np.cumsum(counts)
    parts = []
    for file, start, end in zip(files, ends - counts, ends, strict=True):
        here = chosen[(chosen >= start) & (chosen < end)]
        if len(here):
            parts.append(read_weights(file)["pool"][here - int(start)])
    return torch.cat(parts)


def drawn(count: int, most: int) -> Tensor:
    """Sorted positions of at most ``most`` of ``count``, always the same ones."""
    if count <= most:
        return torch.arange(count)
    return torch.from_numpy(np.sort(philox(0, "drawn", count).choice(count, most, replace=False)))


def of_npz(path: Path, size: int, inception: Inception, cache: Path) -> Reference:
    """ADM's file: its own statistics where it has them (of more pictures than it holds), and its pictures' features."""
    names = npz.names(path)
    arrays = npz.statistics(path, [key for key in KEYS if key in names])
    given = [Gaussian(arrays[mu], arrays[sigma]) if mu in arrays and sigma in arrays else None for mu, sigma in (KEYS[:2], KEYS[2:])]
    if npz.PICTURES not in names and given[0] is None:
        raise ArgenzooError(
            f"--reference {path} has neither pictures (arr_0) nor statistics (mu and sigma): it has {', '.join(sorted(names))}"
        )
    facts: dict[str, Any] = {"file": path.name, "sha256": sha256(path)}
    if ADM.get(path.name, facts["sha256"]) != facts["sha256"]:
        digests = f"SHA-256 {facts['sha256'][:16]}, theirs {ADM[path.name][:16]}"
        warnings.warn(f"--reference {path} is not ADM's file of that name ({digests}): made anew, or another's?", stacklevel=2)
    facts["statistics"] = "of the file" if given[0] is not None else "of its pictures"
    rows = None
    if npz.PICTURES in names:
        check_size(path, npz.side(path), size)
        features = Features(inception, cache)
        for some in npz.pictures(path):
            features.add(some)
        facts |= {"pixels": features.finish(), "count": features.count}
        rows = rows_of(cache, inception, features.chunks)
        given = given if given[0] is not None else [part.gaussian() for part in features.moments.values()]
    pool, spatial = given
    assert pool is not None
    return Reference(pool, spatial, rows, facts)
