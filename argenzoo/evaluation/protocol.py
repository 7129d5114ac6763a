"""How samples become pictures of bytes, and with which labels: the zoo's rule, and the papers' by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from argenzoo.errors import ArgenzooError, suggestion
from argenzoo.grids import to_uint8
from argenzoo.rng import philox


def balanced(index: int, num_classes: int, seed: int) -> int:
    """In turn: every class as often as the others, to within one, however many samples there are."""
    return index % num_classes


def at_random(index: int, num_classes: int, seed: int) -> int:
    """Drawn uniformly, keyed by (seed, index)."""
    return int(philox(seed, "labels", index).integers(num_classes))


def truncated(pictures: Tensor) -> np.ndarray:
    """(B, 3, H, W) in [0, 1] -> (B, H, W, 3): floor(255 x), darker than the nearest by half a step on average."""
    return rearrange((pictures.float().clamp(0, 1) * 255).byte().cpu().numpy(), "b c h w -> b h w c")


@dataclass(frozen=True)
class Protocol:
    """A rule for labels and one for bytes, with words for both."""

    labels: Callable[[int, int, int], int]
    bytes: Callable[[Tensor], np.ndarray]

    def facts(self) -> dict[str, str]:
        return {"labels": WORDS[self.labels], "rounding": WORDS[self.bytes]}


WORDS: dict[Any, str] = {
    balanced: "in turn, every class equally often",
    at_random: "drawn uniformly",
    to_uint8: "round(255 x)",
    truncated: "floor(255 x)",
}
PROTOCOLS = {
    "argenzoo": Protocol(balanced, to_uint8),
    "llamagen": Protocol(at_random, to_uint8),  # its 127.5 x + 128, truncated, is the nearest byte
    "var": Protocol(balanced, truncated),
    "mar": Protocol(balanced, to_uint8),
}


def protocol(name: str) -> Protocol:
    if name not in PROTOCOLS:
        raise ArgenzooError(f"--protocol {name}: no such protocol{suggestion(name, PROTOCOLS)}")
    return PROTOCOLS[name]


def resized(pictures: Tensor, size: int | None) -> Tensor:
    """(B, 3, H, W) in [0, 1] to ``size`` px, bicubic, as LlamaGen does with pictures of 384 px."""
    if size is None or size == pictures.shape[-1]:
        return pictures
    return F.interpolate(pictures, size=(size, size), mode="bicubic").clamp(0, 1)
