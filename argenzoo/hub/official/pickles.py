"""Reading the authors' files: pickles from strangers, and safetensors. Nothing in them may run."""

from __future__ import annotations

import argparse
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from argenzoo.errors import ArgenzooError
from argenzoo.weights import read_weights

HARMLESS: list[Any] = [argparse.Namespace]  # LlamaGen's and MAR's files hold the command line they were trained with
AVERAGED, RAW = "model_ema", ("model", "module", "state_dict")  # under which a file keeps its weights
UNREADABLE = (OSError, RuntimeError, EOFError, pickle.UnpicklingError, ValueError, LookupError, TypeError, AttributeError)
State = dict[str, Tensor]


def read_official(source: str | Path | dict[str, Any], averaged: bool = True) -> State:
    """The tensors of a file or of an already loaded dict, under the authors' keys, memory-mapped where the format allows.

    Args:
        source: .pth, .pt, .ckpt or .safetensors, or a state dict, as it is or under ``model``, ``module`` or ``state_dict``.
        averaged: take ``model_ema`` where there is one.

    Raises:
        ArgenzooError: no file, no checkpoint (a web page, a git-lfs pointer), truncated, or with code in it, which is named.
    """
    if isinstance(source, dict):
        return unwrapped(source, "the state dict", averaged)
    path = Path(source)
    if not path.is_file():
        raise ArgenzooError(f"no checkpoint file {path}{' (it is a folder: name the file)' if path.is_dir() else ''}")
    refuse_impostors(path)
    content = read_weights(path) if path.suffix == ".safetensors" else read_pickle(path)
    return unwrapped(content, str(path), averaged)


def refuse_impostors(path: Path) -> None:
    """Raises ArgenzooError on what downloads leave in place of a checkpoint."""
    with path.open("rb") as file:
        head = file.read(512).lstrip().lower()
    if head.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise ArgenzooError(f"{path} is a web page, not a checkpoint: download the file itself (on the Hub: .../resolve/..., not /blob/)")
    if head.startswith(b"version https://git-lfs"):
        raise ArgenzooError(f"{path} is a git-lfs pointer, not the file itself: run 'git lfs pull' in its repository")
    if head.startswith(b"pk\x03\x04") and not zipfile.is_zipfile(path):
        raise ArgenzooError(f"{path} is truncated ({path.stat().st_size:,} bytes, and its end is missing): download it again")


def read_pickle(path: Path) -> Any:
    """A torch.save file. Only tensors, plain values and ``HARMLESS`` types load; raises ArgenzooError on any other, by name."""
    try:
        with torch.serialization.safe_globals(HARMLESS):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except UNREADABLE as error:
        text = " ".join(str(error).split())
        found = re.search(r"(?:GLOBAL|[Cc]lass) ([\w.]+\.[\w.]+)", text)
        if isinstance(error, pickle.UnpicklingError) and found:
            raise ArgenzooError(
                f"{path} is refused: it holds {found[1]}, which could run code when loaded; only weights are read"
            ) from None
        raise ArgenzooError(f"{path} is truncated or no checkpoint ({text[:160]})") from None


def unwrapped(content: Any, what: str, averaged: bool) -> State:
    """The weights out of what a training script saved around them."""
    if not isinstance(content, dict):
        raise ArgenzooError(f"{what} holds a {type(content).__name__}, not the weights of a model")
    wrappers = [key for key in ((AVERAGED,) if averaged else ()) + RAW if isinstance(content.get(key), dict)]
    if not averaged and not wrappers and AVERAGED in content:
        raise ArgenzooError(f"{what} holds averaged weights only: leave out averaged=False (--raw)")
    inner = content[wrappers[0]] if wrappers else content
    # at the top, beside the weights (FSDP), lie a Namespace and counters
    state = {str(key): value for key, value in inner.items() if isinstance(value, Tensor)}
    if not state:
        keys = ", ".join(sorted(map(str, inner))[:5]) or "nothing"
        raise ArgenzooError(f"{what} holds no weights: found {keys}, expected tensors, or them under {', '.join((AVERAGED, *RAW))}")
    return state
