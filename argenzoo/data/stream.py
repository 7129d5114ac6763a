"""The order in which training reads its samples: a function of (seed, step) alone, on any number of processes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from argenzoo.data.shuffle import Shuffle
from argenzoo.data.views import Sample
from argenzoo.errors import ArgenzooError


class Batch(NamedTuple):
    """A micro-batch: what the set stores (pictures or tokens), labels (B,), draws (B,), and notes on corrupt pictures."""

    stored: Tensor
    labels: Tensor
    draws: Tensor
    notes: tuple[str, ...]


class Stream(Sampler[list[tuple[int, int]]]):
    """Endless shuffled epochs, cut into this process's micro-batches. Draw number ``step * batch_size + j`` is
    entry ``draw % count`` of epoch ``draw // count``: an epoch ends inside a batch where it must, nothing is dropped.

    Args:
        count: samples of the set.
        batch_size: over all processes and micro-batches.
        start, stop: optimizer steps.
        accumulate: micro-batches a step.
    """

    def __init__(
        self, count: int, batch_size: int, seed: int, start: int, stop: int, accumulate: int = 1, rank: int = 0, world: int = 1
    ) -> None:
        if batch_size % (world * accumulate):
            raise ArgenzooError(f"train.batch_size {batch_size} is no multiple of {world} processes x {accumulate} accumulation steps")
        self.count, self.batch_size, self.seed = count, batch_size, seed
        self.start, self.stop, self.accumulate, self.rank, self.world = start, stop, accumulate, rank, world
        self._epoch, self._order = 0, Shuffle(count, seed, 0)

    def __len__(self) -> int:
        return (self.stop - self.start) * self.accumulate

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        size = self.batch_size // (self.world * self.accumulate)
        for step in range(self.start, self.stop):
            for micro in range(self.accumulate):
                first = step * self.batch_size + (micro * self.world + self.rank) * size
                yield [(self.position(draw), draw) for draw in range(first, first + size)]

    def position(self, draw: int) -> int:
        """Which sample a draw is."""
        epoch, offset = divmod(draw, self.count)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, Shuffle(self.count, self.seed, epoch)
        return self._order[offset]


class Keyed(Dataset[Any]):
    """Returns the draw beside the sample, for the random numbers that depend on it."""

    def __init__(self, samples: Any) -> None:
        self.samples = samples

    def __getitem__(self, key: tuple[int, int]) -> Any:
        try:
            return self.samples[key], key[1]
        except ArgenzooError as error:  # a worker process would wrap it in its traceback
            return error


def collate(items: list[Any]) -> Batch | ArgenzooError:
    """A batch, or the first item's error, to be raised by ``batches``."""
    failed = next((item for item in items if isinstance(item, ArgenzooError)), None)
    return failed or together([sample for sample, _ in items], [draw for _, draw in items])


def together(samples: list[Sample], draws: list[int]) -> Batch:
    """Samples -> a batch."""
    labels = torch.tensor([sample.label for sample in samples])
    notes = tuple(note for sample in samples for note in sample.notes)
    return Batch(torch.stack([sample.stored for sample in samples]), labels, torch.tensor(draws), notes)


def batches(samples: Any, stream: Stream, workers: int, pin: bool = False) -> Iterator[Batch]:
    """Micro-batches. Raises ArgenzooError on a corrupt picture, in whichever process it was found."""
    for batch in DataLoader(Keyed(samples), batch_sampler=stream, num_workers=workers, collate_fn=collate, pin_memory=pin):
        if isinstance(batch, ArgenzooError):
            raise batch
        yield batch
