"""One file of a cache: a safetensors file of tokens and labels, memory-mapped, with its checksum."""

from __future__ import annotations

import hashlib
import json
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


def open_shard(path: Path) -> Shard:
    """Reads the header alone. Raises ArgenzooError where the file is missing, truncated or something else."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > 1 << 20:
                raise ValueError("no header")
            header = json.loads(file.read(length))
        about = json.loads(header.pop("__metadata__")[ABOUT])
        arrays = {name: _mapped(path, 8 + length, entry) for name, entry in header.items()}
        return Shard(arrays["tokens"], arrays["labels"], about)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArgenzooError(f"{path} is missing, truncated or no shard of a cache ({error}): run 'argenzoo cache' again") from None


def _mapped(path: Path, offset: int, entry: dict) -> np.ndarray:
    return np.memmap(path, DTYPES[entry["dtype"]], "r", offset + entry["data_offsets"][0], tuple(entry["shape"]))
