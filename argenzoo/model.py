"""ARModel: trains and samples every combination of tokenizer, conditioner, generator and head."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from argenzoo.decoding import Request, decode
from argenzoo.device import only_sampling
from argenzoo.errors import ArgenzooError
from argenzoo.layers.execution import executing
from argenzoo.layers.linear import quick
from argenzoo.options import SamplingOptions
from argenzoo.protocols import Progress, TokenSpace
from argenzoo.rng import Draws, Rng


class ARNetwork(nn.Module):
    """What is trained: conditioner, generator and head as one module. The tokenizer stays outside."""

    def __init__(self, conditioner: Any, generator: Any, head: Any) -> None:
        super().__init__()
        self.conditioner, self.generator, self.head = conditioner, generator, head
        quick(self)

    def forward(self, context: Tensor, tokens: Tensor, condition: Any, rng: Draws | None = None) -> dict[str, Tensor]:
        """``loss`` (0-d) over the positions to be predicted; in evaluation also ``token_loss`` and the head's metrics,
        (B, N) each, and their ``mask``."""
        z, mask = self.generator(context, self.conditioner(condition, rng), rng)  # (B, N, D), (B, N)
        where = mask.flatten().nonzero().flatten()  # (M,), once: the host waits for it
        z, tokens = rows_of(z, where), rows_of(tokens, where)  # (M, D), (M, ...)
        loss = self.head.loss(z, tokens, None if rng is None else rng.rows(where, mask.shape[1]))  # (M,)
        if self.training:
            return {"loss": loss.mean()}
        figures = {"token_loss": loss, **self.head.metrics(z, tokens)}
        spread = {name: torch.zeros(mask.shape, device=mask.device).masked_scatter(mask, rows.float()) for name, rows in figures.items()}
        return {"loss": loss.mean(), "mask": mask, **spread}


def rows_of(x: Tensor, where: Tensor) -> Tensor:
    """The rows (M, ...) at ``where`` (M,), ascending, of x (B, N, ...) without its samples' bounds; a view where that is all of them."""
    flat = x.flatten(0, 1)
    return flat if len(where) == len(flat) else flat.index_select(0, where)  # whose gradient, unlike that of x[where], is not sorted


class ARModel(nn.Module):
    """A frozen tokenizer, a network, and how to sample from it.

    Args:
        tokenizer, network: None where only the other was imported; using what is not there raises.
        recipe: that it was built from; None for a model made by hand.

    Attributes:
        sources: the files that ``network`` and ``tokenizer`` were read from, where they were.
    """

    def __init__(self, tokenizer: Any, network: ARNetwork | None, sampling: SamplingOptions | None, recipe: Any = None) -> None:
        super().__init__()
        self.tokenizer, self.recipe = tokenizer, recipe
        self.network: Any = network
        self.sampling: Any = sampling
        self.sources: dict[str, Path] = {}
        if tokenizer is not None:
            tokenizer.eval().requires_grad_(False)
        if network is not None and sampling is not None:
            self.check(sampling)

    def check(self, options: SamplingOptions) -> None:
        """Raises ArgenzooError where these parts can't sample so."""
        if options.guidance.skip and (options.guidance.ramp == "constant" or not getattr(self.generator, "restless", False)):
            raise ArgenzooError(
                "sampling.skip has no effect with ramp=constant, and is for generators that keep nothing between steps (mar)"
            )
        if getattr(options.order, "drafts", 0) and not hasattr(self.head, "probabilities"):
            raise ArgenzooError("order.drafts needs a head that gives probabilities of ids: head.name=cross_entropy")
        if options.execution.compile and not getattr(options.order, "static", True) and not getattr(options.order, "drafts", 0):
            raise ArgenzooError("execution.compile needs order.static=true for this generator: its steps would have a shape each")
        if hasattr(self.generator, "check"):
            self.generator.check(options.order, self.conditioner.num_tokens)
        if hasattr(self.head, "check"):
            self.head.check(options.head)

    def require(self, *parts: str) -> None:
        """Raises ArgenzooError where the model was loaded without ``tokenizer`` or ``network``."""
        for part in parts:
            if getattr(self, part) is None:
                file = "generator" if part == "network" else part
                raise ArgenzooError(f"this model has no {file}: it was loaded without one; give the {file}'s weights too")

    conditioner = property(lambda self: None if self.network is None else self.network.conditioner)
    generator = property(lambda self: None if self.network is None else self.network.generator)
    head = property(lambda self: None if self.network is None else self.network.head)

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Of its weights."""
        return next(self.parameters()).dtype

    @property
    def space(self) -> TokenSpace:
        """What the tokens are."""
        return self.generator.space if self.tokenizer is None else self.tokenizer.space

    def train(self, mode: bool = True) -> ARModel:
        super().train(mode)
        if self.tokenizer is not None:
            self.tokenizer.eval()
        return self

    def loss(self, images: Tensor, condition: Any, rng: Draws | None = None) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1] -> the training loss."""
        self.require("tokenizer", "network")
        tokens = self.tokenizer.tokens(self.tokenizer.encode(images), rng)
        return self.network(self.tokenizer.context(tokens), tokens, condition, rng)["loss"]

    def executing(self, options: SamplingOptions | None = None) -> AbstractContextManager[None]:
        """Hold the weights in the form that ``options.execution`` names, None the recipe's: around many calls, which else make it each.
        They must not change inside."""
        self.require("network")
        return executing(self.network, (self.sampling if options is None else options).execution)

    def context(self, tokens: Tensor, upto: int | None = None) -> Tensor:
        """The tokenizer's, which for a single grid is the tokens themselves: there it need not be loaded."""
        if self.tokenizer is None and len(self.space.scales) == 1:
            return tokens
        self.require("tokenizer")
        return self.tokenizer.context(tokens, upto)

    def contexts(self) -> Callable[[Tensor, int], Tensor]:
        """``context`` for one sampling, called with ever more tokens: where the tokenizer can, it goes on from what it made before."""
        return self.tokenizer.contexts() if hasattr(self.tokenizer, "contexts") else self.context

    @torch.no_grad()
    def generate(
        self,
        condition: Any,
        guidance: float | Tensor | None = None,
        seed: int = 0,
        indices: list[int] | None = None,
        sampling: dict[str, Any] | None = None,
        known: Tensor | None = None,
        given: Tensor | None = None,
        watch: Callable[[Progress], None] | None = None,
    ) -> Tensor:
        """Pictures (B, 3, H, W) in [0, 1].

        Args:
            condition: B labels, or text as (features, mask).
            guidance: s at the end of the ramp, one number or (B,); None is the recipe's.
            seed, indices: picture i depends on (seed, indices[i]) alone; indices default to 0..B-1.
            sampling: dotted overrides, e.g. ``{"head.temperature": 0.9, "order.num_steps": 16}``.
            known, given: editing: tokens ``given`` are kept where ``known`` (B, N) is True.
            watch: called after every step.

        Raises:
            ArgenzooError: a label out of range, an unknown or impossible sampling option.
        """
        self.require("tokenizer", "network")
        if self.dtype != torch.float32:
            raise ArgenzooError(f"this model's weights are {self.dtype}: keep them in float32, and sample under torch.autocast")
        if guidance is not None and not bool((torch.as_tensor(guidance).isfinite() & (torch.as_tensor(guidance) >= 0)).all()):
            raise ArgenzooError(f"guidance must be finite and not negative, got {guidance}")
        condition = self.conditioner.check(condition)
        batch = len(condition[0] if isinstance(condition, tuple) else condition)
        if (known is None) != (given is None):
            raise ArgenzooError("editing needs both known, the positions, and given, the tokens")
        indices = list(range(batch)) if indices is None else indices
        if len(indices) != batch:
            raise ArgenzooError(f"{len(indices)} indices for {batch} samples")
        device = self.device
        moved = tuple(part.to(device) for part in condition) if isinstance(condition, tuple) else condition.to(device)
        known, given = (None if part is None else part.to(device) for part in (known, given))
        rng = Rng(seed, indices, device=device)
        options = self.sampling.override(sampling)
        self.check(options)
        with evaluating(self):
            tokens = self.sample_tokens(moved, rng, options, guidance, known=known, given=given, watch=watch)
            with only_sampling(device):
                pictures = self.tokenizer.decode(tokens).float()
            return ((pictures + 1) / 2).clamp(0, 1)

    @torch.no_grad()
    def sample_tokens(
        self,
        condition: Any,
        rng: Draws,
        options: SamplingOptions,
        guidance: float | Tensor | None = None,
        order: Iterable[Tensor] | None = None,
        known: Tensor | None = None,
        given: Tensor | None = None,
        watch: Callable[[Progress], None] | None = None,
    ) -> Tensor:
        """Tokens alone, by the loop that the options choose.

        Args:
            condition: as the conditioner takes it, on the model's device.
            order: the position sets, where they are given (tests).

        Returns:
            (B, N) ids or (B, N, C) vectors.
        """
        self.require("network")
        with self.executing(options), only_sampling(self.device):
            cond = self.conditioner(condition)
            scale = torch.as_tensor(options.guidance.guidance if guidance is None else guidance, device=cond.vector.device).float()
            null = self.conditioner.null(len(cond.vector), cond.mask) if bool((scale != 1).any()) else None
            tokens = decode(self, Request(cond, null, scale, rng, options, known, given, order, watch))
        return tokens.clone()  # outside, so that a caller may do with it what it likes

    def save_pretrained(self, save_directory: str | Path, license: str | None = None, overwrite: bool = False) -> None:  # noqa: A002
        """Write a folder that ``from_pretrained`` and ``build_model`` read: recipe, weights (sharded above 5 GB), a model card.

        Args:
            license: of the weights, as the Hub names it.

        Raises:
            ArgenzooError: the folder holds a checkpoint and ``overwrite`` is not set.
        """
        from argenzoo.hub.hosting import save

        save(self, save_directory, license, overwrite)

    def push_to_hub(
        self,
        repo_id: str,
        private: bool | None = None,
        token: str | None = None,
        branch: str | None = None,
        commit_message: str = "Upload a model of argenzoo",
        create_pr: bool | None = None,
        license: str | None = None,  # noqa: A002
    ) -> str:
        """Upload to a repository of the Hub, which is created where there is none; returns the commit's address.

        Args:
            repo_id: OWNER/NAME.
            private, token, branch, commit_message, create_pr: as huggingface_hub takes them.
            license: of the weights, as the Hub names it.

        Raises:
            ArgenzooError: no token, no right to write, a name that can't be.
        """
        from argenzoo.hub.hosting import Upload, push, save

        upload = Upload(private, token, branch, commit_message, create_pr)
        return push(lambda folder: save(self, folder, license, repo=repo_id), repo_id, upload)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        overrides: dict[str, Any] | None = None,
        device: str | torch.device = "cpu",
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
    ) -> ARModel:
        """A model in evaluation mode from a folder, or a repository OWNER/NAME of the Hub, in the zoo's format.

        Raises:
            ArgenzooError: no such folder or repository, a download that fails, a checkpoint that does not fit.
        """
        from argenzoo.hub.download import Access
        from argenzoo.hub.hosting import load

        access = Access(revision, token, cache_dir, force_download, local_files_only)
        return load(pretrained_model_name_or_path, overrides, device, access)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode inside, the mode it had before afterwards."""
    before = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(before)
