"""Logs: a line a log step for a person, TensorBoard, one JSON line an entry, and a table at the end."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm


class Logs:
    """Writes on the main process only; elsewhere every call does nothing.

    Args:
        out: the run's folder: ``log.jsonl``, ``summary.md`` and ``tensorboard/`` go there.
        start, steps: optimizer steps.
        tokens: of a picture, for the throughput.
        fields: written with the first line of the file: recipe and versions.
    """

    def __init__(
        self, out: Path, name: str, start: int, steps: int, batch_size: int, tokens: int, active: bool, fields: dict[str, Any]
    ) -> None:
        self.active, self.name, self.out, self.steps = active, name, out, steps
        self.batch_size, self.tokens = batch_size, tokens
        if not active:
            return
        out.mkdir(parents=True, exist_ok=True)
        drop_half_line(out / "log.jsonl")
        self._file = (out / "log.jsonl").open("a", encoding="utf-8")
        self._board = SummaryWriter(str(out / "tensorboard"), purge_step=start + 1)
        self._bar = tqdm(
            total=steps, initial=start, desc=name, unit="step", dynamic_ncols=True, mininterval=1, disable=not sys.stderr.isatty()
        )
        self.began = time.perf_counter()
        self._mark, self._first, self._paused = (self.began, start), (self.began, start), 0.0
        self._write({"event": "start", "step": start, **fields})

    def step(self, step: int, figures: dict[str, float] | None, seconds: dict[str, float]) -> None:
        """After optimizer step ``step``; ``figures`` where it is a log step. ``seconds``: spent since the last one, by what on."""
        if not self.active:
            return
        self._bar.update(1)
        if figures is None:
            return
        then, at = self._mark
        self._mark = time.perf_counter(), step
        spent = max(self._mark[0] - then, 1e-9)
        speed = (step - at) * self.batch_size / spent
        rates = {"images_per_second": speed, "tokens_per_second": speed * self.tokens}
        figures = {**figures, **rates, **{f"{name}_fraction": value / spent for name, value in seconds.items()}}
        self.say(self._line(step, figures))
        self.write("train", step, figures)

    def _line(self, step: int, figures: dict[str, float]) -> str:
        """What a person reads."""
        done, passed = step - self._first[1], self._mark[0] - self._first[0] - self._paused
        skipped = f"  skipped {figures['skipped']:.0f}" if figures.get("skipped") else ""
        speed = f"{figures['images_per_second']:.0f} img/s  {figures['tokens_per_second']:.0f} tok/s"
        shares = f"data {figures['data_fraction']:.0%}  encoding {figures['encoding_fraction']:.0%}"
        steps = f"{figures['loss']:.4f}  lr {figures['lr']:.2e}  |grad| {figures['grad_norm']:.2f}"
        more = {"codebook_usage": "codes", "discriminator_accuracy": "told apart"}
        shares += "".join(f"  {word} {figures[name]:.0%}" for name, word in more.items() if name in figures)
        left = clock((self.steps - step) * passed / max(done, 1))
        return f"{self.name}  step {step}/{self.steps}  loss {steps}  {speed}  {shares}{skipped}  {left} left"

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What is done inside does not count for the throughput."""
        began = time.perf_counter()
        yield
        if self.active:
            spent = time.perf_counter() - began
            self._mark, self._paused = (self._mark[0] + spent, self._mark[1]), self._paused + spent

    def write(self, event: str, step: int, figures: dict[str, float]) -> None:
        """A line in the log, and points in TensorBoard."""
        if not self.active:
            return
        self._write({"event": event, "step": step, **figures})
        for name, value in figures.items():
            self._board.add_scalar(f"{event}/{name}", value, step)

    def say(self, text: str) -> None:
        """A line for a person, above the bar where there is one."""
        if self.active:
            tqdm.write(text, file=sys.stderr)

    def abort(self) -> None:
        """A run that stops early: its time goes into the log, and the bar's line ends, so that what went wrong has one of its own."""
        if self.active:
            self._write({"event": "stopped", "seconds": round(time.perf_counter() - self.began, 1)})
            self._release()

    def _release(self) -> None:
        self._bar.close()
        self._board.close()
        self._file.close()

    def close(self, figures: dict[str, float]) -> None:
        """The end: the last entry, and the table."""
        if not self.active:
            return
        self._write({"event": "end", "seconds": round(time.perf_counter() - self.began, 1), **figures})
        table = summary(self.name, read_log(self.out))
        (self.out / "summary.md").write_text(table, encoding="utf-8")
        self.say(table)
        self._release()

    def _write(self, entry: dict[str, Any]) -> None:
        plain = {key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in entry.items()}
        self._file.write(json.dumps(plain, allow_nan=False) + "\n")
        self._file.flush()


def clock(seconds: float) -> str:
    """h:mm:ss."""
    hours, rest = divmod(int(seconds), 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}"


def drop_half_line(path: Path) -> None:
    """What a killed run was writing when it was killed."""
    if path.is_file() and not (blob := path.read_bytes()).endswith(b"\n"):
        path.write_bytes(blob[: blob.rfind(b"\n") + 1])


def read_log(out: Path) -> list[dict[str, Any]]:
    """A run's ``log.jsonl``."""
    lines = (out / "log.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def ended(out: Path, steps: int) -> bool:
    """Whether a run has come to the end of so many steps."""
    return (out / "log.jsonl").is_file() and any(entry["event"] == "end" and entry["steps"] == steps for entry in read_log(out))


def evaluated(out: Path, step: int) -> bool:
    """Whether a run's log holds the evaluation after ``step``."""
    return (out / "log.jsonl").is_file() and any(entry["event"] == "held_out" and entry["step"] == step for entry in read_log(out))


def summary(name: str, log: list[dict[str, Any]]) -> str:
    """A run's log as a Markdown table: what was reached, how fast, and what went wrong."""
    train = [entry for entry in log if entry["event"] == "train" and entry.get("loss") is not None]
    held_out = [entry for entry in log if entry["event"] == "held_out" and entry.get("held_out_loss") is not None]
    end: dict[str, Any] = next((entry for entry in reversed(log) if entry["event"] == "end"), {})
    spent = sum(entry["seconds"] for entry in log if entry["event"] in ("end", "stopped"))
    rows = {"steps": f"{end.get('steps', 0):,}", "parameters": f"{end.get('parameters', 0):,}", "seconds": f"{spent:,.0f}"}
    if train:
        rows["loss, first and last"] = f"{train[0]['loss']:.4f}, {train[-1]['loss']:.4f}"
        for key, unit in {"images_per_second": "images a second", "tokens_per_second": "tokens a second"}.items():
            rows[f"{unit} (median)"] = f"{median(entry[key] for entry in train if key in entry):,.0f}"
        for key, what in {"data_fraction": "waiting for data", "encoding_fraction": "encoding pictures"}.items():
            rows[f"time {what} (median)"] = f"{median(entry.get(key, 0) for entry in train):.1%}"
    if held_out:
        best = min(held_out, key=lambda entry: entry["held_out_loss"])
        rows["held-out loss, first and last"] = f"{held_out[0]['held_out_loss']:.4f}, {held_out[-1]['held_out_loss']:.4f}"
        rows["least held-out loss"] = f"{best['held_out_loss']:.4f} at step {best['step']:,}"
    rows |= {key: f"{end[key]:.4g}" for key in sorted(end) if key.startswith("held_out_") and "/" not in key and end[key] is not None}
    if train:
        used = {key.removeprefix("codebook_"): value for key, value in train[-1].items() if key.startswith("codebook_usage")}
        rows |= {f"codebook {key}, last window": f"{value:.1%}" for key, value in used.items()}
    rows |= {what: f"{end[key]:,}" for key, what in {"skipped": "steps skipped", "corrupt": "corrupt pictures"}.items() if end.get(key)}
    return "\n".join([f"| {name} | |", "|---|---|", *(f"| {key} | {value} |" for key, value in rows.items())]) + "\n"
