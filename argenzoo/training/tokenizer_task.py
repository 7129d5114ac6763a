"""Training a tokenizer, alone or against a discriminator."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from argenzoo.build import build_tokenizer, make_tokenizer, measure_scale
from argenzoo.errors import ArgenzooError
from argenzoo.losses.usage import counts_of, usage
from argenzoo.model import evaluating
from argenzoo.recipe import Recipe
from argenzoo.rng import Draws
from argenzoo.train_options import CodebookConfig, TrainConfig
from argenzoo.training.codebook import CodebookWatch, start_from
from argenzoo.training.objective import TokenizerObjective
from argenzoo.training.player import Player

DECODING = ("tokenizer.autoencoder.decoder.", "tokenizer.autoencoder.post_quant_conv.")  # what changes no token


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
        self.fine_tuned = recipe.tokenizer.weights is not None
        self.tokenizer = (build_tokenizer(recipe) if self.fine_tuned else make_tokenizer(recipe.tokenizer)).to(device)
        self.objective = TokenizerObjective(self.tokenizer, recipe.loss)
        self.objective.losses.to(device)
        if device.type == "cuda":  # convolutions on tensor cores want it; on a CPU it does not pay (benchmarks/tokenizer_training.py)
            for module in (self.tokenizer, *self.objective.losses.parts.values()):
                module.to(memory_format=torch.channels_last)
        self.codebook = self._codebook(recipe)
        self.watch = self._watch()
        self._player: Player | None = None

    def _codebook(self, recipe: Recipe) -> CodebookConfig:
        """Raises ArgenzooError on a codebook section that would do nothing."""
        config = recipe.codebook or CodebookConfig.parse({}, "codebook")
        if recipe.codebook is not None and not hasattr(self.tokenizer, "codebook"):
            raise ArgenzooError(f"the codebook section has no effect: tokenizer '{recipe.tokenizer.name}' has no codebook, leave it out")
        if self.fine_tuned and config.start != "random":
            raise ArgenzooError(f"codebook.start {config.start} would overwrite the codes of tokenizer.weights: set it to random")
        return config

    def _watch(self) -> CodebookWatch | None:
        if not hasattr(self.tokenizer, "codebook"):
            return None
        return CodebookWatch(self.tokenizer, self.config.seed, self.codebook.restart)

    def players(self, steps: int) -> list[Player]:
        self._player = Player("tokenizer", self.objective, self.config, steps)
        opponents = self.objective.losses.opponents
        self._refuse(opponents)
        return [self._player, *(opponent(part, self.config, steps) for part in opponents.values())]

    def _refuse(self, opponents: dict[str, Any]) -> None:
        """Raises ArgenzooError on settings that ``train.only`` contradicts, and on more opponents than one."""
        if self.codebook.restart is not None and not self.tokenizer.codebook.weight.requires_grad:
            raise ArgenzooError("codebook.restart would change codes that train.only keeps: leave it out")
        if len(opponents) > 1:
            raise ArgenzooError(f"one opponent at a time: {', '.join(f'loss.{term}' for term in opponents)}")
        if any(part.config.adaptive for part in opponents.values()) and not self.tokenizer.last_layer.requires_grad:
            term = next(iter(opponents))
            raise ArgenzooError(
                f"loss.{term}.adaptive needs a gradient at the decoder's last layer, which train.only keeps: set it to false"
            )

    def encode(self, pictures: Tensor) -> Tensor:
        return pictures

    def check(self, labels: Tensor) -> None:
        """A tokenizer reads no labels."""

    def example_tokens(self, stored: Tensor) -> None:
        return None

    def inputs(self, stored: Tensor, labels: Tensor, rng: Draws, step: int | None = None) -> tuple:
        return stored, rng, step

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
            made = objective(*inputs)
        figures = {name: value for name, value in made.items() if value.dim() == 0}
        error = ((made["reconstruction"].clamp(-1, 1) - pictures) / 2).square().flatten(1).mean(1)  # of pictures in [0, 1]
        figures["psnr"] = (-10 * error.clamp(min=1e-10).log10()).mean()
        count = torch.tensor(float(len(pictures)), device=pictures.device)
        out = {name: (value * count, count) for name, value in figures.items()}
        if "ids" in made:
            out["used"] = counts_of(made["ids"], self.tokenizer.space, self.tokenizer.codebook.num_embeddings), count
        return out

    def summary(self, totals: dict[str, tuple[Tensor, Tensor]]) -> dict[str, float]:
        out = {name: (total / count.clamp(min=1)).item() for name, (total, count) in totals.items() if name != "used"}
        return {**out, **(usage(totals["used"][0], self.tokenizer.space) if "used" in totals else {})}

    @torch.no_grad()
    def pictures(self, examples: Tensor, labels: Tensor) -> Tensor:
        """Originals above reconstructions."""
        tokenizer = self._averaged
        with evaluating(tokenizer):
            made = tokenizer.decode(tokenizer.tokens(tokenizer.encode(examples)))
        return (torch.stack([examples, made]).clamp(-1, 1) + 1) / 2

    def begin(self, examples: Iterable[Tensor]) -> None:
        """Codes from training pictures, where the recipe asks for them."""
        if self.codebook.start != "random":
            start_from(self.tokenizer, examples, self.codebook.start, self.config.seed)

    def after(self, step: int, made: list[dict[str, Tensor]], skipped: bool, accelerator: Any) -> None:
        """Counts the codes that were used; dead ones are replaced when it is time. A step that was skipped tells nothing."""
        if self.watch is None or self._player is None or skipped:
            return
        for out in made:
            self.watch.note(out["ids"])
        if self.watch.due(step):
            optimizer = getattr(self._player.optimizer, "optimizer", self._player.optimizer)
            self.watch.revive(step, made[-1]["vectors"], self._averaged, optimizer, accelerator)

    def figures(self, accelerator: Any) -> dict[str, float]:
        return {} if self.watch is None else self.watch.figures(accelerator)

    def state(self, accelerator: Any) -> dict[str, Tensor]:
        return {} if self.watch is None else self.watch.total(accelerator)

    def restore(self, state: dict[str, Tensor], main: bool) -> None:
        """The main process takes up the windows of all."""
        for name, tensor in state.items() if main else ():
            getattr(self.watch, name).copy_(tensor)

    @torch.no_grad()
    def finish(self, examples: Iterable[Tensor]) -> None:
        """Measures the latent scale, unless the recipe fixes it or no token can have changed."""
        trained = [name for name, parameter in self.objective.named_parameters() if parameter.requires_grad]
        if self.tokenizer.config.latent_scale is not None or all(name.startswith(DECODING) for name in trained):
            return
        try:
            measure_scale(self._averaged, examples)
        except ArgenzooError as error:  # no reason to lose a checkpoint
            warnings.warn(f"the latent scale stays {self._averaged.scale.factors.tolist()}: {error}", stacklevel=2)
        self.tokenizer.scale.load_state_dict(self._averaged.scale.state_dict())


def opponent(part: Any, config: TrainConfig, steps: int) -> Player:
    """The player of an adversarial loss: its own rate, no averaging; it sees what the tokenizer made."""
    own = {"lr": part.config.lr or config.lr, "betas": part.config.betas or config.betas}
    plain = {"ema": None, "only": (), "no_decay": (), "weight_decay": 0.0, "weight_decay_end": None}
    return Player(
        "discriminator",
        part.opponent,
        config.model_copy(update={**own, **plain}),
        steps,
        start=part.config.start,
        takes=lambda arguments, earlier: (arguments[0], earlier["reconstruction"]),
    )
