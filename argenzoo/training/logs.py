"""Logs: a progress bar with ETA and throughput, TensorBoard, and one JSON line an entry."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm


class Logs:
    """Writes on the main process only; elsewhere every call does nothing.

    Args:
        out: the run's folder: ``log.jsonl`` and ``tensorboard/`` go there.
        start, steps: optimizer steps, for the bar.
        fields: written with the first line of the file: recipe and versions.
    """

    def __init__(self, out: Path, name: str, start: int, steps: int, batch_size: int, active: bool, fields: dict[str, Any]) -> None:
        self.active, self.batch_size = active, batch_size
        if not active:
            return
        out.mkdir(parents=True, exist_ok=True)
        self._file = (out / "log.jsonl").open("a", encoding="utf-8")
        self._board = SummaryWriter(str(out / "tensorboard"), purge_step=start + 1)
        self._bar = tqdm(total=steps, initial=start, desc=name, unit="step", dynamic_ncols=True, mininterval=1)
        self._mark = time.perf_counter(), start
        self.began = time.perf_counter()
        self._write({"event": "start", "step": start, **fields})

    def step(self, step: int, figures: dict[str, float] | None) -> None:
        """After optimizer step ``step``; ``figures`` where it is a log step."""
        if not self.active:
            return
        self._bar.update(1)
        if figures is None:
            return
        then, at = self._mark
        self._mark = time.perf_counter(), step
        figures = {**figures, "images_per_second": (step - at) * self.batch_size / max(self._mark[0] - then, 1e-9)}
        self._bar.set_postfix_str(f"loss {figures['loss']:.4f} lr {figures['lr']:.2e} {figures['images_per_second']:.0f} img/s")
        self.write("train", step, figures)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What is done inside does not count for the throughput."""
        began = time.perf_counter()
        yield
        if self.active:
            self._mark = self._mark[0] + time.perf_counter() - began, self._mark[1]

    def write(self, event: str, step: int, figures: dict[str, float]) -> None:
        """A line in the log, and points in TensorBoard."""
        if not self.active:
            return
        self._write({"event": event, "step": step, **figures})
        for name, value in figures.items():
            self._board.add_scalar(f"{event}/{name}", value, step)

    def say(self, text: str) -> None:
        """A line for a person, above the bar."""
        if self.active:
            self._bar.write(text)

    def abort(self) -> None:
        """A run that stops early: its time goes into the log, and the bar's line ends, so that what went wrong has one of its own."""
        if self.active:
            self._write({"event": "stopped", "seconds": round(time.perf_counter() - self.began, 1)})
            self._release()

    def _release(self) -> None:
        if self.active:
            self._bar.close()
            self._board.close()
            self._file.close()

    def close(self, figures: dict[str, float]) -> None:
        if not self.active:
            return
        self._write({"event": "end", "seconds": round(time.perf_counter() - self.began, 1), **figures})
        self._release()

    def _write(self, entry: dict[str, Any]) -> None:
        plain = {key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in entry.items()}
        self._file.write(json.dumps(plain, allow_nan=False) + "\n")
        self._file.flush()


def read_log(out: Path) -> list[dict[str, Any]]:
    """A run's ``log.jsonl``."""
    return [json.loads(line) for line in (out / "log.jsonl").read_text(encoding="utf-8").splitlines()]


def ended(out: Path) -> bool:
    """Whether a run has come to its end."""
    return (out / "log.jsonl").is_file() and any(entry["event"] == "end" for entry in read_log(out))
