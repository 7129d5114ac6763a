"""What is timed: a model's sampling, with and without decoding, and its training step, at a batch and a precision."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch

from argenzoo.benchmarking import work
from argenzoo.benchmarking.machine import Machine
from argenzoo.benchmarking.work import Work
from argenzoo.device import autocast
from argenzoo.errors import ArgenzooError
from argenzoo.model import ARModel, evaluating
from argenzoo.recipe import Recipe
from argenzoo.rng import Rng
from argenzoo.training.player import Player
from argenzoo.training.trainer import accelerated

SEED, MANY = 0, 1_000_000
Run = Callable[[], object]


@dataclass(frozen=True)
class Case:
    """One row of the table. ``kind``: tokens, pictures or training; ``peer``: whose code, where it is not ours."""

    name: str
    kind: str
    batch: int
    precision: str
    peer: str = ""

    def least(self, recipe: Recipe, machine: Machine) -> Work:
        return KINDS[self.kind].least(recipe, self.batch, self.precision, machine)

    def prepared(self, model: ARModel) -> Run:
        """What one timed run does; everything that is done once is done."""
        return KINDS[self.kind].prepared(model, self.batch, self.precision)


@dataclass(frozen=True)
class Kind:
    """``words``: what is timed, for the table."""

    words: str
    least: Callable[[Recipe, int, str, Machine], Work]
    prepared: Callable[[ARModel, int, str], Run]


def tokens(model: ARModel, batch: int, precision: str) -> Run:
    """Sampling without decoding."""
    condition = conditions(model, batch)

    def run() -> object:
        with autocast(model.device, precision), evaluating(model):
            return model.sample_tokens(condition, Rng(SEED, range(batch), device=model.device), model.sampling)

    return run


def pictures(model: ARModel, batch: int, precision: str) -> Run:
    """Sampling and decoding."""
    condition = conditions(model, batch)

    def run() -> object:
        with autocast(model.device, precision):
            return model.generate(condition, seed=SEED)

    return run


def training(model: ARModel, batch: int, precision: str) -> Run:
    """An optimizer step on tokens that are there already, as from a cache: the loss, its gradients, the update, the averages."""
    recipe = model.recipe
    if recipe is None or recipe.train is None:
        raise ArgenzooError("a model without a train section has no training step")
    accelerator = accelerated(precision, cpu=model.device.type == "cpu")
    player = Player("network", deepcopy(model.network), recipe.train, steps=MANY)  # Accelerate wraps it for one precision
    player.prepare(accelerator)
    made = some_tokens(model, batch)
    context, condition = model.context(made), conditions(model, batch)
    steps = iter(range(MANY))

    def run() -> object:
        step = next(steps)
        player.prepared.train()
        out = player.prepared(context, made, condition, Rng(SEED, range(batch), "train", model.device, step))
        accelerator.backward(out["loss"])
        return player.update(accelerator, step, out["loss"].detach())

    return run


def conditions(model: ARModel, batch: int) -> Any:
    """Labels in turn, or random text features."""
    config = model.conditioner.config
    if hasattr(config, "num_classes"):
        return (torch.arange(batch) % config.num_classes).to(model.device)
    features = Rng(SEED, range(batch), device=model.device).normal(config.num_tokens, config.feature_dim)
    return features, torch.ones(features.shape[:2], device=model.device)


def some_tokens(model: ARModel, batch: int) -> torch.Tensor:
    space, rng = model.space, Rng(SEED, range(batch), "benchmark", model.device)
    if space.vocab_size is None:
        return rng.normal(space.num_tokens, space.dim)
    return rng.integers(space.vocab_size, space.num_tokens)


KINDS = {
    "tokens": Kind("sampling", work.sampling, tokens),
    "pictures": Kind("sampling and decoding", work.decoded, pictures),
    "training": Kind("training step", work.training, training),
}
