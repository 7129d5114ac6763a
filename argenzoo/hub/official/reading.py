"""One official file, read, told apart and renamed: what the importer works on."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch

from argenzoo.errors import ArgenzooError
from argenzoo.hub.official.families import Family
from argenzoo.hub.official.layouts import State, kept
from argenzoo.hub.official.pickles import Source, name_of, read_official
from argenzoo.hub.official.shapes import Facts, side_of, sizes
from argenzoo.weights import read_about, read_weights


@dataclass(frozen=True)
class Weights:
    """A part's tensors under our keys.

    Args:
        what: the file, in messages.
        path: where it is, if it is a file.
        sides: of VAR's scales, where a buffer of the file tells them.
        num_scales: how many there are, where a buffer tells only that.
    """

    state: State
    what: str
    path: Path | None = None
    sides: tuple[int, ...] | None = None
    num_scales: int | None = None

    @staticmethod
    def read(family: Family, kind: str, source: Source, averaged: bool = True) -> Weights:
        """Raises ArgenzooError as ``read_official`` does, and on another family's or kind's file."""
        what = name_of(source)
        official = read_official(source, averaged)
        state = family.ours(kind, official, what)
        path = Path(source) if isinstance(source, str | Path) else None
        return Weights(state, what, path, *scales_told(official, what))

    @staticmethod
    def converted(path: Path, what: str) -> Weights:
        """Of a file under our keys, whose metadata keep what its buffers told."""
        sides, num_scales = json.loads(read_about(path).get("scales", "[null, null]"))
        return Weights(read_weights(path), what, path, None if sides is None else tuple(sides), num_scales)

    @property
    def about(self) -> dict[str, str]:
        """For the metadata of a conversion."""
        return {"scales": json.dumps([self.sides, self.num_scales])}

    def sizes(self, *parts: str) -> Facts:
        """What the shapes say of these parts."""
        return {key: value for part in parts for key, value in sizes(part, self.state, self.what).items()}


def scales_told(official: State, what: str) -> tuple[tuple[int, ...] | None, int | None]:
    """What VAR's buffers say: each scale's side, from the generator's level of each position (1, N); how many, from the tokenizer's
    count of each code's use (S, V)."""
    plain = kept(official, ())
    levels, usage = plain.get("lvl_1L"), plain.get("quantize.ema_vocab_hit_SV")
    if usage is not None and usage.dim() != 2:
        raise ArgenzooError(f"{what}: ema_vocab_hit_SV should be (S, V), it is {tuple(usage.shape)}")
    num_scales = None if usage is None else len(usage)
    if levels is None or levels.is_meta:
        return None, num_scales
    ids = levels.flatten().long()
    if not len(ids) or not torch.equal(ids, ids.sort().values) or not 0 <= int(ids[0]) <= int(ids[-1]) < len(ids):
        raise ArgenzooError(f"{what}: lvl_1L should hold each position's scale, 0 0 0 0 1 1 ..., and does not")
    return tuple(side_of(int(tokens)) for tokens in torch.bincount(ids)), num_scales
