"""Seconds of several cases, in turn, so that what else a machine does falls on all of them alike; and the memory that each takes."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch

from argenzoo.device import finished, give_memory_back

Key = TypeVar("Key")
PEAK, NOW, RESET = "VmHWM:", "VmRSS:", "5"  # in Linux's /proc/self: the most resident memory, that of now; what resets the first
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def interleaved(
    runs: Mapping[Key, Callable[[], object]], rounds: int, device: torch.device, after: Callable[[], Any] = lambda: None, warm: bool = True
) -> dict[Key, list[float]]:
    """Seconds of each run, ``rounds`` times; a round before them is a ``warm``-up. ``after`` is called after every run."""
    spent: dict[Key, list[float]] = {key: [] for key in runs}
    for number in range(0 if warm else 1, rounds + 1):
        for key, run in runs.items():
            finished(device)
            began = time.perf_counter()
            run()
            finished(device)
            if number:
                spent[key].append(time.perf_counter() - began)
            after()
    return spent


def peak(run: Callable[[], object], device: torch.device) -> int | None:
    """Bytes that a run holds at most, above what was held before; None where the system does not say."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        finished(device)
        return torch.cuda.max_memory_allocated(device) - before
    if not (STATUS.is_file() and CLEAR.exists()):
        run()
        return None
    give_memory_back()  # or the run would take what is free already
    CLEAR.write_text(RESET)
    before = resident(NOW)
    run()
    return max(0, resident(PEAK) - before)


def resident(what: str) -> int:
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(what))
    return 1024 * int(line.split()[1])
