"""Samples -> what a task takes, for training, evaluation and pictures; and the look at the first ones before anything is trained."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from argenzoo.data.images import to_unit
from argenzoo.data.stream import together
from argenzoo.rng import Rng
from argenzoo.training.guards import check_pictures, check_tokens
from argenzoo.training.source import Samples
from argenzoo.training.tasks import Task

GROUP = 32  # samples evaluated at a time
MEASURED = 256  # training pictures that a tokenizer's scale is measured on
LOOKED_AT = 512  # samples among which examples of different classes are looked for


def spaced(samples: Samples, count: int) -> list[int]:
    """At most ``count`` positions over the whole set, which may be sorted by class."""
    count = min(count, len(samples))
    return [i * len(samples) // count for i in range(count)]


class Reader:
    """Knows whether samples are pictures or tokens, so that nobody else has to."""

    def __init__(self, task: Task, device: torch.device) -> None:
        self.task, self.device = task, device
        self.corrupt: set[str] = set()  # notes on the pictures that were stepped over

    def inputs(self, stored: Tensor, labels: Tensor, encoded: bool, rng: Rng, step: int | None = None) -> tuple:
        """A batch as it was read -> what the first player's module takes."""
        stored = stored.to(self.device, non_blocking=True)
        if not encoded:
            stored = self.task.encode(to_unit(stored))
        return self.task.inputs(stored, labels.to(self.device, non_blocking=True), rng, step)

    def evaluate(self, held_out: Samples, group: int, count: int) -> dict[str, tuple[Tensor, Tensor]]:
        """Figures of one group of held-out samples, on the CPU."""
        chosen = spaced(held_out, count)[group * GROUP : (group + 1) * GROUP]
        stored, labels = self._read(held_out, chosen)
        rng = Rng(0, chosen, "evaluate", self.device, step=group)
        figures = self.task.evaluate(self.inputs(stored, labels, held_out.encoded, rng))
        return {name: (total.cpu(), number.cpu()) for name, (total, number) in figures.items()}

    def first(self, samples: Samples) -> Iterator[Tensor]:
        """Training pictures in [-1, 1] to measure on, group by group; nothing of a cache."""
        chosen = [] if samples.encoded else spaced(samples, MEASURED)
        for start in range(0, len(chosen), GROUP):
            stored, _ = self._read(samples, chosen[start : start + GROUP])
            yield to_unit(stored.to(self.device))

    def some(self, samples: Samples) -> tuple[Tensor, Tensor]:
        """Up to eight examples, of different classes where there are, and their labels."""
        looked_at = spaced(samples, LOOKED_AT)
        by_class = {samples.label(position): position for position in reversed(looked_at)}
        chosen = [position for _, position in sorted(by_class.items())][:8]
        chosen += [position for position in looked_at if position not in chosen][: 8 - len(chosen)]
        stored, labels = self._read(samples, chosen)
        return stored if samples.encoded else to_unit(stored).to(self.device), labels.to(self.device)

    def check(self, samples: Samples) -> list[str]:
        """Look at some training samples; returns warnings. Raises ArgenzooError where something can't be right."""
        stored, labels = self._read(samples, spaced(samples, GROUP))
        if not samples.encoded:
            check_pictures(stored)
        self.task.check(labels)
        tokens = self.task.example_tokens(stored.to(self.device) if samples.encoded else self.task.encode(to_unit(stored.to(self.device))))
        warning = None if tokens is None else check_tokens(tokens, self.task.tokenizer.space)
        return [] if warning is None else [warning]

    def _read(self, samples: Samples, positions: list[int]) -> tuple[Tensor, Tensor]:
        batch = together([samples[position, position] for position in positions], positions)
        self.corrupt |= set(batch.notes)
        return batch.stored, batch.labels
