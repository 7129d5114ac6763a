"""What is timed: a model's sampling, with and without decoding, and its training step, at a batch and a precision."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch

from argenzoo.benchmarking import work
from argenzoo.benchmarking.machine import Machine
from argenzoo.benchmarking.work import Counts, Work
from argenzoo.device import autocast
from argenzoo.errors import ArgenzooError
from argenzoo.model import ARModel, evaluating
from argenzoo.rng import Rng
from argenzoo.training.player import Player
from argenzoo.training.trainer import accelerated

SEED, MANY = 0, 1_000_000
Run = Callable[[], object]


@dataclass(frozen=True)
class Case:
    """One row of the table.

    Args:
        kind: tokens, pictures or training.
        variant: overrides of this row alone, as they were given.
        peer: whose code, where it is not ours.
    """

    name: str
    kind: str
    batch: int
    precision: str
    variant: str = ""
    peer: str = ""

    def least(self, counts: Counts, machine: Machine) -> Work:
        return KINDS[self.kind].least(counts, self.batch, self.precision, machine)

    def prepared(self, subject: Subject) -> Run:
        """What one timed run does; everything that is done once is done."""
        return KINDS[self.kind].prepared(subject, self.batch, self.precision)


class Subject:
    """A model, and what its training takes, made once a precision: a copy of its weights, moments, averages."""

    def __init__(self, name: str, model: ARModel) -> None:
        self.name, self.model = name, model
        self._players: dict[str, tuple[Any, Player]] = {}

    def check(self) -> None:
        """Raises ArgenzooError where there is no training step."""
        if self.model.recipe is None or self.model.recipe.train is None:
            raise ArgenzooError(f"'{self.name}' has no train section: leave training out of --kinds")

    def player(self, precision: str) -> tuple[Any, Player]:
        """(Accelerate, the player)."""
        self.check()
        if precision not in self._players:
            device = self.model.device
            accelerator = accelerated(precision, cpu=device.type == "cpu")
            if accelerator.device.type != device.type:  # Accelerate keeps the first device that a process took
                raise ArgenzooError(f"this process trains on {accelerator.device.type} already: time {device.type} in another")
            player = Player("network", deepcopy(self.model.network), self.model.recipe.train, steps=MANY)
            player.prepare(accelerator)
            self._players[precision] = accelerator, player
        return self._players[precision]


@dataclass(frozen=True)
class Kind:
    """``words``: what is timed, for the table."""

    words: str
    least: Callable[[Counts, int, str, Machine], Work]
    prepared: Callable[[Subject, int, str], Run]


def tokens(subject: Subject, batch: int, precision: str) -> Run:
    """Sampling without decoding."""
    model = subject.model
    condition = conditions(model, batch)

    def run() -> object:
        with autocast(model.device, precision), evaluating(model):
            return model.sample_tokens(condition, Rng(SEED, range(batch), device=model.device), model.sampling)

    return run


def pictures(subject: Subject, batch: int, precision: str) -> Run:
    """Sampling and decoding."""
    model = subject.model
    condition = conditions(model, batch)

    def run() -> object:
        with autocast(model.device, precision):
            return model.generate(condition, seed=SEED)

    return run


def training(subject: Subject, batch: int, precision: str) -> Run:
    """An optimizer step on tokens that are there already, as from a cache: the loss, its gradients, the update, the averages."""
    model = subject.model
    accelerator, player = subject.player(precision)
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
