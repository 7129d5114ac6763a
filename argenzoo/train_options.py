"""How a recipe is trained, typed."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from argenzoo.registry import Config


class TrainConfig(Config):
    """Training. Fractions are of the whole run; ``batch_size`` counts all processes and accumulation steps together."""

    seed: int = Field(0, ge=0)
    steps: int | None = Field(None, ge=1)
    epochs: float | None = Field(None, gt=0, description="instead of steps")
    batch_size: int = Field(256, ge=1)
    accumulate: int = Field(1, ge=1, description="micro-batches an optimizer step")
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    checkpointing: bool = Field(False, description="blocks are computed again in the backward pass: less memory, more time")
    compile: bool = Field(False, description="torch.compile of every block")
    optimizer: Literal["adamw", "adam"] = "adamw"
    lr: float = Field(1e-4, gt=0)
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = Field(0.05, ge=0, description="on parameters of two dimensions and more")
    weight_decay_end: float | None = Field(None, ge=0, description="reached by a cosine; None: constant")
    no_decay: tuple[str, ...] = Field((), description="patterns of parameters without decay, e.g. head.*")
    clip: float | None = Field(1.0, gt=0, description="gradient norm")
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup: float = Field(0.0, ge=0, le=1)
    warmup_start: float = Field(0.0, ge=0, le=1, description="of lr, at the first step")
    hold: float = Field(0.0, ge=0, le=1, description="constant after warm-up, before the decay")
    final_lr: float = Field(0.0, ge=0, le=1, description="of lr, at the end of a decay")
    ema: float | None = Field(None, gt=0, lt=1, description="decay of the averaged weights")
    ema_warmup: bool = Field(True, description="a decay that rises with the step; without it 0.9999 needs 100k steps")
    log_every: int = Field(50, ge=1)
    eval_every: int | None = Field(None, ge=1)
    eval_samples: int = Field(512, ge=1)
    sample_every: int | None = Field(None, ge=1)
    save_every: int | None = Field(None, ge=1)
    keep: int | None = Field(3, ge=1, description="checkpoints: the last ones, and the best by held-out loss; None: all")
    only: tuple[str, ...] = Field((), description="patterns of the parameters that are trained, e.g. *.decoder.*; none: all")
    max_skipped: int = Field(20, ge=0, description="steps that were not finite, among the last 200, that stop the run")
    workers: int = Field(0, ge=0, description="processes that load samples")
    out: str | None = Field(None, description="folder; None: runs/NAME")
    resume: bool = Field(False, description="go on from the newest checkpoint in out")


class CodebookConfig(Config):
    """What is done for a codebook besides its gradients; all of it off in the published systems."""

    start: Literal["random", "data", "kmeans"] = Field(
        "random", description="codes before the first step: as built, or from encoded pictures"
    )
    restart: int | None = Field(None, ge=1, description="every so many steps, codes that were not used since become encoded vectors")
