"""What stops a run before it wastes a night: data that can't be right, steps that are not finite, averages that are not warm."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from argenzoo.errors import ArgenzooError
from argenzoo.train_options import TrainConfig

WINDOW = 200  # steps
WARM = 0.01  # of the first weights may be left in an average


class Skips:
    """Counts the steps that were skipped since a loss or a gradient was not finite.

    Args:
        limit: that many among the last ``WINDOW`` steps stop the run.
        total: so far, of a run that goes on.
    """

    def __init__(self, limit: int, total: int = 0) -> None:
        self.limit, self.total = limit, total
        self._recent: deque[bool] = deque(maxlen=WINDOW)

    def note(self, step: int, skipped: bool, good: Callable[[], str]) -> None:
        """After a step. Raises ArgenzooError past the limit; ``good`` says which checkpoint is left."""
        self._recent.append(skipped)
        self.total += skipped
        if sum(self._recent) > self.limit:
            raise ArgenzooError(
                f"step {step}: the loss or its gradient was not finite in {sum(self._recent)} of the last {len(self._recent)} steps, "
                f"more than train.max_skipped {self.limit}; these steps changed no weights. {good()}. "
                "Try a smaller train.lr, a smaller train.clip, a longer train.warmup, or train.precision=bf16 or fp32"
            )


def ema_share(config: TrainConfig, step: int) -> float:
    """How much of the averaged weights after ``step`` steps is still those of the first one."""
    if config.ema is None or config.ema_warmup:
        return 0.0
    return config.ema ** max(step - 1, 0)


def ema_warning(config: TrainConfig, step: int) -> str | None:
    """A line for as long as the averaged weights are not warm."""
    share = ema_share(config, step)
    if config.ema is None or share <= WARM:
        return None
    warm = 1 + math.ceil(math.log(WARM) / math.log(config.ema))
    return (
        f"step {step}: the averaged weights (train.ema {config.ema}, no warm-up) are {share:.0%} those of step 1; "
        f"warm from step {warm:,} on. What is evaluated and sampled now is not what was trained: train.ema_warmup=true avoids it"
    )


def check_pictures(pictures: Tensor) -> None:
    """Raises ArgenzooError unless these (B, 3, H, W) can be pictures of 0 to 255."""
    if pictures.dtype != torch.uint8:
        raise ArgenzooError(f"the data give pictures of {pictures.dtype}: uint8, 0 to 255, is expected")
    if (pictures.flatten(1).amax(1) == pictures.flatten(1).amin(1)).all():
        raise ArgenzooError(
            f"each of {len(pictures)} pictures of the set is of one flat colour ({int(pictures[0, 0, 0, 0])} of 255): is that the set?"
        )
    if int(pictures.amax()) <= 1:
        raise ArgenzooError(f"no pixel of {len(pictures)} pictures exceeds 1 of 255: they were scaled to [0, 1] before they were saved")


def check_tokens(tokens: Tensor, space: Any) -> str | None:
    """A warning where tokens (B, N) or (B, N, C) look wrong for this tokenizer.

    Raises:
        ArgenzooError: they can't be right: outside the codebook, all one code, not finite, or far from unit scale.
    """
    if space.vocab_size is not None:
        low, high = int(tokens.amin()), int(tokens.amax())
        if low < 0 or high >= space.vocab_size:
            raise ArgenzooError(f"the tokenizer gives ids from {low} to {high}, its codebook has {space.vocab_size}")
        if low == high:
            raise ArgenzooError(f"the tokenizer gives the id {low} for every token: its codebook has collapsed")
        return None
    std = float(tokens.float().std())
    hint = "train it longer, or measure its scale on these data (tokenizer.latent_scale)"
    if not math.isfinite(std) or not 0.1 < std < 10:
        raise ArgenzooError(f"the tokenizer's vectors have a standard deviation of {std:.3g}, not about 1: {hint}")
    return None if 0.5 < std < 2 else f"the tokenizer's vectors have a standard deviation of {std:.2f}, not about 1: {hint}"
