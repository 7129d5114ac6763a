"""A player: a module with its loss, optimizer, averaged weights. A generator's run has one, an adversarial one has two."""

from __future__ import annotations

from collections.abc import Callable
from fnmatch import fnmatch
from typing import Any

import torch
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from argenzoo.errors import ArgenzooError
from argenzoo.layers.repeated import checkpointed, compiled
from argenzoo.train_options import TrainConfig
from argenzoo.training.schedule import lr_factor, weight_decay


class Player:
    """``module(*inputs) -> {"loss": ..., more to log}``.

    Args:
        name: in logs.
        module: as built; ``prepare`` hands it to Accelerate.
        start: the first step that it plays.
        takes: (the batch's inputs, what the first player returned for them) -> inputs.
    """

    def __init__(
        self,
        name: str,
        module: nn.Module,
        config: TrainConfig,
        steps: int,
        start: int = 0,
        takes: Callable[[tuple, dict[str, Tensor]], tuple] = lambda arguments, earlier: arguments,
    ) -> None:
        self.name, self.module, self.config, self.steps, self.start, self.takes = name, module, config, steps, start, takes
        keep_only(module, config.only)
        self.prepared: Any = module
        self.optimizer: Any = make_optimizer(module, config)
        self.ema: ModelEmaV3 | None = None

    def prepare(self, accelerator: Any) -> None:
        """Move to the device; wrap for the processes there are."""
        self.module.to(accelerator.device)
        if self.config.ema is not None:
            self.ema = ModelEmaV3(self.module, self.config.ema, use_warmup=self.config.ema_warmup)
        if self.config.checkpointing:  # of what is trained: the averages, a copy, have no backward pass
            checkpointed(self.module)
        if self.config.compile:
            compiled(self.module)
        self.prepared, self.optimizer = accelerator.prepare(self.module, self.optimizer)

    @property
    def averaged(self) -> nn.Module:
        """The averaged weights where there are any: what is evaluated, sampled and used."""
        return self.module if self.ema is None else self.ema.module

    def update(self, accelerator: Any, step: int, loss: Any) -> dict[str, float]:
        """One optimizer step at its scheduled rate, skipped on every process where loss or gradient is not finite on one."""
        factor, decay = lr_factor(self.config, step, self.steps), weight_decay(self.config, step, self.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.lr * factor
            group["weight_decay"] = decay if group["decays"] else 0.0
        clip = self.config.clip if self.config.clip is not None else float("inf")
        accelerator.unscale_gradients(self.optimizer)
        norm = torch.nn.utils.clip_grad_norm_(self.prepared.parameters(), clip)
        finite = self._finite(accelerator, norm, loss)
        if not finite:
            self.optimizer.zero_grad(set_to_none=True)  # a step without gradients changes nothing
        if finite or accelerator.scaler is not None:  # fp16's scaler must see the step to adapt
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if finite and self.ema is not None:
            self.ema.update(self.module, step + 1)
        return {"lr": self.config.lr * factor, "grad_norm": float(norm), "skipped": float(not finite)}

    def _finite(self, accelerator: Any, norm: Tensor, loss: Tensor) -> bool:
        good = (norm.isfinite() & loss.isfinite()).float()
        if accelerator.num_processes > 1:
            good = accelerator.reduce(good, "mean")
        return bool(good == 1)


def keep_only(module: nn.Module, patterns: tuple[str, ...]) -> None:
    """Freeze every parameter that no pattern names. Raises ArgenzooError on a pattern that names none."""
    named = dict(module.named_parameters())
    for pattern in patterns:
        if not any(fnmatch(name, pattern) for name in named):
            raise ArgenzooError(f"train.only '{pattern}' names no parameter of this model, e.g. {next(iter(named))}")
    for name, parameter in named.items():
        if patterns and not any(fnmatch(name, pattern) for pattern in patterns):
            parameter.requires_grad_(False)


def make_optimizer(module: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """Weight decay on parameters of two dimensions and more that no pattern of ``no_decay`` names.

    Raises:
        ArgenzooError: a pattern that names no parameter.
    """
    named = [(name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad]
    for pattern in config.no_decay:
        if not any(fnmatch(name, pattern) for name, _ in named):
            raise ArgenzooError(f"train.no_decay '{pattern}' names no parameter of this model, e.g. {named[0][0]}")
    exempt = [p.dim() < 2 or any(fnmatch(name, pattern) for pattern in config.no_decay) for name, p in named]
    groups = [
        {"params": [p for (_, p), out in zip(named, exempt, strict=True) if out == without], "decays": not without}
        for without in (False, True)
    ]
    kind = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}[config.optimizer]
    if config.optimizer == "adam" and (config.weight_decay or config.weight_decay_end):
        raise ArgenzooError("train.weight_decay has no effect with optimizer adam: set train.weight_decay=0, or optimizer=adamw")
    return kind([group for group in groups if group["params"]], lr=config.lr, betas=config.betas, fused=True)
