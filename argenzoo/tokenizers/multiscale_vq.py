"""Multi-scale VQ: an image as a pyramid of residuals over one codebook (VAR, arXiv 2404.02905, algorithms 1 and 2)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from pydantic import Field
from torch import Tensor, nn

from argenzoo.device import full_precision
from argenzoo.errors import ArgenzooError
from argenzoo.protocols import Terms, TokenSpace
from argenzoo.rng import Draws
from argenzoo.tokenizers.autoencoder import Autoencoder, AutoencoderConfig
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


class MultiscaleVQ(nn.Module):
    """Scale by scale, the residual is shrunk, quantised, grown again, refined by phi and subtracted.

    ``quantize: false`` emits each scale's shrunk residual itself instead of its nearest code.
    """

    class Config(AutoencoderConfig):
        channels: int = Field(160, ge=8)
        vocab_size: int = Field(4096, ge=2)
        dim: int = Field(32, ge=1)
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
        self.codebook = nn.Embedding(config.vocab_size, config.dim)
        nn.init.uniform_(self.codebook.weight, -1 / config.vocab_size, 1 / config.vocab_size)
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
        maps, _ = self._residuals(self._latent(images), self.nearest)
        return torch.cat([self._ids(map_) for map_ in maps], dim=1)

    def tokens(self, stored: Tensor, rng: Draws | None = None) -> Tensor:
        return stored if self.config.quantize else self.scale.apply_to(stored)

    def embed(self, tokens: Tensor) -> Tensor:
        codes = self.codebook.weight
        return tokens @ codes if tokens.is_floating_point() else F.embedding(tokens, codes)

    def context(self, tokens: Tensor, upto: int | None = None) -> Tensor:
        """(B, N, C): for each scale, the sum of the coarser ones, shrunk to it; zeros for the first and those that start after ``upto``."""
        ends = np.cumsum(self.space.sizes)
        known = len(ends) - 1 if upto is None else min(int(np.searchsorted(ends, upto, side="right")), len(ends) - 1)
        sums = self._sums(self._code_maps(tokens)[:known])
        shrunk = [self._shrink(total, k + 1) for k, total in enumerate(sums)]
        rows = [rearrange(map_, "b c h w -> b (h w) c") for map_ in shrunk]
        filled = self.space.sizes[0] + sum(row.shape[1] for row in rows)
        zeros = torch.zeros(len(tokens), 1, self.config.dim, device=tokens.device)
        pad = (zeros.expand(-1, self.space.sizes[0], -1), zeros.expand(-1, self.space.num_tokens - filled, -1))
        return torch.cat([pad[0], *rows, pad[1]], dim=1)

    def decode(self, tokens: Tensor) -> Tensor:
        """Ids (B, N), code vectors (B, N, C), or vectors of unit scale -> images, clamped to [-1, 1] as VAR does."""
        *_, latent = self._sums(self._code_maps(tokens))
        return self.autoencoder.decode(latent).clamp(-1, 1)

    @torch.no_grad()
    def vectors(self, images: Tensor, rng: Draws | None = None) -> Tensor:
        """(B, N, C): the shrunk residual of each scale when nothing is quantised."""
        maps, _ = self._residuals(self._latent(images), lambda rest: rest)
        return torch.cat([rearrange(map_, "b c h w -> b (h w) c") for map_ in maps], dim=1)

    def reconstruct(self, images: Tensor, rng: Draws | None = None) -> tuple[Tensor, Terms]:
        """Training: (reconstruction, terms), straight through the pyramid; terms are means over the scales."""
        latent = self._latent(images)
        _, sums = self._residuals(latent.detach(), self.nearest)
        straight = latent + (sums[-1] - latent).detach()
        terms: Terms = {
            "codebook": lambda: torch.stack([F.mse_loss(total, latent.detach()) for total in sums]).mean(),
            "commitment": lambda: torch.stack([F.mse_loss(total.detach(), latent) for total in sums]).mean(),
        }
        return self.autoencoder.decode(straight), terms

    def nearest(self, rest: Tensor) -> Tensor:
        """(B, C, h, w) -> the nearest code of each position, (B, C, h, w)."""
        return rearrange(self.embed(self._ids(rest)), "b (h w) c -> b c h w", h=rest.shape[2])

    def _latent(self, images: Tensor) -> Tensor:
        return self.autoencoder.encode(images).float()

    def _ids(self, maps: Tensor) -> Tensor:
        """(B, C, h, w) -> nearest codes (B, h*w); plain l2."""
        flat, codes = rearrange(maps, "b c h w -> (b h w) c"), self.codebook.weight
        distances = flat.square().sum(-1, keepdim=True) + codes.square().sum(-1) - 2 * flat @ codes.T
        return distances.argmin(-1).view(len(maps), -1)

    def _residuals(self, latent: Tensor, code: Callable[[Tensor], Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """The pyramid of a latent (B, C, H, W): each scale's code map, and the sums up to each. Always in float32."""
        maps, sums = [], []
        total = torch.zeros_like(latent)
        with full_precision(latent.device):
            for k in range(len(self.config.scales)):
                maps.append(code(self._shrink(latent - total.detach(), k)))
                total = total + self._grow(maps[-1], k)
                sums.append(total)
        return maps, sums

    def _code_maps(self, tokens: Tensor) -> list[Tensor]:
        """Tokens -> a map (B, C, h, w) a scale."""
        if not tokens.is_floating_point():
            tokens = self.embed(tokens)
        elif not self.config.quantize:
            tokens = self.scale.undo(tokens)
        parts = tokens.split(self.space.sizes, dim=1)
        return [rearrange(part, "b (h w) c -> b c h w", h=side) for part, side in zip(parts, self.config.scales, strict=True)]

    def _sums(self, maps: list[Tensor]) -> list[Tensor]:
        """f_hat after each of the first scales, (B, C, H, W)."""
        sums: list[Tensor] = []
        with full_precision(self.codebook.weight.device):
            for k, map_ in enumerate(maps):
                grown = self._grow(map_.float(), k)
                sums.append(sums[-1] + grown if sums else grown)
        return sums

    def _shrink(self, maps: Tensor, k: int) -> Tensor:
        side = self.config.scales[k]
        return maps if side == maps.shape[-1] else F.interpolate(maps, (side, side), mode="area")

    def _grow(self, map_: Tensor, k: int) -> Tensor:
        side = self.config.grid
        grown = map_ if side == map_.shape[-1] else F.interpolate(map_, (side, side), mode="bicubic")
        return self.phis[self.phi_of_scale[k]](grown)
