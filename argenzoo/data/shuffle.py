"""Shuffling without a list: a keyed permutation of 0..count-1 whose every entry is computed when it is asked for."""

from __future__ import annotations

from argenzoo.rng import philox

ROUNDS = 8
MASK = (1 << 64) - 1


def mix(value: int) -> int:
    """A 64-bit finaliser (splitmix64's): every bit of the result depends on every bit of ``value``."""
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB & MASK
    return value ^ (value >> 31)


class Shuffle:
    """A Feistel network over the smallest even number of bits that holds ``count``; what falls outside walks on until it is inside
    (Black & Rogaway, 2002). Memory and time to make it do not depend on ``count``; an entry takes about ten microseconds.

    Args:
        count: length.
        seed, epoch: another permutation for each.
    """

    def __init__(self, count: int, seed: int, epoch: int) -> None:
        self.count = count
        self.half = max(1, ((count - 1).bit_length() + 1) // 2)
        self.low = (1 << self.half) - 1
        self.keys = [int(key) for key in philox(seed, "shuffle", epoch).integers(1 << 63, size=ROUNDS)]

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> int:
        if not 0 <= index < self.count:
            raise IndexError(f"{index} of {self.count}")
        index = self._permute(index)
        while index >= self.count:
            index = self._permute(index)
        return index

    def _permute(self, value: int) -> int:
        left, right = value >> self.half, value & self.low
        for key in self.keys:
            left, right = right, left ^ (mix(right + key & MASK) & self.low)
        return left << self.half | right
