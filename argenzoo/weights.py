"""Files of weights: safetensors, in one piece or in shards; hashes; strict filling."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from argenzoo.errors import ArgenzooError

SHARD = "5GB"


def replace_text(path: Path, text: str) -> None:
    """The whole file or the old one, never half of it."""
    write_file(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def read_json(path: Path) -> dict[str, Any]:
    """A file of ours. Raises ArgenzooError where it is damaged."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError):
        raise ArgenzooError(f"{path} is damaged: remove it") from None


def write_file(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a temporary file, then rename it; folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}-{secrets.token_hex(4)}.tmp{path.suffix}")  # nodes share numbers of processes
    try:
        write(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def save_weights(path: Path, state: dict[str, Tensor], about: dict[str, str], shard_size: str | None = None) -> None:
    """A safetensors file whose metadata says what made it; above ``shard_size`` (such as ``5GB``), shards and their index.

    Raises:
        OSError: a full disk, a folder that can't be written to.
    """
    state = untied({key: tensor.detach().cpu().contiguous() for key, tensor in state.items()})
    names, index = shards(path, state, shard_size) if shard_size else ({path.name: list(state)}, None)
    for name, keys in names.items():
        try:
            save_file({key: state[key] for key in keys}, path.with_name(name), metadata=about)
        except SafetensorError as error:  # which is no OSError
            raise OSError(f"{path.with_name(name)} can't be written ({error})") from None
        path.with_name(name).chmod(usual_mode())  # safetensors keeps its files from everybody else
    if index is not None:
        replace_text(index_of(path), json.dumps(index, indent=1) + "\n")


def untied(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Each tensor with memory of its own, as safetensors wants it."""
    seen: set[int] = set()
    out = {}
    for key, tensor in state.items():
        out[key] = tensor.clone() if tensor.data_ptr() in seen else tensor
        seen.add(tensor.data_ptr())
    return out


def usual_mode() -> int:
    """Of a new file of this user."""
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


def shards(path: Path, state: dict[str, Tensor], size: str) -> tuple[dict[str, list[str]], dict[str, Any] | None]:
    """(file -> its keys, the index or None where one file is enough), as the Hub cuts and names them."""
    from huggingface_hub import split_torch_state_dict_into_shards

    plan = split_torch_state_dict_into_shards(state, filename_pattern=f"{path.stem}{{suffix}}{path.suffix}", max_shard_size=size)
    index = {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
    return plan.filename_to_tensors, index if plan.is_sharded else None


def index_of(path: Path) -> Path:
    """Of a sharded file: which tensor lies where."""
    return path.with_name(f"{path.name}.index.json")


def there(path: Path) -> bool:
    """Whether there are weights, in one file or in shards."""
    return path.is_file() or index_of(path).is_file()


def files_of(path: Path) -> list[Path]:
    """The files of weights: one, or the shards that the index names.

    Raises:
        ArgenzooError: none, a broken index, or one that names files elsewhere.
    """
    if path.is_file() or not index_of(path).is_file():
        return [path]
    try:
        names = sorted({str(name) for name in json.loads(index_of(path).read_text(encoding="utf-8"))["weight_map"].values()})
        names[0]
    except (ValueError, KeyError, AttributeError, TypeError, IndexError):
        raise ArgenzooError(f"{index_of(path)} is no index of shards") from None
    if any(Path(name).name != name for name in names):
        raise ArgenzooError(f"{index_of(path)} names files outside its folder")
    return [path.with_name(name) for name in names]


def read_weights(path: Path) -> dict[str, Tensor]:
    """A safetensors file or its shards, memory-mapped. Raises ArgenzooError where one is missing, truncated or something else."""
    state: dict[str, Tensor] = {}
    for file in files_of(path):
        with readable(file):
            state |= load_file(file)
    return state


def read_about(path: Path) -> dict[str, str]:
    """The metadata that ``save_weights`` wrote; empty for a file from elsewhere. Raises as ``read_weights`` does."""
    first = files_of(path)[0]
    with readable(first), safe_open(first, framework="pt") as file:
        return file.metadata() or {}


@contextmanager
def readable(file: Path) -> Iterator[None]:
    """safetensors' errors as ours."""
    if not file.is_file():
        raise ArgenzooError(f"no weights file {file}")
    try:
        yield
    except (SafetensorError, OSError) as error:
        raise ArgenzooError(f"{file} is truncated or no safetensors file ({' '.join(str(error).split())})") from None


def load_strict(module: nn.Module, state: dict[str, Tensor], what: str, assign: bool = True) -> None:
    """Fill ``module``: every key on both sides, every shape the same, or ArgenzooError. Half precision becomes the module's own.

    Args:
        what: named in the message.
        assign: the file's tensors become the module's (a model on the meta device is filled so); else they are copied into it.
    """
    own = module.state_dict()
    ours = {key: tuple(tensor.shape) for key, tensor in own.items()}
    theirs = {key: tuple(tensor.shape) for key, tensor in state.items()}
    missing, unexpected = sorted(ours.keys() - theirs.keys()), sorted(theirs.keys() - ours.keys())
    shapes = sorted(key for key in ours.keys() & theirs.keys() if ours[key] != theirs[key])
    kinds = sorted(key for key in ours.keys() & theirs.keys() if own[key].is_floating_point() != state[key].is_floating_point())
    problems = [
        f"{len(keys)} {kind} ({', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''})"
        for kind, keys in (("missing", missing), ("unexpected", unexpected))
        if keys
    ]
    if shapes:
        problems.append(f"{len(shapes)} of another shape ({shapes[0]}: {theirs[shapes[0]]} in the file, {ours[shapes[0]]} in the recipe)")
    if kinds:
        problems.append(f"{len(kinds)} of another type ({kinds[0]}: {state[kinds[0]].dtype} in the file)")
    if problems:
        raise ArgenzooError(f"{what} does not fit this recipe: {'; '.join(problems)}")
    module.load_state_dict({key: tensor.to(own[key].dtype) for key, tensor in state.items()}, assign=assign)


def sha256(path: Path) -> str:
    """Of a file; of shards, that of their hashes in order."""
    digests = []
    for part in files_of(path):
        with part.open("rb") as file:
            digests.append(hashlib.file_digest(file, "sha256").hexdigest())
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def fingerprint(state: dict[str, Tensor]) -> str:
    """SHA-256 of weights: their names, types, shapes and values, whatever file they lie in."""
    digest = hashlib.sha256()
    for key in sorted(state):
        tensor = state[key].detach().cpu().contiguous()
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def origin(path: Path) -> dict[str, str]:
    """``source``, the file that weights came from at first, and its SHA-256: a converted file, or a copy, says so itself."""
    if not there(path):
        return {}
    known = read_about(path) if path.suffix == ".safetensors" else {}
    if "source_sha256" in known:
        return {"source": known.get("source", ""), "source_sha256": known["source_sha256"]}
    step = f"{path.parent.name}/" if path.parent.name.startswith("step_") else ""  # no other folder's name is anybody's business
    return {"source": f"{step}{path.name}", "source_sha256": sha256(path)}
