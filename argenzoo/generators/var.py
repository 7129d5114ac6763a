"""Next-scale prediction: all tokens of a scale at once, coarse to fine (VAR, arXiv 2404.02905, section 3)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from pydantic import Field
from torch import Tensor, nn

from argenzoo.errors import ArgenzooError
from argenzoo.layers.attention import KVCache
from argenzoo.layers.block_causal import BlockCausal
from argenzoo.layers.blocks import AdaLNBlock, Modulation, modulate
from argenzoo.layers.embed import take
from argenzoo.protocols import Condition, TokenSpace
from argenzoo.registry import Config as PartConfig
from argenzoo.rng import Draws


@dataclass
class VARState:
    """The caches, and the condition as each block reads it."""

    condition: Condition
    modulations: list[Tensor]
    caches: list[KVCache]


class VAR(nn.Module):
    """A transformer with AdaLN whose tokens see their own scale and all coarser ones (published: dim = 64 depth, num_heads = depth)."""

    class Config(PartConfig):
        dim: int = Field(1024, ge=8)
        depth: int = Field(16, ge=1)
        num_heads: int = Field(16, ge=1)
        mlp_ratio: float = Field(4.0, gt=0)
        qk_norm: bool = True
        shared_adaln: bool = Field(False, description="one AdaLN Linear for all blocks (d36)")
        drop_path: float = Field(0.0, ge=0, lt=1, description="of the last block, rising linearly from 0 (published: 0.1 depth / 24)")
        init_adaln: float = Field(0.5, ge=0)
        init_gamma: float = Field(1e-3, ge=0)

    class Sampling(PartConfig):
        """Nothing to choose: one scale a step."""

    levels: Tensor

    def __init__(self, config: Config, space: TokenSpace) -> None:
        super().__init__()
        if len(space.scales) == 1:
            raise ArgenzooError(
                "generator 'var' needs a pyramid of scales, this tokenizer gives a single grid: "
                "use tokenizer.name=multiscale_vq, or generator.name=raster or mar"
            )
        if config.dim % config.num_heads:
            raise ArgenzooError(f"generator.dim {config.dim} is no multiple of num_heads {config.num_heads}")
        self.config, self.space, self.dim = config, space, config.dim
        self.embed = nn.Linear(space.dim, config.dim)
        self.start_token = nn.Parameter(torch.empty(space.sizes[0], config.dim))
        self.position = nn.Parameter(torch.empty(space.num_tokens, config.dim))
        self.level = nn.Embedding(len(space.scales), config.dim)
        self.shared = Modulation(config.dim, 6) if config.shared_adaln else None
        rates = [config.drop_path * i / max(config.depth - 1, 1) for i in range(config.depth)]
        self.blocks = nn.ModuleList(
            AdaLNBlock(config.dim, config.num_heads, config.mlp_ratio, config.qk_norm, config.shared_adaln, rate) for rate in rates
        )
        self.out = Modulation(config.dim, 2)
        self.register_buffer("levels", space.levels, persistent=False)  # (N,)
        self._init()

    def forward(self, context: Tensor, condition: Condition, rng: Draws | None = None) -> tuple[Tensor, Tensor]:
        """Teacher-forced z (B, N, D) of all scales in one block-causal pass."""
        everywhere = torch.ones(context.shape[:2], dtype=torch.bool, device=context.device)
        x = self._inputs(context, condition, torch.arange(self.space.num_tokens, device=context.device))
        block_causal = BlockCausal.of(self.space.sizes, self.levels)
        for block, modulation in zip(self.blocks, self._modulations(condition), strict=True):
            x = block(x, modulation, block_causal, None)
        return self._out(x, condition), everywhere

    def order(self, batch: int, known: Tensor | None = None, rng: Draws | None = None, options: Sampling | None = None) -> Iterator[Tensor]:
        """The scales, coarse to fine; known positions are visited too (they fill the cache)."""
        yield from torch.arange(self.space.num_tokens, device=self.position.device).split(self.space.sizes)

    def start(self, condition: Condition, batch: int, known: Tensor | None = None, options: Sampling | None = None) -> VARState:
        return VARState(condition, self._modulations(condition), [KVCache(self.space.num_tokens) for _ in self.blocks])

    def step(self, state: VARState, context: Tensor, positions: Tensor) -> Tensor:
        """z (B, n, D) of the next scale, which sees itself and the cache: no mask."""
        x = self._inputs(context, state.condition, positions)
        for block, modulation, cache in zip(self.blocks, state.modulations, state.caches, strict=True):
            x = block(x, modulation, None, cache)
        return self._out(x, state.condition)

    def _inputs(self, context: Tensor, condition: Condition, positions: Tensor) -> Tensor:
        """(B, n, D): the embedded context, or condition + start at the first scale, + level + position."""
        first = self.space.sizes[0]
        begins = (positions < first)[..., None]
        start = condition.vector[:, None] + self.start_token[positions.clamp(max=first - 1)]
        x = torch.where(begins, start, self.embed(take(context, positions)))
        return x + self.level(self.levels[positions]) + self.position[positions]

    def _modulations(self, condition: Condition) -> list[Tensor]:
        vector = condition.vector if self.shared is None else self.shared(condition.vector)
        return [block.modulated(vector) for block in self.blocks]  # type: ignore[operator]

    def _out(self, x: Tensor, condition: Condition) -> Tensor:
        scale, shift = self.out(condition.vector).unbind(2)
        return modulate(x, scale, shift)

    def _init(self) -> None:
        """VAR's: std (3D)^-0.5, small AdaLN with tiny gammas, output projections divided by sqrt(2 depth)."""
        config, std = self.config, math.sqrt(1 / self.dim / 3)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.trunc_normal_(module.weight, std=std)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        for parameter in (self.start_token, self.position):
            nn.init.trunc_normal_(parameter, std=std)
        for module in self.modules():
            if isinstance(module, Modulation) and module is not self.shared:  # d36: only the blocks' offsets are small
                module.init_small(config.init_adaln, config.init_gamma)
        for module in self.modules():
            if isinstance(module, AdaLNBlock):
                module.init_small(config.depth, config.init_adaln, config.init_gamma)
