"""Reading a stranger's ``.npz``: what it holds is known before anything is allocated, and nothing is unpickled."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np

from argenzoo.errors import ArgenzooError
from argenzoo.evaluation.features import CHUNK

PICTURES = "arr_0"  # ADM's
WIDEST, LARGEST = 8192, 2048  # features; pixels a side


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """What can be wrong with a file, in one line. Encrypted archives and unknown compressions are RuntimeErrors."""
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError, KeyError, OSError) as error:
        raise ArgenzooError(f"--reference {path} can't be read as .npz ({' '.join(str(error).split())})") from None


def names(path: Path) -> set[str]:
    with readable(path), zipfile.ZipFile(path) as archive:
        return {name.removesuffix(".npy") for name in archive.namelist()}


def header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype]:
    """(shape, dtype) of an array; the file stands at its first value."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(file)
    if fortran and len(shape) > 1:
        raise ValueError("an array in Fortran's order")
    return shape, dtype


def statistics(path: Path, keys: Sequence[str]) -> dict[str, np.ndarray]:
    """mu (D,) and sigma (D, D) in float64."""
    found = {}
    with readable(path), zipfile.ZipFile(path) as archive:
        for key in keys:
            with archive.open(f"{key}.npy") as file:
                shape, dtype = header(file)
                if dtype.kind != "f" or len(shape) not in (1, 2) or max(shape) > WIDEST:
                    raise ValueError(f"{key} is {dtype} {shape}")
                blob = file.read(int(np.prod(shape)) * dtype.itemsize)
                found[key] = np.frombuffer(blob, dtype).reshape(shape).astype(np.float64)
    return found


def side(path: Path) -> int:
    """Pixels of the pictures' shorter side."""
    with readable(path), zipfile.ZipFile(path) as archive, archive.open(f"{PICTURES}.npy") as file:
        return min(shape_of(file)[1:3])


def shape_of(file: IO[bytes]) -> tuple[int, ...]:
    shape, dtype = header(file)
    if len(shape) != 4 or shape[-1] != 3 or dtype != np.uint8 or max(shape[1:3]) > LARGEST:
        raise ValueError(f"{PICTURES} is {dtype} {shape}: expected uint8 pictures (n, height, width, 3)")
    return shape


def pictures(path: Path) -> Iterator[np.ndarray]:
    """(n, H, W, 3) uint8, a chunk at a time: 10,000 pictures of 256 px are 2 GB."""
    with readable(path), zipfile.ZipFile(path) as archive, archive.open(f"{PICTURES}.npy") as file:
        shape = shape_of(file)
        for start in range(0, shape[0], CHUNK):
            count = min(CHUNK, shape[0] - start)
            yield np.frombuffer(file.read(count * int(np.prod(shape[1:]))), np.uint8).reshape(count, *shape[1:])
