"""Masked autoregression: random sets of growing size, bidirectional attention (MAR, arXiv 2406.11838, section 3)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from argenzoo.errors import ArgenzooError
from argenzoo.layers.embed import put, take, token_embedding
from argenzoo.layers.vit import Slots, ViTBlock
from argenzoo.protocols import Condition, TokenSpace
from argenzoo.registry import Config as PartConfig
from argenzoo.rng import Draws, GlobalRng


@dataclass
class MARState:
    """What is known, and what is kept for the next step.

    Args:
        known: (B, N) bool, ``count`` of them in every sample.
        kept: None: every step begins anew.
    """

    condition: Condition
    known: Tensor
    count: int = 0
    kept: Kept | None = None

    @property
    def uneven(self) -> bool:
        """Whether steps differ in more than what is known."""
        return self.kept is not None

    def reveal(self, positions: Tensor) -> None:
        """Tokens (B, n) are known from now on."""
        self.known = put(self.known, positions, torch.ones_like(positions, dtype=torch.bool))
        self.count += positions.shape[-1]

    def skip(self, positions: Tensor) -> None:
        """Pass over a step; what is kept would lack it."""
        self.reveal(positions)
        if self.kept is not None:
            self.kept.age = None


@dataclass
class Kept:
    """Of the last full pass and what came after it, for steps that make their own positions alone.

    Args:
        every: steps from one full pass to the next; ``age`` since the last, None before the first.
        null: the null condition's rows are not made between full passes: their distance from the others', ``shift`` (B, N, D), is kept.
        newest: (B, n) the positions that were predicted last.
    """

    encoder: list[Slots]
    decoder: list[Slots]
    every: int
    null: bool
    age: int | None = None
    newest: Tensor | None = None
    shift: Tensor | None = None


class MAR(nn.Module):
    """An encoder over the condition's buffer and the known tokens, a decoder over the buffer and all positions; half of the blocks each."""

    class Config(PartConfig):
        dim: int = Field(768, ge=8)
        depth: int = Field(24, ge=2, multiple_of=2)
        num_heads: int = Field(12, ge=1)
        mlp_ratio: float = Field(4.0, gt=0)
        dropout: float = Field(0.1, ge=0, lt=1, description="of attention weights and projections")
        buffer_size: int = Field(64, ge=1, description="slots for the condition")
        mask_ratio_min: float = Field(0.7, gt=0, le=1)
        mask_ratio_std: float = Field(0.25, gt=0)

    class Sampling(PartConfig):
        num_steps: int | None = Field(None, ge=1, description="as many as tokens is one token a step; None: a quarter (64 for 256)")
        full_every: int = Field(1, ge=1, description="steps; those between make new and predicted tokens alone (arXiv 2503.12450)")
        keep_null: bool = Field(False, description="the null condition's outputs follow the others' between full passes (the same paper)")

    restless = True

    def __init__(self, config: Config, space: TokenSpace) -> None:
        super().__init__()
        space.one_grid("mar")
        if config.dim % config.num_heads:
            raise ArgenzooError(f"generator.dim {config.dim} is no multiple of num_heads {config.num_heads}")
        self.config, self.space, self.dim = config, space, config.dim
        length = config.buffer_size + space.num_tokens
        self.embed = token_embedding(space, config.dim)
        self.embed_norm = nn.LayerNorm(config.dim, eps=1e-6)
        self.encoder_position = nn.Parameter(torch.empty(length, config.dim))
        self.encoder = self._blocks()
        self.encoder_norm = nn.LayerNorm(config.dim, eps=1e-6)
        self.bridge = nn.Linear(config.dim, config.dim)
        self.mask_token = nn.Parameter(torch.empty(1, config.dim))
        self.decoder_position = nn.Parameter(torch.empty(length, config.dim))
        self.decoder = self._blocks()
        self.decoder_norm = nn.LayerNorm(config.dim, eps=1e-6)
        self.out_position = nn.Parameter(torch.empty(space.num_tokens, config.dim))
        self._init()

    def forward(self, context: Tensor, condition: Condition, rng: Draws | None = None, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """z (B, N, D) and the hidden positions (B, N); ``mask`` (True: hidden, as many in every sample) may be given."""
        if mask is None:
            mask, hidden = self.draw_mask(rng or GlobalRng(len(context), context.device))
        else:
            mask, hidden = mask.bool(), int(mask[0].sum())
        return self._run(context, condition, mask, self.space.num_tokens - hidden), mask

    def check(self, options: Sampling, condition_tokens: int) -> None:
        """Raises ArgenzooError where there are more steps than tokens, or more tokens of condition than slots."""
        if options.num_steps is not None and options.num_steps > self.space.num_tokens:
            raise ArgenzooError(f"order.num_steps {options.num_steps} is more than the {self.space.num_tokens} tokens of this model")
        if options.keep_null and options.full_every == 1:
            raise ArgenzooError("order.keep_null has no effect with order.full_every=1, where every step makes all: set it to 2 or more")
        if condition_tokens > self.config.buffer_size:
            raise ArgenzooError(
                f"the condition has {condition_tokens} tokens, more than generator.buffer_size {self.config.buffer_size}: "
                f"set generator.buffer_size={condition_tokens}"
            )

    def draw_mask(self, rng: Draws) -> tuple[Tensor, int]:
        """(B, N), and how many positions it hides in every sample: ceil(N r), r one draw for the batch from N(1, std^2) cut to [min, 1]."""
        low = (self.config.mask_ratio_min - 1) / self.config.mask_ratio_std
        cdf = 0.5 * (1 + math.erf(low / math.sqrt(2)))
        quantile = cdf + rng.shared_uniform() * (0.5 - cdf)  # the mean, 1, is the upper bound: cdf 0.5
        ratio = 1 + self.config.mask_ratio_std * math.sqrt(2) * torch.erfinv(torch.tensor(2 * quantile - 1, dtype=torch.float64)).item()
        hidden = max(1, math.ceil(self.space.num_tokens * min(max(ratio, self.config.mask_ratio_min), 1)))
        return rng.permutation(self.space.num_tokens) < hidden, hidden

    def order(self, batch: int, known: Tensor | None = None, rng: Draws | None = None, options: Sampling | None = None) -> Iterator[Tensor]:
        """Sets (B, n), ascending, of a random permutation of the unknown positions; sizes by the cosine schedule."""
        steps = (options.num_steps if options else None) or max(1, self.space.num_tokens // 4)
        order = (rng or GlobalRng(batch, self.mask_token.device)).permutation(self.space.num_tokens)
        unknown = self.space.num_tokens
        if known is not None:
            unknown = self._unknown(known)
            order = take(order, take(known, order).int().argsort(dim=-1, stable=True))[:, :unknown]
        hidden = [unknown, *cosine_schedule(unknown, min(steps, unknown))]
        for before, after in pairwise(hidden):
            yield order[:, unknown - before : unknown - after].sort(dim=-1).values

    def start(self, condition: Condition, batch: int, known: Tensor | None = None, options: Sampling | None = None) -> MARState:
        """``known`` (B, N): the positions whose tokens are given from the start."""
        kept = None
        if options is not None and options.full_every > 1:
            length = self.config.buffer_size + self.space.num_tokens
            encoder, decoder = ([Slots(length) for _ in blocks] for blocks in (self.encoder, self.decoder))
            kept = Kept(encoder, decoder, options.full_every, options.keep_null and condition.nulls > 0)
        if known is None:
            known = torch.zeros(batch, self.space.num_tokens, dtype=torch.bool, device=self.mask_token.device)
            return MARState(condition, known, 0, kept)
        return MARState(condition, known, self.space.num_tokens - self._unknown(known), kept)

    def step(self, state: MARState, context: Tensor, positions: Tensor) -> Tensor:
        """z (B, n, D) of the next set, from all that is known."""
        positions = positions if positions.dim() == 2 else positions.expand(len(context), -1)
        kept = state.kept
        if kept is None:
            z = self._run(context, state.condition, ~state.known, state.count, rows=positions)
        elif kept.age is None or kept.newest is None or kept.age + 1 == kept.every:
            z, kept.age = self._anew(state, kept, context, positions), 0
        else:
            z, kept.age = self._onward(state, kept, kept.newest, context, positions), kept.age + 1
        state.reveal(positions)
        if kept is not None:
            kept.newest = positions
        return z

    def _anew(self, state: MARState, kept: Kept, context: Tensor, positions: Tensor) -> Tensor:
        """A full pass, of which keys and values stay."""
        z = self._run(context, state.condition, ~state.known, state.count, kept)  # (B, N, D)
        if kept.null:
            nulls = state.condition.nulls
            kept.shift = z[-nulls:] - z[-2 * nulls : -nulls]
        return take(z, positions)

    def _onward(self, state: MARState, kept: Kept, newest: Tensor, context: Tensor, positions: Tensor) -> Tensor:
        """The newest tokens and the positions to be predicted alone, reading what is kept of the others."""
        batch, size = len(context) - (state.condition.nulls if kept.null else 0), self.config.buffer_size
        newest, wanted = newest[:batch], positions[:batch]
        visible = self._buffer(state.condition)[1]
        shown = torch.ones(batch, size, dtype=torch.bool, device=context.device) if visible is None else visible[:batch]
        seen = torch.cat([shown, state.known[:batch]], dim=1)[:, None, None]  # (B, 1, 1, L)
        at = size + newest
        x = self.embed_norm(self.embed(take(context[:batch], newest)) + self.encoder_position[at])
        for block, slots in zip(self.encoder, kept.encoder, strict=True):
            x = block(x, seen, slots, at, whole=False)
        x = self.bridge(self.encoder_norm(x))
        at = size + torch.cat([newest, wanted], dim=1)
        x = torch.cat([x, self.mask_token.to(x.dtype).expand(*wanted.shape, -1)], dim=1) + self.decoder_position[at]
        mask = attention_mask(None if visible is None else visible[:batch], self.space.num_tokens)
        for block, slots in zip(self.decoder, kept.decoder, strict=True):
            x = block(x, mask, slots, at, whole=False)
        z = self.decoder_norm(x[:, newest.shape[1] :]) + self.out_position[wanted]
        return torch.cat([z, z + take(kept.shift, wanted)]) if kept.null and kept.shift is not None else z

    def _run(
        self, context: Tensor, condition: Condition, mask: Tensor, count: int, kept: Kept | None = None, rows: Tensor | None = None
    ) -> Tensor:
        """``mask`` (B, N): hidden; ``count`` of each sample's tokens are known. z (B, N, D), or (B, n, D) at ``rows`` (B, n)."""
        known = mask.int().argsort(dim=-1, stable=True)[:, :count]  # (B, count), ascending
        buffer, visible = self._buffer(condition)
        encoded = self.encode(context, buffer, visible, known, None if kept is None else kept.encoder)
        return self.decode(encoded, visible, known, None if kept is None else kept.decoder, rows)

    def encode(self, context: Tensor, buffer: Tensor, visible: Tensor | None, known: Tensor, kept: list[Slots] | None = None) -> Tensor:
        """(B, buffer + count, D) over the buffer and the known tokens only."""
        size = self.config.buffer_size
        tokens = self.embed(take(context, known)) + self.encoder_position[size:][known]
        x = torch.cat([buffer + self.encoder_position[:size], tokens], dim=1)
        x = self.embed_norm(x)
        mask = attention_mask(visible, known.shape[1])
        at = None if kept is None else torch.cat([torch.arange(size, device=x.device).expand(len(x), -1), size + known], dim=1)
        for i, block in enumerate(self.encoder):
            x = block(x, mask, None if kept is None else kept[i], at)
        return self.encoder_norm(x)

    def decode(
        self, encoded: Tensor, visible: Tensor | None, known: Tensor, kept: list[Slots] | None = None, rows: Tensor | None = None
    ) -> Tensor:
        """z (B, N, D), or (B, n, D) at positions ``rows``: mask tokens everywhere but at the known positions."""
        size, last = self.config.buffer_size, len(self.decoder) - 1
        x = self.bridge(encoded)
        masked = self.mask_token.to(x.dtype).expand(len(x), self.space.num_tokens, -1)
        x = torch.cat([x[:, :size], put(masked, known, x[:, size:])], dim=1) + self.decoder_position
        mask, at = attention_mask(visible, self.space.num_tokens), torch.arange(x.shape[1], device=x.device)
        for i, block in enumerate(self.decoder):
            only = size + rows if rows is not None and i == last else None
            x = block(x, mask, None if kept is None else kept[i], at, rows=only)
        if rows is not None:
            return self.decoder_norm(x) + self.out_position[rows]
        return self.decoder_norm(x)[:, size:] + self.out_position

    def _buffer(self, condition: Condition) -> tuple[Tensor, Tensor | None]:
        """The condition in (B, buffer, D) slots, and which of them hold something: one token is repeated, more are padded on the left."""
        size, count = self.config.buffer_size, condition.tokens.shape[1]
        if count == 1:
            return condition.tokens.expand(-1, size, -1), None
        visible = condition.mask if condition.mask is not None else condition.tokens.new_ones(condition.tokens.shape[:2], dtype=torch.bool)
        return F.pad(condition.tokens, (0, 0, size - count, 0)), F.pad(visible, (size - count, 0))

    def _unknown(self, known: Tensor) -> int:
        counts = (~known).sum(dim=1)
        if not torch.all(counts == counts[0]) or counts[0] == 0:
            raise ArgenzooError(f"editing needs the same number of unknown positions, at least one, in every sample, got {counts.tolist()}")
        return int(counts[0])

    def _blocks(self) -> nn.ModuleList:
        config = self.config
        return nn.ModuleList(
            ViTBlock(config.dim, config.num_heads, config.mlp_ratio, qkv_bias=True, proj_drop=config.dropout, attn_drop=config.dropout)
            for _ in range(config.depth // 2)
        )

    def _init(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            if isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
        for parameter in (self.mask_token, self.encoder_position, self.decoder_position, self.out_position):
            nn.init.normal_(parameter, std=0.02)


def cosine_schedule(num_tokens: int, num_steps: int) -> list[int]:
    """How many stay hidden after each step: floor(N cos(pi/2 (i+1)/n)), at least one fewer than before, none after the last."""
    hidden, schedule = num_tokens, []
    for i in range(num_steps - 1):
        target = math.floor(num_tokens * math.cos(math.pi / 2 * (i + 1) / num_steps))
        hidden = max(1, min(hidden - 1, target))
        schedule.append(hidden)
    return [*schedule, 0]


def attention_mask(visible: Tensor | None, following: int) -> Tensor | None:
    """Hides empty buffer slots from every query: (B, buffer) -> (B, 1, 1, L); None where nothing is hidden."""
    if visible is None:
        return None
    return torch.cat([visible, visible.new_ones(len(visible), following)], dim=1)[:, None, None]
