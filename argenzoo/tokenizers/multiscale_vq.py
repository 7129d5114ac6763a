"""Multi-scale VQ: an image as a pyramid of residuals over one codebook (VAR, arXiv 2404.02905, algorithms 1 and 2)."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from pydantic import Field
from torch import Tensor, nn

from argenzoo.device import full_precision
from argenzoo.errors import ArgenzooError
from argenzoo.losses.terms import entropy_loss
from argenzoo.protocols import Reconstruction, TokenSpace
from argenzoo.rng import Draws
from argenzoo.tokenizers.autoencoder import Autoencoder, AutoencoderConfig
from argenzoo.tokenizers.codebook import Codebook
from argenzoo.tokenizers.scale import LatentScale

PHI_OF_TEN_SCALES = (0, 0, 1, 1, 1, 2, 2, 3, 3, 3)  # the choice lies on exact ties: what the released weights were trained with


def phi_of_scale(num_scales: int, num_phi: int) -> tuple[int, ...]:
    """Which of the shared phi convolutions each scale uses: the nearest of ``num_phi`` evenly spaced ticks, the outermost a third of
    a tick's share from the ends where there are four, half of it otherwise (VAR's code)."""
    if (num_scales, num_phi) == (10, 4):
        return PHI_OF_TEN_SCALES
    margin = 1 / (3 if num_phi == 4 else 2) / num_phi
    ticks = np.linspace(margin, 1 - margin, num_phi)
    return tuple(int(np.argmin(np.abs(ticks - k / (num_scales - 1)))) for k in range(num_scales))


class Phi(nn.Module):
    """h = (1 - r) x + r conv3x3(x), applied to every upsampled code map."""

    def __init__(self, dim: int, ratio: float) -> None:
        super().__init__()
        self.ratio = ratio
        self.conv = nn.Conv2d(dim, dim, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.lerp(x, self.conv(x), self.ratio)


class Level(NamedTuple):
    """One scale of a pyramid: the residual (B, C, h, w) at its size, its ids (B, h w), and the sum (B, C, H, W) up to it."""

    rest: Tensor
    ids: Tensor | None
    total: Tensor


class MultiscaleVQ(nn.Module):
    """Scale by scale, the residual is shrunk, quantised, grown again, refined by phi and subtracted.

    ``quantize: false`` emits each scale's shrunk residual itself instead of its nearest code.
    """

    class Config(AutoencoderConfig):
        channels: int = Field(160, ge=8)
        vocab_size: int = Field(4096, ge=2)
        dim: int = Field(32, ge=1)
        normalize: bool = Field(
            False, description="residuals and codes to unit length where they are compared; phi sets each scale's length"
        )
        scales: tuple[int, ...] = Field((1, 2, 3, 4, 5, 6, 8, 10, 13, 16), min_length=2)
        num_phi: int = Field(4, ge=1)
        phi_ratio: float = Field(0.5, ge=0, le=1)
        quantize: bool = True
        latent_scale: tuple[float, ...] | None = Field(None, description="1/std of each scale's vectors; None: measured after training")

    def __init__(self, config: Config) -> None:
        super().__init__()
        if list(config.scales) != sorted(set(config.scales)) or config.scales[-1] != config.grid:
            raise ArgenzooError(
                f"tokenizer.scales must rise to {config.grid}, the grid of {config.image_size} px images, got {config.scales}"
            )
        self.config, self.image_size = config, config.image_size
        self.autoencoder = Autoencoder(config, config.dim, config.dim, kernel=3)
        self.codebook = Codebook(config.vocab_size, config.dim, config.normalize)
        self.phis = nn.ModuleList(Phi(config.dim, config.phi_ratio) for _ in range(config.num_phi))
        self.phi_of_scale = phi_of_scale(len(config.scales), config.num_phi)
        for unused in set(range(config.num_phi)) - set(self.phi_of_scale):  # with few scales, some have no gradient
            self.phis[unused].requires_grad_(False)
        self.space = TokenSpace(tuple((side, side) for side in config.scales), config.dim, config.vocab_size if config.quantize else None)
        self.scale = LatentScale(config.latent_scale, self.space.sizes)

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Ids of all scales (B, N), coarse to fine, or their vectors (B, N, C)."""
        if not self.config.quantize:
            return self.vectors(images)
        return torch.cat([level.ids for level in self._levels(self._latent(images)) if level.ids is not None], dim=1)

    def tokens(self, stored: Tensor, rng: Draws | None = None) -> Tensor:
        return stored if self.config.quantize else self.scale.apply_to(stored)

    def embed(self, tokens: Tensor) -> Tensor:
        return self.codebook(tokens)

    def context(self, tokens: Tensor, upto: int | None = None) -> Tensor:
        """(B, N, C): for each scale, the sum of the coarser ones, shrunk to it; zeros for the first and those that start after ``upto``."""
        return self.contexts()(tokens, upto)

    def contexts(self) -> Growing:
        """``context`` for one sampling: called with ever more tokens, it adds each scale once."""
        return Growing(self)

    def decode(self, tokens: Tensor) -> Tensor:
        """Ids (B, N), code vectors (B, N, C), or vectors of unit scale -> images, clamped to [-1, 1] as VAR does."""
        return self.autoencoder.decode(self.latent(tokens)).clamp(-1, 1)

    def latent(self, tokens: Tensor) -> Tensor:
        """f_hat (B, C, H, W) of all scales."""
        return self.contexts().add(tokens, len(self.space.sizes))

    def code_map(self, tokens: Tensor, k: int) -> Tensor:
        """Tokens (B, n) or (B, n, C) of scale ``k`` -> a map (B, C, h, w)."""
        if not tokens.is_floating_point():
            tokens = self.embed(tokens)
        elif not self.config.quantize:
            tokens = tokens / self.scale.factors[k]
        return rearrange(tokens, "b (h w) c -> b c h w", h=self.config.scales[k])

    @torch.no_grad()
    def vectors(self, images: Tensor, rng: Draws | None = None) -> Tensor:
        """(B, N, C): the shrunk residual of each scale when nothing is quantised."""
        return torch.cat([rows(level.rest) for level in self._levels(self._latent(images), quantize=False)], dim=1)

    def reconstruct(self, images: Tensor, rng: Draws | None = None) -> Reconstruction:
        """Training: straight through the pyramid; terms are means over the scales."""
        latent = self._latent(images)
        levels = self._levels(latent)
        straight = latent + (levels[-1].total - latent).detach()
        terms = {
            "codebook": lambda: torch.stack([F.mse_loss(level.total, latent.detach()) for level in levels]).mean(),
            "commitment": lambda: torch.stack([F.mse_loss(level.total.detach(), latent) for level in levels]).mean(),
            "entropy": lambda: torch.stack([entropy_loss(-self.codebook.distances(self._compared(level.rest))) for level in levels]).mean(),
        }
        ids = torch.cat([level.ids for level in levels if level.ids is not None], dim=1)
        looked_up = torch.cat([self._compared(level.rest.detach()) for level in levels], dim=1)
        return Reconstruction(self.autoencoder.decode(straight), terms, ids, looked_up)

    @property
    def last_layer(self) -> Tensor:
        return self.autoencoder.last_layer

    def _latent(self, images: Tensor) -> Tensor:
        return self.autoencoder.encode(images).float()

    def _compared(self, rest: Tensor) -> Tensor:
        """(B, C, h, w) -> what is looked up in the codebook, (B, h w, C)."""
        return F.normalize(rows(rest), dim=-1) if self.config.normalize else rows(rest)

    def _levels(self, latent: Tensor, quantize: bool = True) -> list[Level]:
        """The pyramid of a latent (B, C, H, W), coarse to fine. Always in float32."""
        levels: list[Level] = []
        total = torch.zeros_like(latent)
        with full_precision(latent.device):
            for k, side in enumerate(self.config.scales):
                rest = self.shrink(latent - total.detach(), k)
                ids = self.codebook.nearest(self._compared(rest)) if quantize else None
                map_ = rest if ids is None else rearrange(self.codebook(ids), "b (h w) c -> b c h w", h=side)
                total = total + self.grow(map_, k)
                levels.append(Level(rest, ids, total))
        return levels

    def shrink(self, maps: Tensor, k: int) -> Tensor:
        """To the size of scale ``k``."""
        side = self.config.scales[k]
        return maps if side == maps.shape[-1] else F.interpolate(maps, (side, side), mode="area")

    def grow(self, map_: Tensor, k: int) -> Tensor:
        """A map of scale ``k`` to the grid, through its phi."""
        side = self.config.grid
        grown = map_ if side == map_.shape[-1] else F.interpolate(map_, (side, side), mode="bicubic")
        return self.phis[self.phi_of_scale[k]](grown)


class Growing:
    """f_hat, to which scale after scale is added, and what finer scales read of it. Tokens must not change once they were added."""

    def __init__(self, tokenizer: MultiscaleVQ) -> None:
        self.tokenizer, self.sizes, self.ends = tokenizer, tokenizer.space.sizes, np.cumsum(tokenizer.space.sizes)
        self.scales = 0
        self.total: Any = 0.0  # (B, C, H, W), of so many scales
        self._read: list[Tensor] = []  # (B, n, C) for scale 1, 2, ...

    def __call__(self, tokens: Tensor, upto: int | None = None) -> Tensor:
        """As ``MultiscaleVQ.context``."""
        last = len(self.sizes) - 1
        self.add(tokens, last if upto is None else min(int(np.searchsorted(self.ends, upto, side="right")), last))
        filled = self.sizes[0] + sum(part.shape[1] for part in self._read)
        zeros = torch.zeros(len(tokens), 1, self.tokenizer.config.dim, device=tokens.device)
        pad = (zeros.expand(-1, self.sizes[0], -1), zeros.expand(-1, int(self.ends[-1]) - filled, -1))
        return torch.cat([pad[0], *self._read, pad[1]], dim=1)

    def add(self, tokens: Tensor, scales: int) -> Tensor:
        """f_hat of the first ``scales``."""
        with full_precision(self.tokenizer.codebook.weight.device):
            for k in range(self.scales, scales):
                map_ = self.tokenizer.code_map(tokens[:, self.ends[k] - self.sizes[k] : self.ends[k]], k)
                self.total = self.total + self.tokenizer.grow(map_.float(), k)
                if k + 1 < len(self.sizes):
                    self._read.append(rows(self.tokenizer.shrink(self.total, k + 1)))
        self.scales = max(self.scales, scales)
        return self.total


def rows(map_: Tensor) -> Tensor:
    """(B, C, h, w) -> (B, h w, C)."""
    return rearrange(map_, "b c h w -> b (h w) c")
