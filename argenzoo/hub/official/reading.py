"""One official file, read, told apart and renamed: what the importer works on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from argenzoo.hub.official.families import Family
from argenzoo.hub.official.pickles import read_official
from argenzoo.hub.official.shapes import Facts, side_of, sizes

Source = str | Path | dict[str, Any]


@dataclass(frozen=True)
class Weights:
    """A part's tensors under our keys.

    Args:
        what: the file, in messages.
        path: where it is, if it is a file.
        sides: of VAR's scales, where a buffer of the file tells them.
        num_scales: how many there are, where a buffer tells only that.
    """

    state: dict[str, Tensor]
    what: str
    path: Path | None = None
    sides: tuple[int, ...] | None = None
    num_scales: int | None = None

    @staticmethod
    def read(family: Family, kind: str, source: Source, averaged: bool = True) -> Weights:
        """Raises ArgenzooError as ``read_official`` does, and on another family's or kind's file."""
        what = "the state dict" if isinstance(source, dict) else str(source)
        official = read_official(source, averaged)
        usage = official.get("quantize.ema_vocab_hit_SV")  # (S, V)
        state = family.ours(kind, official, what)
        path = None if isinstance(source, dict) else Path(source)
        return Weights(state, what, path, sides_told(official.get("lvl_1L")), None if usage is None else len(usage))

    def sizes(self, *parts: str) -> Facts:
        """What the shapes say of these parts."""
        return {key: value for part in parts for key, value in sizes(part, self.state, self.what).items()}


def sides_told(levels: Tensor | None) -> tuple[int, ...] | None:
    """VAR's buffer of each position's level (1, N) -> the sides of the scales."""
    if levels is None or levels.is_meta:
        return None
    return tuple(side_of(int(tokens)) for tokens in torch.bincount(levels.flatten().long()))
