"""Randomness that depends on (seed, index) alone: not on the batch, the process or the device.

Draws are made on the CPU by a counter-based generator (Philox) whose key is the seed and the
sample's index, one a sample, and then moved: the same sample is drawn everywhere.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor


class Draws(Protocol):
    """What a part may ask for; every result has one row a sample in front."""

    def normal(self, *shape: int) -> Tensor: ...
    def uniform(self, *shape: int) -> Tensor: ...
    def integers(self, high: int, *shape: int) -> Tensor: ...
    def permutation(self, size: int) -> Tensor: ...
    def shared_uniform(self) -> float: ...
    def rows(self, where: Tensor, count: int) -> Draws: ...


def philox(seed: int, stream: str, index: int) -> np.random.Generator:
    """The generator of one sample: key (hash of seed and stream, index)."""
    digest = hashlib.blake2b(f"{seed}/{stream}".encode(), digest_size=8).digest()
    key = np.array([int.from_bytes(digest, "little"), index], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key))


class Rng:
    """Draws for a batch of samples.

    Args:
        seed: the run's.
        indices: each sample's global index, B of them.
        stream: separates uses of one seed ("sample", "train", ...).
        device: where the draws are moved.
        step: keys ``shared_uniform``, the draws that a whole step has in common on every process.
    """

    def __init__(
        self, seed: int, indices: Sequence[int], stream: str = "sample", device: torch.device | str = "cpu", step: int = 0
    ) -> None:
        self.device = device
        self._samples = [philox(seed, stream, index) for index in indices]
        self._shared = philox(seed, f"{stream}/shared", step)

    def normal(self, *shape: int) -> Tensor:
        """(B, *shape) standard normal."""
        return self._stack([rng.standard_normal(shape, dtype=np.float32) for rng in self._samples])

    def uniform(self, *shape: int) -> Tensor:
        """(B, *shape) in [0, 1)."""
        return self._stack([rng.random(shape, dtype=np.float32) for rng in self._samples])

    def integers(self, high: int, *shape: int) -> Tensor:
        """(B, *shape) in 0..high-1."""
        return self._stack([rng.integers(high, size=shape) for rng in self._samples])

    def permutation(self, size: int) -> Tensor:
        """(B, size): a permutation a sample."""
        return self._stack([rng.permutation(size) for rng in self._samples])

    def shared_uniform(self) -> float:
        """One number for the whole step, the same on every process."""
        return float(self._shared.random())

    def rows(self, where: Tensor, count: int) -> Draws:
        """Draws for the rows at ``where`` (M,), of ``count`` in every sample, all samples' in one line."""
        return _Rows(self, where, count)

    def _stack(self, draws: list) -> Tensor:
        return torch.from_numpy(np.stack([np.asarray(draw) for draw in draws])).to(self.device)


class _Rows:
    """A draw for every position, of which some are kept: position j of sample i gets the same draw whatever they are."""

    def __init__(self, rng: Draws, where: Tensor, count: int) -> None:
        self._rng, self._where, self._count = rng, where, count

    def normal(self, *shape: int) -> Tensor:
        return self._rng.normal(self._count, *shape).flatten(0, 1)[self._where]

    def uniform(self, *shape: int) -> Tensor:
        return self._rng.uniform(self._count, *shape).flatten(0, 1)[self._where]

    def integers(self, high: int, *shape: int) -> Tensor:
        return self._rng.integers(high, self._count, *shape).flatten(0, 1)[self._where]

    def permutation(self, size: int) -> Tensor:
        return torch.argsort(self.uniform(size), dim=-1)

    def shared_uniform(self) -> float:
        return self._rng.shared_uniform()

    def rows(self, where: Tensor, count: int) -> Draws:
        return _Rows(self, where, count)


class GlobalRng:
    """Torch's own global stream behind the same face: what a part draws from when no ``rng`` is given."""

    def __init__(self, batch: int, device: torch.device | str = "cpu") -> None:
        self.batch, self.device = batch, device

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(self.batch, *shape, device=self.device)

    def uniform(self, *shape: int) -> Tensor:
        return torch.rand(self.batch, *shape, device=self.device)

    def integers(self, high: int, *shape: int) -> Tensor:
        return torch.randint(high, (self.batch, *shape), device=self.device)

    def permutation(self, size: int) -> Tensor:
        return torch.rand(self.batch, size, device=self.device).argsort(dim=-1)

    def shared_uniform(self) -> float:
        return float(torch.rand(()))

    def rows(self, where: Tensor, count: int) -> Draws:
        return GlobalRng(len(where), self.device)
