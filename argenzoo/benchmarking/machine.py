"""What a machine can do, measured here and now: bytes copied a second, and FLOPs a second of a matrix product."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch

from argenzoo.device import finished, hardware
from argenzoo.layers.linear import linear

COPIED = {"cpu": 1 << 28, "cuda": 1 << 30}  # bytes: more than any cache
SIDE = {"cpu": 2048, "cuda": 8192}  # of the square matrices
TRIES = 5
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Machine:
    """The best of a few tries each.

    Args:
        bandwidth: bytes a second, read and written ones both counted.
        rates: FLOPs a second by precision, a multiplication and an addition counted as two.
    """

    hardware: str
    bandwidth: float
    rates: dict[str, float]

    def seconds(self, flops: float, moved: float, precision: str) -> float:
        """The least that so many FLOPs and bytes can take: what takes longer hides the other."""
        return max(flops / self.rates[precision], moved / self.bandwidth)

    def dump(self) -> dict[str, Any]:
        return asdict(self)


def measure(device: torch.device, precisions: list[str]) -> Machine:
    """A few seconds on a CPU."""
    return Machine(hardware(device), bandwidth(device), {precision: rate(device, precision) for precision in precisions})


def bandwidth(device: torch.device) -> float:
    count = COPIED[device.type]
    source = torch.ones(count, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * count / best(device, lambda: target.copy_(source))


def rate(device: torch.device, precision: str) -> float:
    side = SIDE[device.type]
    left, right = (torch.randn(side, side, device=device, dtype=DTYPES[precision]) for _ in range(2))  # ones would cost a GPU less
    return 2 * side**3 / min(best(device, lambda: left @ right), best(device, lambda: linear(left, right)))


def best(device: torch.device, work: Callable[[], object]) -> float:
    """Seconds of the quickest of a few runs; the first is a warm-up."""
    spent = []
    for _ in range(TRIES + 1):
        began = time.perf_counter()
        work()
        finished(device)
        spent.append(time.perf_counter() - began)
    return min(spent[1:])
