"""From a condition to tokens: the plain loop, which defines decoding, and the choice of another that is tested against it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from argenzoo.branches import Branches
from argenzoo.errors import ArgenzooError
from argenzoo.layers.embed import put, take
from argenzoo.options import SamplingOptions
from argenzoo.protocols import Condition, Progress
from argenzoo.rng import Draws
from argenzoo.speculative import Drafted


@dataclass(frozen=True)
class Request:
    """What is to be sampled.

    Args:
        null: None where nothing is guided.
        scale: s at the end of the ramp, 0-d or (B,).
        known, given: (B, N) bool and tokens that are kept, or None.
        order: the position sets, where they are given.
        watch: called after every step.
    """

    cond: Condition
    null: Condition | None
    scale: Tensor
    rng: Draws
    options: SamplingOptions
    known: Tensor | None = None
    given: Tensor | None = None
    order: Iterable[Tensor] | None = None
    watch: Callable[[Progress], None] | None = None


def decode(model: Any, request: Request) -> Tensor:
    """(B, N) ids or (B, N, C) vectors. Raises ArgenzooError where drafts are asked for with what they can't do."""
    if not getattr(request.options.order, "drafts", 0):
        return plain(model, request)
    if request.known is not None or request.order is not None:
        raise ArgenzooError("order.drafts is for whole pictures: set it to 0 for editing")
    drafted = Drafted(model.generator, model.head, request.cond, request.null, request.scale, request.options)
    return drafted.tokens(request.rng, request.watch)


def plain(model: Any, request: Request) -> Tensor:
    """Step the generator through its order, sample each set with the head."""
    known, given, rng, options, space = request.known, request.given, request.rng, request.options, model.space
    batch = len(request.cond.vector)
    tokens = space.empty(batch, request.cond.vector.device)
    if known is not None and given is not None:
        tokens = put(tokens, torch.arange(space.num_tokens), torch.where(spread(known, given), given, tokens))
    branches = Branches(model.generator, request.cond, request.null, known, options.order, parted=options.guidance.skip > 0)
    sets = list(model.generator.order(batch, known, rng, options.order) if request.order is None else request.order)
    contexts = model.contexts()
    seen = space.num_tokens - sum(positions.shape[-1] for positions in sets)
    for step, positions in enumerate(sets):
        context = contexts(tokens, seen)
        seen += positions.shape[-1]
        progress = Progress(step, len(sets), seen, space.num_tokens)
        z, z_null = branches.step(context, positions, options.guidance.acts(progress))  # (B, n, D) each
        new = model.head.sample(z, z_null, options.guidance.at(progress, request.scale), options.head, progress, rng)
        if known is not None and given is not None:
            new = torch.where(spread(take(known, positions), new), take(given, positions), new)
        tokens = put(tokens, positions, new.to(tokens.dtype))
        if request.watch is not None:
            request.watch(progress)
    return tokens


def spread(mask: Tensor, like: Tensor) -> Tensor:
    """(B, N) broadcast over the channels of (B, N) or (B, N, C)."""
    return mask if like.dim() == 2 else mask[..., None]
