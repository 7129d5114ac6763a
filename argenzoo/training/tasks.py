"""What is trained: a contract between the loop and the parts, and a generator over a frozen tokenizer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from argenzoo.build import assemble, build_tokenizer, encoded
from argenzoo.errors import ArgenzooError
from argenzoo.model import ARModel, ARNetwork, evaluating
from argenzoo.recipe import Recipe
from argenzoo.rng import Draws
from argenzoo.train_options import TrainConfig
from argenzoo.training.player import Player


class Task(Protocol):
    """Between the loop and the parts."""

    tokenizer: Any

    def players(self, steps: int) -> list[Player]:
        """What is trained, made once, with each part's optimizer."""

    def encode(self, pictures: Tensor) -> Tensor:
        """Pictures in [-1, 1] -> what ``inputs`` takes (and a cache stores)."""

    def check(self, labels: Tensor) -> None:
        """Raises ArgenzooError on a label that this recipe can't have."""

    def example_tokens(self, stored: Tensor) -> Tensor | None:
        """Tokens to be looked at before training; None where the tokenizer is what is trained."""

    def inputs(self, stored: Tensor, labels: Tensor, rng: Draws, step: int | None = None) -> tuple:
        """A batch -> what the first player's module takes; ``step`` is None in evaluation."""

    def evaluate(self, inputs: tuple) -> dict[str, tuple[Tensor, Tensor]]:
        """Held-out figures as (sum, count), of the averaged weights."""

    def summary(self, totals: dict[str, tuple[Tensor, Tensor]]) -> dict[str, float]:
        """Summed figures -> what is logged."""

    def pictures(self, examples: Tensor, labels: Tensor) -> Tensor:
        """A grid's pictures (R, columns, 3, H, W) in [0, 1], to look at while it trains."""

    def begin(self, examples: Iterable[Tensor]) -> None:
        """Before the first step of a new run: what is made from training pictures."""

    def after(self, step: int, made: list[dict[str, Tensor]], skipped: bool, accelerator: Any) -> None:
        """After an optimizer step, with what the first player returned for each micro-batch."""

    def figures(self, accelerator: Any) -> dict[str, float]:
        """More to log, since the last time."""

    def state(self, accelerator: Any) -> dict[str, Tensor]:
        """What a checkpoint holds besides weights and optimizers; every process asks."""

    def restore(self, state: dict[str, Tensor], main: bool) -> None:
        """The counterpart of ``state``; ``main``: on the main process."""

    def finish(self, examples: Iterable[Tensor]) -> None:
        """Before a checkpoint: what is measured on training pictures, batch by batch, goes into the weights."""


class GeneratorTask:
    """Encodes with the frozen tokenizer, trains conditioner, generator and head."""

    def __init__(self, recipe: Recipe, device: torch.device) -> None:
        assert recipe.train is not None
        if recipe.tokenizer.weights is None:
            raise ArgenzooError(
                f"recipe '{recipe.name}' trains a generator on a frozen tokenizer and needs its weights: "
                "set tokenizer.weights to a tokenizer's run folder or .safetensors file"
                + (", or to pretrained" if recipe.pretrained is not None else "")
            )
        self.config: TrainConfig = recipe.train
        self.tokenizer = build_tokenizer(recipe, device=device)
        torch.manual_seed(recipe.train.seed)
        self.model: ARModel = assemble(recipe, self.tokenizer)
        self._player: Player | None = None

    def players(self, steps: int) -> list[Player]:
        self._player = Player("network", self.model.network, self.config, steps)
        return [self._player]

    @property
    def _averaged(self) -> ARNetwork:
        return self.model.network if self._player is None else cast(ARNetwork, self._player.averaged)

    def encode(self, pictures: Tensor) -> Tensor:
        return encoded(self.tokenizer, pictures)

    def check(self, labels: Tensor) -> None:
        self.model.conditioner.check(labels)

    @torch.no_grad()
    def example_tokens(self, stored: Tensor) -> Tensor:
        return self.tokenizer.tokens(stored)

    @torch.no_grad()
    def inputs(self, stored: Tensor, labels: Tensor, rng: Draws, step: int | None = None) -> tuple:
        tokens = self.tokenizer.tokens(stored, rng)
        return self.tokenizer.context(tokens), tokens, labels, rng

    @torch.no_grad()
    def evaluate(self, inputs: tuple) -> dict[str, tuple[Tensor, Tensor]]:
        network = self._averaged
        with evaluating(network):
            figures = network(*inputs)
        figures.pop("loss")
        mask = figures.pop("mask").float()
        levels = self.tokenizer.space.levels.to(mask.device)
        out = {}
        for name, rows in figures.items():
            name = {"token_loss": "loss"}.get(name, name)
            out[name] = (rows * mask).sum(), mask.sum()
            if len(self.tokenizer.space.scales) > 1:
                for k, (height, width) in enumerate(self.tokenizer.space.scales):
                    here = mask * (levels == k)
                    out[f"{name}/scale_{k}_{height}x{width}"] = (rows * here).sum(), here.sum()
        return out

    def summary(self, totals: dict[str, tuple[Tensor, Tensor]]) -> dict[str, float]:
        return {name: (total / count.clamp(min=1)).item() for name, (total, count) in totals.items()}

    def pictures(self, examples: Tensor, labels: Tensor) -> Tensor:
        """Two rows, of the examples' labels."""
        model = ARModel(self.tokenizer, self._averaged, self.model.sampling)
        count = len(labels)
        made = model.generate(torch.cat([labels, labels]).cpu(), seed=0, indices=list(range(2 * count)))
        return made.view(2, count, *made.shape[1:])

    def begin(self, examples: Iterable[Tensor]) -> None:
        """Starts from random weights."""

    def after(self, step: int, made: list[dict[str, Tensor]], skipped: bool, accelerator: Any) -> None:
        """Nothing is left to do."""

    def figures(self, accelerator: Any) -> dict[str, float]:
        return {}

    def state(self, accelerator: Any) -> dict[str, Tensor]:
        return {}

    def restore(self, state: dict[str, Tensor], main: bool) -> None:
        """Nothing is kept."""

    def finish(self, examples: Iterable[Tensor]) -> None:
        """Nothing to measure."""
