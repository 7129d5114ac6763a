"""One file of a cache: a safetensors file of tokens and labels, memory-mapped, with its checksum."""

from __future__ import annotations

import hashlib
import json
import mmap
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from argenzoo.errors import ArgenzooError

ABOUT = "argenzoo"
DTYPES = {"U16": np.uint16, "I32": np.int32, "I64": np.int64, "F16": np.float16, "F32": np.float32}


@dataclass(frozen=True)
class Shard:
    """Samples of one file.

    Args:
        tokens: (n, views, ...) memory-mapped.
        labels: (n,) memory-mapped.
        about: what was written beside them.
    """

    tokens: np.ndarray
    labels: np.ndarray
    about: dict[str, str]

    def checksum(self) -> str:
        """SHA-256 of tokens and labels, read now."""
        return checksum(self.tokens, self.labels)


def checksum(tokens: np.ndarray, labels: np.ndarray) -> str:
    digest = hashlib.sha256()
    for array in (tokens, labels):
        digest.update(np.ascontiguousarray(array).view(np.uint8).data)
    return digest.hexdigest()


def write_shard(path: Path, tokens: np.ndarray, labels: np.ndarray, about: dict[str, str]) -> None:
    """Under a temporary name, then renamed: a file with its final name is complete."""
    tokens, labels = np.ascontiguousarray(tokens), np.ascontiguousarray(labels)
    facts = json.dumps({**about, "sha256": checksum(tokens, labels)}, sort_keys=True)  # one entry: the library orders several at random
    blob = save({"tokens": tokens, "labels": labels}, {ABOUT: facts})
    for left in path.parent.glob(f".{path.name}.*.tmp"):  # by a process that was killed
        left.unlink(missing_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(blob)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
    finally:
        temporary.unlink(missing_ok=True)


def open_shard(path: Path, scattered: bool = False) -> Shard:
    """Maps the file and reads its header alone.

    Args:
        scattered: samples will be read in any order; the system then fetches no neighbours of theirs from the disk.

    Raises:
        ArgenzooError: the file is missing, truncated or something else.
    """
    try:
        with path.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        if scattered and hasattr(mmap, "MADV_RANDOM"):
            mapped.madvise(mmap.MADV_RANDOM)
        length = int.from_bytes(mapped[:8], "little")
        header = json.loads(mapped[8 : 8 + length])
        about = json.loads(header.pop("__metadata__")[ABOUT])
        arrays = {
            name: np.ndarray(tuple(entry["shape"]), DTYPES[entry["dtype"]], mapped, 8 + length + entry["data_offsets"][0])
            for name, entry in header.items()
        }
        return Shard(arrays["tokens"], arrays["labels"], about)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArgenzooError(f"{path} is missing, truncated or no shard of a cache ({error}): run 'argenzoo cache' again") from None
