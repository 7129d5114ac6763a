"""The contracts between the parts. This page is the architecture.

Every paradigm is next-set prediction, p(x) = prod_k p(S_k | S_<k, condition): a tokenizer says what
the tokens are, a generator orders them into sets and reads what is known, a head turns
its output into tokens. Sampling runs in ``torch.inference_mode``: what is made there can not be trained with later.
B batch, N tokens, n tokens of one step, C token channels, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from argenzoo.errors import ArgenzooError
from argenzoo.registry import Config
from argenzoo.rng import Draws


@dataclass(frozen=True)
class TokenSpace:
    """All that a generator or a head may know of a tokenizer.

    Args:
        scales: (height, width) of each scale, coarse to fine; one pair for a single grid.
        dim: channels C of a token's vector.
        vocab_size: V where tokens are ids, None where they are vectors.
    """

    scales: tuple[tuple[int, int], ...]
    dim: int
    vocab_size: int | None = None

    @property
    def sizes(self) -> tuple[int, ...]:
        """Tokens of each scale."""
        return tuple(height * width for height, width in self.scales)

    @property
    def num_tokens(self) -> int:
        """N, over all scales."""
        return sum(self.sizes)

    @property
    def levels(self) -> Tensor:
        """(N,) the scale that each token belongs to."""
        sizes = torch.tensor(self.sizes, device="cpu")
        return torch.arange(len(self.sizes), device="cpu").repeat_interleave(sizes)

    def one_grid(self, generator: str) -> tuple[int, int]:
        """(height, width) of the only scale. Raises ArgenzooError, in the name of ``generator``, where there are several."""
        if len(self.scales) > 1:
            raise ArgenzooError(
                f"generator '{generator}' needs a single grid, this tokenizer gives {len(self.scales)} scales: "
                "use generator.name=var, or a vq or kl tokenizer"
            )
        return self.scales[0]

    def empty(self, batch: int, device: torch.device) -> Tensor:
        """Tokens before anything is known: zeros, (B, N) ids or (B, N, C) vectors."""
        if self.vocab_size is not None:
            return torch.zeros(batch, self.num_tokens, dtype=torch.long, device=device)
        return torch.zeros(batch, self.num_tokens, self.dim, device=device)


@dataclass(frozen=True)
class Condition:
    """What a conditioner made of labels or text.

    Args:
        tokens: (B, T, D), read as a prefix (raster) or buffer (mar).
        vector: (B, D), read by AdaLN (var).
        mask: (B, T) bool, False where padded; None when nothing is.
        nulls: how many of the last rows are the null condition of as many before them.
    """

    tokens: Tensor
    vector: Tensor
    mask: Tensor | None = None
    nulls: int = 0

    @staticmethod
    def pair(cond: Condition, null: Condition) -> Condition:
        """[cond; null] as one batch, for one forward pass."""
        mask = None if cond.mask is None or null.mask is None else torch.cat([cond.mask, null.mask])
        return Condition(torch.cat([cond.tokens, null.tokens]), torch.cat([cond.vector, null.vector]), mask, len(null.vector))


@dataclass(frozen=True)
class Progress:
    """Where the sampling loop stands: step ``step`` of ``steps``; ``revealed`` of ``total`` tokens are known after it."""

    step: int
    steps: int
    revealed: int
    total: int


@dataclass(frozen=True)
class Reconstruction:
    """What a tokenizer made of pictures in training.

    Args:
        pictures: (B, 3, H, W), with its gradient.
        terms: the tokenizer's own losses by name, computed where a recipe gives them a weight.
        ids: (B, N) of all scales, where there is a codebook.
        vectors: (B, N, C) that were looked up, without gradient.
    """

    pictures: Tensor
    terms: dict[str, Callable[[], Tensor]]
    ids: Tensor | None = None
    vectors: Tensor | None = None


class Tokenizer(Protocol):
    """Images <-> tokens. Frozen while a generator trains.

    A tokenizer with a codebook has it as ``codebook``, a ``tokenizers.codebook.Codebook``; one that an adversarial loss with an adaptive
    weight trains has ``last_layer``, the decoder's last weight.
    """

    space: TokenSpace
    image_size: int
    config: Any
    scale: Any

    def encode(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] -> what a cache keeps, deterministic: ids (B, N), vectors (B, N, C) or KL moments."""

    def tokens(self, stored: Tensor, rng: Draws | None = None) -> Tensor:
        """Stored -> ids (B, N) or vectors of unit scale (B, N, C); KL samples its posterior (its mode without ``rng``)."""

    def embed(self, tokens: Tensor) -> Tensor:
        """Ids (B, N), or probabilities over codes (B, N, V), -> code vectors (B, N, C)."""

    def context(self, tokens: Tensor, upto: int | None = None) -> Tensor:
        """What a generator may read of the tokens. A grid: the tokens. A pyramid: (B, N, C), at each position the coarser
        scales, summed and resized to its own; only the first ``upto`` tokens need be known. A tokenizer may have ``contexts()``: an object
        that is called like this with ever more tokens known, and does nothing twice."""

    def decode(self, tokens: Tensor) -> Tensor:
        """Ids or vectors -> images (B, 3, H, W), nominally in [-1, 1]."""

    def vectors(self, images: Tensor, rng: Draws | None = None) -> Tensor:
        """Continuous tokens before scaling (B, N, C): what ``scale`` is measured on."""

    def reconstruct(self, images: Tensor, rng: Draws | None = None) -> Reconstruction:
        """Training: encoded, quantised or sampled, and decoded, with gradients."""


class Loss(Protocol):
    """A part of a tokenizer's loss with settings of its own, ``weight`` among them. ``__init__(config)``.

    It may have an ``opponent``, a module that a second player trains: ``opponent(pictures, reconstruction) -> {"loss": ...}``. Its config
    then says when it sets in (``start``), its ``lr`` and ``betas`` (None: the run's), and whether the weight is ``adaptive``; if so,
    ``factor(others, own)`` makes a number of the two gradients at the decoder's last layer.
    """

    config: Any

    def __call__(self, reconstruction: Tensor, pictures: Tensor) -> Tensor:
        """(B, 3, H, W) each, in [-1, 1] -> (), what the tokenizer minimises."""


class Conditioner(Protocol):
    """Labels or text -> Condition. Owns the null condition and its drop in training. ``__init__(config, dim)``."""

    config: Any
    num_tokens: int

    def __call__(self, condition: Any, rng: Draws | None = None) -> Condition: ...

    def null(self, batch: int, mask: Tensor | None = None) -> Condition:
        """The null condition (under the text's mask where there is one)."""

    def check(self, condition: Any) -> Any:
        """The condition as tensors. Raises ArgenzooError where it can't be one."""

    @staticmethod
    def named(config: Any, classes: tuple[str, ...]) -> Any:
        """The configuration with the data's class names. Raises ArgenzooError where data and recipe disagree."""


class Generator(Protocol):
    """A network and an order. Never sees logits, noise or guidance. ``__init__(config, space)``.

    It may have ``check(options, condition_tokens)``, which raises ArgenzooError on sampling options or a condition that can't work;
    ``restless = True`` says that a step needs nothing that a skipped step would have left.
    """

    dim: int
    Sampling: type[Config]

    def __call__(self, context: Tensor, condition: Condition, rng: Draws | None = None) -> tuple[Tensor, Tensor]:
        """Teacher-forced: z (B, N, D) and the positions to be predicted (B, N) bool."""

    def order(self, batch: int, known: Tensor | None = None, rng: Draws | None = None, options: Any = None) -> Iterable[Tensor]:
        """The position sets, (n,) shared or (B, n) and ascending; every unknown position exactly once."""

    def start(self, condition: Condition, batch: int, known: Tensor | None = None, options: Any = None) -> Any:
        """A state for ``step``: caches, the positions known from the start. It may have ``skip(positions)``, to pass over a step."""

    def step(self, state: Any, context: Tensor, positions: Tensor) -> Tensor:
        """z (B, n, D) for the next set; the state advances."""


class Head(Protocol):
    """z -> tokens. ``__init__(config, space, dim)``. It may have ``check(options)``, as a generator has."""

    Sampling: type[Config]

    def loss(self, z: Tensor, tokens: Tensor, rng: Draws | None = None) -> Tensor:
        """(M, D) and (M,) ids or (M, C) vectors, not to be written to, -> (M,) losses."""

    def metrics(self, z: Tensor, tokens: Tensor) -> dict[str, Tensor]:
        """Further held-out figures, each (M,)."""

    def sample(
        self, z: Tensor, z_null: Tensor | None, guidance: Tensor, options: Any, progress: Progress | None, rng: Draws | None
    ) -> Tensor:
        """(B, n, D) -> tokens (B, n) or (B, n, C)."""
