"""Reading the authors' files: pickles from strangers, and safetensors. Nothing in them may run."""

from __future__ import annotations

import argparse
import pickle
import pickletools
import struct
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from argenzoo.errors import ArgenzooError
from argenzoo.weights import read_weights

HARMLESS: list[Any] = [argparse.Namespace]  # LlamaGen's and MAR's files hold the command line they were trained with
KNOWN = ("torch", "collections OrderedDict", "argparse Namespace")  # globals that are no news in a file that can't be read
AVERAGED, RAW = "model_ema", ("model", "module", "state_dict")  # under which a file keeps its weights
BESIDE = "ema"  # LlamaGen's own trainings may keep averaged weights here, which its scripts do not sample from
UNREADABLE = (
    OSError, RuntimeError, EOFError, pickle.UnpicklingError, ValueError, LookupError, TypeError, AttributeError, AssertionError,
    MemoryError, struct.error,
)  # fmt: skip
Source = str | Path | Mapping[str, Any]
State = dict[str, Tensor]


def read_official(source: Source, averaged: bool = True) -> State:
    """The tensors of a file or of an already loaded dict, under the authors' keys, memory-mapped where the format allows.

    Args:
        source: .pth, .pt, .ckpt or .safetensors, or a state dict, as it is or under ``model``, ``module`` or ``state_dict``.
        averaged: take ``model_ema`` where there is one.

    Raises:
        ArgenzooError: no file, no checkpoint (a web page, a git-lfs pointer), truncated, damaged, or with code in it, which is named.
    """
    what = name_of(source)
    if isinstance(source, Mapping):
        return unwrapped(source, what, averaged)
    if not isinstance(source, str | Path):
        raise ArgenzooError(f"expected a file or a state dict, got {what}")
    path = Path(source)
    if not path.is_file():
        raise ArgenzooError(f"no checkpoint file {path}{' (it is a folder: name the file)' if path.is_dir() else ''}")
    refuse_impostors(path)
    return unwrapped(read_weights(path) if path.suffix == ".safetensors" else read_pickle(path), what, averaged)


def name_of(source: Any) -> str:
    """What messages call it."""
    if isinstance(source, str | Path):
        return str(source)
    return "the state dict" if isinstance(source, Mapping) else f"a {type(source).__name__}"


def refuse_impostors(path: Path) -> None:
    """Raises ArgenzooError on what downloads leave in place of a checkpoint."""
    with path.open("rb") as file:
        head = file.read(512).removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if head.startswith((b"<!doctype", b"<html", b"<?xml", b"<head", b"<!--")):
        raise ArgenzooError(f"{path} is a web page, not a checkpoint: download the file itself (on the Hub: .../resolve/..., not /blob/)")
    if head.startswith(b"version https://git-lfs"):
        raise ArgenzooError(f"{path} is a git-lfs pointer, not the file itself: run 'git lfs pull' in its repository")
    if head.startswith(b"pk\x03\x04") and not zipfile.is_zipfile(path):
        raise ArgenzooError(f"{path} is truncated ({path.stat().st_size:,} bytes, and its end is missing): download it again")


def read_pickle(path: Path) -> Any:
    """A torch.save file. Only tensors, plain values and ``HARMLESS`` types load; raises ArgenzooError on any other, by name."""
    try:
        mapped = zipfile.is_zipfile(path) and checked(path)
        with torch.serialization.safe_globals(HARMLESS), warnings.catch_warnings(action="ignore"):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except UNREADABLE as error:
        if names := code_in(path):
            raise ArgenzooError(
                f"{path} is refused: it holds {', '.join(names[:3])}, which could run code when loaded; only weights are read"
            ) from None
        why = "" if isinstance(error, pickle.UnpicklingError) else f" ({' '.join(str(error).split())[:120]})"
        raise ArgenzooError(f"{path} is truncated or no checkpoint: expected a file of torch.save, or .safetensors{why}") from None


def checked(path: Path) -> bool:
    """Whether a torch.save archive can be mapped. Raises ValueError where a record fails its checksum: mapping would not notice."""
    with zipfile.ZipFile(path) as archive:
        records = archive.infolist()
        for record in records:
            if record.CRC:  # torch can leave it out
                try:
                    with archive.open(record) as file:
                        while file.read(1 << 24):
                            pass
                except zipfile.BadZipFile:
                    raise ValueError(f"record {record.filename} is damaged: download it again") from None
    return all(record.compress_type == zipfile.ZIP_STORED for record in records)


def code_in(path: Path) -> list[str]:
    """The globals that a pickle names beside those of weights, found without running it."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                blob = archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))
        else:
            blob = path.read_bytes()[: 1 << 24]
        return named_in(blob)
    except (*UNREADABLE, StopIteration, zipfile.BadZipFile):
        return []


def named_in(blob: bytes) -> list[str]:
    """``module.name`` of every global of a pickle, as far as it can be read."""
    found: dict[str, None] = {}
    texts: list[str] = []
    try:
        for opcode, argument, _ in pickletools.genops(blob):
            if isinstance(argument, str) and opcode.name not in ("GLOBAL", "INST"):
                texts.append(argument)
            name = argument if opcode.name in ("GLOBAL", "INST") else " ".join(texts[-2:]) if opcode.name == "STACK_GLOBAL" else None
            if name and not str(name).startswith(KNOWN):
                found[printable(str(name).replace(" ", "."))] = None
    except UNREADABLE:
        pass  # what was found until here counts
    return list(found)


def printable(text: str) -> str:
    """A stranger's text, fit for a message."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)[:80]


def unwrapped(content: Any, what: str, averaged: bool) -> State:
    """The weights out of what a training script saved around them."""
    if not isinstance(content, Mapping):
        raise ArgenzooError(f"{what} holds a {type(content).__name__}, not the weights of a model")
    wrappers = [key for key in ((AVERAGED,) if averaged else ()) + RAW if isinstance(content.get(key), Mapping)]
    if not averaged and not wrappers and AVERAGED in content:
        raise ArgenzooError(f"{what} holds averaged weights only: leave out averaged=False (--raw)")
    if not averaged and AVERAGED not in content:
        warnings.warn(f"{what} holds no averaged weights: averaged=False (--raw) has no effect", stacklevel=5)
    if wrappers and isinstance(content.get(BESIDE), Mapping):
        warnings.warn(f"{what} holds averaged weights under '{BESIDE}' as well: those under '{wrappers[0]}' are read", stacklevel=5)
    inner = content[wrappers[0]] if wrappers else content
    # at the top, beside the weights (FSDP), lie a Namespace and counters
    state = {key: value.detach() for key, value in inner.items() if isinstance(value, Tensor)}
    if not state:
        keys = ", ".join(sorted(printable(str(key)) for key in inner)[:5]) or "nothing"
        raise ArgenzooError(f"{what} holds no weights: found {keys}, expected tensors, or them under {', '.join((AVERAGED, *RAW))}")
    refuse_odd(state, what)
    return state


def refuse_odd(state: dict[Any, Tensor], what: str) -> None:
    """Raises ArgenzooError on keys that are no names and tensors that are no weights."""
    for key, tensor in state.items():
        if not isinstance(key, str) or printable(key) != key:
            raise ArgenzooError(f"{what} has a key that is no name: '{printable(str(key))}'")
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_nested:
            raise ArgenzooError(f"{what}: {key} is no plain tensor but {tensor.layout}{', quantized' if tensor.is_quantized else ''}")
        if tensor.dim() == 0 or tensor.numel() == 0:
            raise ArgenzooError(f"{what}: {key} is empty, {tuple(tensor.shape)}")
    if len({tensor.is_meta for tensor in state.values()}) > 1:
        raise ArgenzooError(f"{what} has tensors on the meta device among real ones")
