"""Classifier-free guidance: one formula and its ramps."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from argenzoo.protocols import Progress
from argenzoo.registry import Config


def guided(cond: Tensor, null: Tensor | None, scale: Tensor) -> Tensor:
    """null + s (cond - null); s = 1 gives ``cond`` itself.

    Args:
        cond, null: (B, ..., C) logits or noise predictions; ``null`` None is unguided.
        scale: 0-d, or (B,) for one scale a sample.
    """
    if null is None:
        return cond
    scale = scale.reshape(scale.shape + (1,) * (cond.dim() - scale.dim())) if scale.dim() else scale
    return torch.where(scale == 1, cond, null + scale * (cond - null))


class Guidance(Config):
    """The scale at every step of the sampling loop.

    Args:
        guidance: s at the end of the ramp; 1 is off. (VAR's cfg 1.5 is 2.5 here.)
        ramp: ``constant`` (LlamaGen), by ``step`` (VAR: 1 + (s-1) k/(S-1)), or by the fraction of ``revealed`` tokens (MAR "linear").
        interval: guidance is off after that many decode steps (LlamaGen's ``cfg_interval``; the first token counts as none of them).
        skip: while the ramp is below this fraction guidance is off, and the null branch is not made.
    """

    guidance: float = Field(1.0, ge=0)
    ramp: Literal["constant", "step", "revealed"] = "constant"
    interval: int | None = Field(None, ge=0)
    skip: float = Field(0.0, ge=0, lt=1)

    def fraction(self, progress: Progress) -> float:
        """How far up the ramp this step is, in [0, 1]."""
        # MAR counts a token as hidden even in the last step, so its ramp ends at (N-1)/N
        revealed = min(progress.revealed, progress.total - 1) / progress.total
        return {"constant": 1.0, "step": progress.step / max(progress.steps - 1, 1), "revealed": revealed}[self.ramp]

    def acts(self, progress: Progress) -> bool:
        """Whether this step is guided."""
        return (self.interval is None or progress.step <= self.interval + 1) and self.fraction(progress) >= self.skip

    def at(self, progress: Progress, scale: Tensor) -> Tensor:
        """``scale`` (0-d or (B,), s at the end of the ramp) -> s at this step."""
        if not self.acts(progress):
            return torch.ones_like(scale)
        return 1 + (scale - 1) * self.fraction(progress)
