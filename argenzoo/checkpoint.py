"""Checkpoint folders: recipe.yaml, model.safetensors, ema.safetensors, tokenizer.safetensors, state/. Atomic."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from argenzoo.errors import ArgenzooError
from argenzoo.weights import replace_text

RECIPE, MODEL, EMA, TOKENIZER, STATE = "recipe.yaml", "model.safetensors", "ema.safetensors", "tokenizer.safetensors", "state"
BEST, EVALUATION = "best", "evaluation.json"


def resolve(folder: str | Path) -> Path:
    """A checkpoint folder; a run's folder -> its newest checkpoint; RUN/best -> the best by held-out loss.

    Raises:
        ArgenzooError: there is none.
    """
    path = Path(folder)
    if path.name == BEST and (step := best_of(path.parent)) is not None:
        path = path.parent / step_name(step)
    if (path / RECIPE).is_file():
        return path
    newest = checkpoints(path)
    if not newest:
        raise ArgenzooError(
            f"no checkpoint in {path}: expected {RECIPE}, or folders step_*" if path.exists() else f"no such checkpoint: {path}"
        )
    return newest[-1]


def checkpoints(run: Path) -> list[Path]:
    """A run's checkpoints, oldest first."""
    return sorted(path.parent for path in run.glob(f"step_*/{RECIPE}"))


def step_name(step: int) -> str:
    """A checkpoint's folder in its run's."""
    return f"step_{step:07d}"


def best_of(run: Path) -> int | None:
    """The step of the best checkpoint by held-out loss, where one was noted."""
    path = run / f"{BEST}.json"
    return json.loads(path.read_text(encoding="utf-8"))["step"] if path.is_file() else None


def note_best(run: Path, step: int, loss: float) -> bool:
    """Whether this checkpoint is the best so far, which is then noted."""
    path = run / f"{BEST}.json"
    if not math.isfinite(loss) or (path.is_file() and json.loads(path.read_text(encoding="utf-8"))["held_out_loss"] <= loss):
        return False
    replace_text(path, json.dumps({"step": step, "held_out_loss": loss}) + "\n")
    return True


def prune(run: Path, keep: int | None) -> None:
    """Remove all but the last ``keep`` checkpoints and the best."""
    best = best_of(run)
    for folder in checkpoints(run)[: -keep if keep else 0]:
        if best is None or folder.name != step_name(best):
            shutil.rmtree(folder)


def write_atomically(folder: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` fill a temporary folder, then rename it: what has the final name is complete."""
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    for left in folder.parent.glob(".step_*.tmp"):  # by a save that was killed
        shutil.rmtree(left, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        write(temporary)
        for file in temporary.rglob("*"):
            flush(file)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    if folder.exists():
        shutil.rmtree(folder)
    temporary.rename(folder)


def flush(file: Path) -> None:
    """To the disk, so that a renamed folder is never an empty promise."""
    if file.is_file():
        with file.open("rb") as handle:
            os.fsync(handle.fileno())
