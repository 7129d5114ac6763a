"""What is trained: a generator over a frozen tokenizer, or a tokenizer. The loop knows neither."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from argenzoo.build import assemble, build_tokenizer, encoded, make_tokenizer
from argenzoo.errors import ArgenzooError, suggestion
from argenzoo.model import ARModel, ARNetwork, evaluating
from argenzoo.recipe import Recipe, TrainConfig
from argenzoo.rng import Draws, Rng
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

    def inputs(self, stored: Tensor, labels: Tensor, rng: Draws) -> tuple:
        """A batch -> what every player's module takes."""

    def evaluate(self, inputs: tuple) -> dict[str, tuple[Tensor, Tensor]]:
        """Held-out figures as (sum, count), of the averaged weights."""

    def summary(self, totals: dict[str, tuple[Tensor, Tensor]]) -> dict[str, float]:
        """Summed figures -> what is logged."""

    def pictures(self, examples: Tensor, labels: Tensor) -> Tensor:
        """A grid's pictures (R, columns, 3, H, W) in [0, 1], to look at while it trains."""

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
    def inputs(self, stored: Tensor, labels: Tensor, rng: Draws) -> tuple:
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

    def finish(self, examples: Iterable[Tensor]) -> None:
        """Nothing to measure."""


class TokenizerObjective(nn.Module):
    """Reconstruction and the tokenizer's own losses, weighted: what a tokenizer's player trains."""

    def __init__(self, tokenizer: Any, weights: dict[str, float]) -> None:
        super().__init__()
        self.tokenizer, self.weights = tokenizer, weights

    def forward(self, pictures: Tensor, rng: Draws | None = None) -> dict[str, Tensor]:
        """``loss``, its terms without their weights, and the ``reconstruction`` (B, 3, H, W)."""
        reconstruction, terms = self.tokenizer.reconstruct(pictures, rng)
        terms = {**terms, "l1": lambda: F.l1_loss(reconstruction, pictures), "l2": lambda: F.mse_loss(reconstruction, pictures)}
        unknown = next((term for term in self.weights if term not in terms), None)
        if unknown is not None:
            raise ArgenzooError(f"unknown term 'loss.{unknown}' for this tokenizer{suggestion(unknown, terms)}")
        values = {term: terms[term]() for term in self.weights}
        total = torch.stack([weight * values[term] for term, weight in self.weights.items()]).sum()
        return {"loss": total, **values, "reconstruction": reconstruction}


class TokenizerTask:
    """Trains a tokenizer; ``tokenizer.weights``, where set, is where it starts from."""

    def __init__(self, recipe: Recipe, device: torch.device) -> None:
        assert recipe.train is not None
        if not recipe.loss:
            raise ArgenzooError(
                f"recipe '{recipe.name}' trains a tokenizer and needs a loss section, e.g. loss: {{l2: 1.0, codebook: 1.0}}"
            )
        self.config: TrainConfig = recipe.train
        torch.manual_seed(recipe.train.seed)
        self.tokenizer = (build_tokenizer(recipe) if recipe.tokenizer.weights else make_tokenizer(recipe.tokenizer)).to(device)
        self.objective = TokenizerObjective(self.tokenizer, recipe.loss)
        self._player: Player | None = None

    def players(self, steps: int) -> list[Player]:
        self._player = Player("tokenizer", self.objective, self.config, steps)
        return [self._player]

    def encode(self, pictures: Tensor) -> Tensor:
        return pictures

    def check(self, labels: Tensor) -> None:
        """A tokenizer reads no labels."""

    def example_tokens(self, stored: Tensor) -> None:
        return None

    def inputs(self, stored: Tensor, labels: Tensor, rng: Draws) -> tuple:
        return stored, rng

    @property
    def _averaged_objective(self) -> Any:
        return self.objective if self._player is None else self._player.averaged

    @property
    def _averaged(self) -> Any:
        return self._averaged_objective.tokenizer

    @torch.no_grad()
    def evaluate(self, inputs: tuple) -> dict[str, tuple[Tensor, Tensor]]:
        objective, pictures = self._averaged_objective, inputs[0]
        with evaluating(objective):
            figures = objective(*inputs)
        clamped = figures.pop("reconstruction").clamp(-1, 1)
        error = ((clamped - pictures) / 2).square().flatten(1).mean(1)  # of pictures in [0, 1]
        figures["psnr"] = (-10 * error.clamp(min=1e-10).log10()).mean()
        count = torch.tensor(float(len(pictures)), device=pictures.device)
        out = {name: (value * count, count) for name, value in figures.items()}
        space = self._averaged.space
        if space.vocab_size is not None:  # how often each code was used; the summary counts those that were
            ids = self._averaged.encode(pictures).flatten()
            out["used"] = torch.bincount(ids, minlength=space.vocab_size).float(), count
        return out

    def summary(self, totals: dict[str, tuple[Tensor, Tensor]]) -> dict[str, float]:
        totals = dict(totals)
        used = totals.pop("used", None)
        out = {name: (total / count.clamp(min=1)).item() for name, (total, count) in totals.items()}
        if used is not None:
            share = used[0] / used[0].sum()
            out["codebook_usage"] = (used[0] > 0).float().mean().item()
            out["codebook_perplexity"] = math.exp(-(share * share.clamp(min=1e-12).log()).sum().item())
        return out

    @torch.no_grad()
    def pictures(self, examples: Tensor, labels: Tensor) -> Tensor:
        """Originals above reconstructions."""
        tokenizer = self._averaged
        with evaluating(tokenizer):
            made = tokenizer.decode(tokenizer.tokens(tokenizer.encode(examples)))
        return (torch.stack([examples, made]).clamp(-1, 1) + 1) / 2

    @torch.no_grad()
    def finish(self, examples: Iterable[Tensor]) -> None:
        """Measures the latent scale, unless the recipe fixes it."""
        if self.tokenizer.config.latent_scale is not None:
            return
        with evaluating(self._averaged):
            vectors = [
                self._averaged.vectors(part, Rng(0, range(len(part)), "scale", part.device, step=i)) for i, part in enumerate(examples)
            ]
        self._averaged.scale.measure(torch.cat(vectors))
        self.tokenizer.scale.load_state_dict(self._averaged.scale.state_dict())
