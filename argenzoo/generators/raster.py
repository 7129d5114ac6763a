"""Next-token prediction with a Llama, in raster or in random order (LlamaGen, arXiv 2406.06525, section 2.2)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from argenzoo.errors import ArgenzooError
from argenzoo.layers.attention import KVCache, PlacedCache
from argenzoo.layers.blocks import LlamaBlock
from argenzoo.layers.embed import take, token_embedding
from argenzoo.layers.graphs import Graphed
from argenzoo.layers.rope import GridRope
from argenzoo.protocols import Condition, TokenSpace
from argenzoo.registry import Config as PartConfig
from argenzoo.rng import Draws, GlobalRng


@dataclass
class RasterState:
    """The caches, the condition, and the position that was filled last."""

    condition: Condition
    caches: list[KVCache]
    mask: Tensor | None
    last: Tensor | None = None
    window: Window | None = None

    def skip(self, positions: Tensor) -> None:
        """Pass over a step without doing it: for counting, the caches hold nothing there."""
        for cache in self.caches:
            cache.length += positions.shape[-1]
        self.last = positions


class Raster(nn.Module):
    """A causal transformer behind a prefix (one class token, or text); the prefix's last output predicts the first token.

    In random order (MAR's Table 1), the embedding of the position that comes next is added to each input.
    """

    class Config(PartConfig):
        dim: int = Field(768, ge=8)
        depth: int = Field(12, ge=1)
        num_heads: int = Field(12, ge=1)
        order: Literal["raster", "random"] = "raster"
        dropout: float = Field(0.1, ge=0, lt=1, description="of the embedded tokens, residual branches and feed-forward layers")
        rope_base: float = Field(10000.0, gt=0)

    class Sampling(PartConfig):
        """One token a step, or several where drafts are verified."""

        static: bool = Field(False, description="one shape in every step, for execution.compile and graph: all keys are read, under a mask")
        drafts: int = Field(
            0, ge=0, description="tokens drafted and verified in one pass (arXiv 2410.01699), for raster order and ids; 0: off"
        )
        graph: bool = Field(False, description="with static or drafts, on a GPU: a step is recorded once and replayed as one CUDA graph")

    def __init__(self, config: Config, space: TokenSpace) -> None:
        super().__init__()
        side = space.one_grid("raster")
        if config.dim % (4 * config.num_heads):
            raise ArgenzooError(
                f"generator.dim {config.dim} must be a multiple of 4 x num_heads ({config.num_heads}): "
                "2-D RoPE turns pairs for rows and columns"
            )
        self.config, self.space, self.dim = config, space, config.dim
        self.embed = token_embedding(space, config.dim)
        self.rope = GridRope(*side, config.dim // config.num_heads, config.rope_base)
        self.target = nn.Embedding(space.num_tokens, config.dim) if config.order == "random" else None
        self.token_dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(LlamaBlock(config.dim, config.num_heads, config.dropout) for _ in range(config.depth))
        self.norm = nn.RMSNorm(config.dim, eps=1e-5)
        self.apply(init_normal)

    def forward(
        self, context: Tensor, condition: Condition, rng: Draws | None = None, order: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Teacher-forced z (B, N, D) at every position. ``order`` (B, N) may be given where it is random."""
        everywhere = torch.ones(context.shape[:2], dtype=torch.bool, device=context.device)
        if self.target is None:
            order = torch.arange(self.space.num_tokens, device=context.device)
        elif order is None:
            order = (rng or GlobalRng(len(context), context.device)).permutation(self.space.num_tokens)
        z = self._run(self._inputs(take(context, order[..., :-1]), condition, order), order[..., :-1], condition)
        return (z if order.dim() == 1 else take(z, order.argsort(dim=-1))), everywhere

    def order(self, batch: int, known: Tensor | None = None, rng: Draws | None = None, options: Sampling | None = None) -> Iterator[Tensor]:
        """One position a step. Known positions are visited too (they fill the cache): first, where the order is random."""
        device = self.norm.weight.device
        if self.target is None:
            yield from torch.arange(self.space.num_tokens, device=device).split(1)
            return
        order = (rng or GlobalRng(batch, device)).permutation(self.space.num_tokens)
        if known is not None:
            order = take(order, (~take(known, order)).int().argsort(dim=-1, stable=True))
        yield from order.split(1, dim=1)

    def start(self, condition: Condition, batch: int, known: Tensor | None = None, options: Sampling | None = None) -> RasterState:
        """Empty caches for the prefix and every token but the last."""
        capacity = condition.tokens.shape[1] + self.space.num_tokens - 1
        mask = None if condition.mask is None else prefix_mask(condition.mask, self.space.num_tokens - 1)
        if options is not None and options.static:
            return RasterState(condition, [], mask, window=self.window(condition, batch, options.graph))
        return RasterState(condition, [KVCache(capacity) for _ in self.blocks], mask)

    def step(self, state: RasterState, context: Tensor, positions: Tensor) -> Tensor:
        """z (B, 1, D) for the next position: the prefix goes in first, then the token that was sampled last."""
        if state.window is not None:
            return self._static(state.window, state, context, positions)
        done = state.caches[0].length
        if state.last is None:
            x = self._inputs(context[:, :0], state.condition, positions)
            rotation = self.rope(positions[..., :0], prefix=x.shape[1])
        else:
            x = self._targeted(self.embed(take(context, state.last)), positions)
            rotation = self.rope(state.last)
        mask = None if state.mask is None else state.mask[:, :, done : done + x.shape[1], : done + x.shape[1]]
        for block, cache in zip(self.blocks, state.caches, strict=True):
            x = block(x, rotation, mask, mask is None and x.shape[1] > 1, cache)
        state.last = positions
        return self.norm(x[:, -1:])

    def _static(self, window: Window, state: RasterState, context: Tensor, positions: Tensor) -> Tensor:
        last, state.last = state.last, positions
        return window.begin() if last is None else window.run(take(context, last), last.expand(len(context), -1))

    def check(self, options: Sampling, condition_tokens: int) -> None:
        """Raises ArgenzooError on drafts in random order."""
        for name in ("drafts", "static"):
            if getattr(options, name) and self.target is not None:
                raise ArgenzooError(f"order.{name} needs generator.order=raster: it is for one order that all samples share")
        if options.drafts and options.static:
            raise ArgenzooError("order.static has no effect with order.drafts, whose passes have one shape as it is")
        if options.graph and not (options.static or options.drafts):
            raise ArgenzooError("order.graph needs order.static=true or order.drafts: else every step has a shape of its own")

    def window(self, condition: Condition, batch: int, graph: bool = False) -> Window:
        """A state that takes many tokens at once, again and again; ``graph``: always as many, replayed as a CUDA graph."""
        return Window(self, condition, batch, graph)

    def _run(self, x: Tensor, positions: Tensor, condition: Condition) -> Tensor:
        """Inputs (B, T+N-1, D) of prefix and tokens at ``positions`` -> the last N outputs."""
        prefix = condition.tokens.shape[1]
        rotation = self.rope(positions, prefix)
        mask = None if condition.mask is None else prefix_mask(condition.mask, positions.shape[-1])
        for block in self.blocks:
            x = block(x, rotation, mask, mask is None, None)
        return self.norm(x[:, prefix - 1 :])

    def _inputs(self, tokens: Tensor, condition: Condition, order: Tensor) -> Tensor:
        """[prefix; tokens], (B, T+n, D), each but the prefix's first ones told the position it predicts."""
        x = torch.cat([condition.tokens, self.embed(tokens)], dim=1)
        count = tokens.shape[1] + 1
        return self.token_dropout(torch.cat([x[:, :-count], self._targeted(x[:, -count:], order)], dim=1))

    def _targeted(self, x: Tensor, positions: Tensor) -> Tensor:
        return x if self.target is None else x + self.target(positions)


class Window:
    """Caches in which tokens are written over, as many as a sample has, wherever it has them."""

    def __init__(self, raster: Raster, condition: Condition, batch: int, graph: bool) -> None:
        self.raster, self.condition, self.prefix = raster, condition, condition.tokens.shape[1]
        self.length = self.prefix + raster.space.num_tokens - 1
        self.caches = [PlacedCache(self.length) for _ in raster.blocks]
        shown = condition.mask if condition.mask is not None else condition.tokens.new_ones(batch, self.prefix, dtype=torch.bool)
        self.mask = F.pad(prefix_mask(shown, raster.space.num_tokens - 1), (0, 1, 0, 1))  # (B, 1, L + 1, L + 1)
        self.mask[..., -1, -1] = True  # a row that sees nothing may come out as NaN
        self._graph = Graphed("order.graph", condition.tokens.device) if graph else None

    def begin(self) -> Tensor:
        """z (B, 1, D) of the first token."""
        tokens = self.condition.tokens
        at = torch.arange(self.prefix, device=tokens.device).repeat(len(tokens), 1)
        return self._pass(self.raster.token_dropout(tokens), self.raster.rope(at[:, :0], self.prefix), at)[:, -1:]

    def run(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """Ids (B, n) at ``positions`` (B, n), those from N - 1 on of no consequence -> z (B, n, D), each of the position behind."""
        return self._tokens(tokens, positions) if self._graph is None else self._graph(self._tokens, tokens, positions)

    def _tokens(self, tokens: Tensor, positions: Tensor) -> Tensor:
        at = (self.prefix + positions).clamp(max=self.length)
        rotation = self.raster.rope(positions.clamp(max=self.raster.space.num_tokens - 1))
        return self._pass(self.raster.embed(tokens), rotation, at)

    def _pass(self, x: Tensor, rotation: Tensor, at: Tensor) -> Tensor:
        mask = take(self.mask[:, 0], at)[:, None]  # (B, 1, n, L + 1)
        for block, cache in zip(self.raster.blocks, self.caches, strict=True):
            cache.at = at
            x = block(x, rotation, mask, False, cache)
        return self.raster.norm(x)


def prefix_mask(mask: Tensor, following: int) -> Tensor:
    """Causal, padded prefix columns hidden, and every position sees itself: (B, T) -> (B, 1, L, L), L = T + following."""
    visible = torch.cat([mask, mask.new_ones(len(mask), following)], dim=1)  # (B, L)
    length = visible.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=mask.device).tril()
    itself = torch.eye(length, dtype=torch.bool, device=mask.device)
    return ((causal & visible[:, None]) | itself)[:, None]


def init_normal(module: nn.Module) -> None:
    """Linear and embedding weights from N(0, 0.02^2)."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
