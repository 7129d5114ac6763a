"""Learning rate and weight decay as functions of the optimizer step."""

from __future__ import annotations

import math

from argenzoo.train_options import TrainConfig


def lr_factor(config: TrainConfig, step: int, steps: int) -> float:
    """What lr is multiplied by: linear warm-up, a constant part, then constant, linear or cosine down to ``final_lr``."""
    progress = step / max(steps, 1)
    if progress < config.warmup:
        return config.warmup_start + (1 - config.warmup_start) * progress / config.warmup
    begin = config.warmup + config.hold
    if config.schedule == "constant" or progress < begin:
        return 1.0
    done = (progress - begin) / max(1 - begin, 1e-9)
    down = done if config.schedule == "linear" else 0.5 * (1 - math.cos(math.pi * done))
    return 1 - (1 - config.final_lr) * down


def weight_decay(config: TrainConfig, step: int, steps: int) -> float:
    """Constant, or rising by a cosine to ``weight_decay_end``."""
    if config.weight_decay_end is None:
        return config.weight_decay
    return config.weight_decay_end + (config.weight_decay - config.weight_decay_end) * 0.5 * (1 + math.cos(math.pi * step / max(steps, 1)))
