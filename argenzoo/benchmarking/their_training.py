"""A training step of an author's code, with the update that their scripts have: clipping, AdamW, averages parameter by parameter where the
recipe has them. Without what they do beside it: reading the loss, accuracies, scaling; and without LlamaGen's torch.compile."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from argenzoo.device import autocast
from argenzoo.recipe import Recipe


@dataclass(frozen=True)
class Training:
    """Their network, a batch's loss, and whether their AdamW is the fused one."""

    network: nn.Module
    loss: Callable[[], Tensor]
    fused: bool


def llamagen(model: Any, labels: Tensor, tokenizer: Any) -> Training:
    ids = torch.randint(tokenizer.vocab_size, (len(labels), tokenizer.grid**2), device=labels.device)
    return Training(model, lambda: model(cond_idx=labels, idx=ids[:, :-1], targets=ids)[1], fused=True)


def var(model: Any, labels: Tensor, tokenizer: Any) -> Training:
    count = sum(side**2 for side in tokenizer.scales)
    ids = torch.randint(tokenizer.vocab_size, (len(labels), count), device=labels.device)
    inputs = torch.randn(len(labels), count - tokenizer.scales[0] ** 2, tokenizer.dim, device=labels.device)

    def loss() -> Tensor:
        logits = model(labels, inputs)
        return nn.functional.cross_entropy(logits.view(-1, logits.shape[-1]), ids.view(-1), reduction="none").view(ids.shape).mean()

    return Training(model, loss, fused=True)


def mar(model: Any, labels: Tensor, tokenizer: Any) -> Training:
    latents = torch.randn(len(labels), tokenizer.dim, tokenizer.grid, tokenizer.grid, device=labels.device)
    return Training(model, lambda: model(latents, labels), fused=False)


def stepping(training: Training, recipe: Recipe, device: torch.device, precision: str) -> Callable[[], object]:
    """Every call is one step. Weights stay in float32, as their scripts keep them."""
    config = recipe.train
    assert config is not None
    network = training.network.train()
    weights = [weight for weight in network.parameters() if weight.requires_grad]
    decay = config.ema
    averages = [weight.detach().clone() for weight in weights if decay is not None]
    optimizer = torch.optim.AdamW(weights, lr=config.lr, betas=config.betas, weight_decay=config.weight_decay, fused=training.fused)

    def run() -> None:
        with autocast(device, precision):
            loss = training.loss()
        loss.backward()
        if config.clip is not None:
            nn.utils.clip_grad_norm_(weights, config.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if decay is not None:
            for average, weight in zip(averages, weights, strict=True):
                average.mul_(decay).add_(weight.detach(), alpha=1 - decay)

    return run
