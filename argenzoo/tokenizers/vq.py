"""VQ-16 / VQ-8: one grid of ids from an l2-normalised codebook (LlamaGen, arXiv 2406.06525, section 2.1)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from pydantic import Field
from torch import Tensor, nn

from argenzoo.losses.terms import entropy_loss
from argenzoo.protocols import Reconstruction, TokenSpace
from argenzoo.rng import Draws
from argenzoo.tokenizers.autoencoder import Autoencoder, AutoencoderConfig
from argenzoo.tokenizers.codebook import Codebook
from argenzoo.tokenizers.scale import LatentScale


class VQ(nn.Module):
    """Nearest code of the normalised latent; the normalised code is the output.

    ``quantize: false`` emits the normalised vectors before the codebook instead of ids, and decodes them as they are.
    """

    class Config(AutoencoderConfig):
        latent_channels: int = Field(256, ge=1)
        vocab_size: int = Field(16384, ge=2)
        dim: int = Field(8, ge=1)
        normalize: bool = Field(True, description="latent and codes to unit length")
        quantize: bool = True
        latent_scale: float | None = Field(None, gt=0, description="1/std of the vectors; None: measured after training")

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config, self.image_size = config, config.image_size
        self.autoencoder = Autoencoder(config, config.latent_channels, config.dim)
        self.codebook = Codebook(config.vocab_size, config.dim, config.normalize)
        self.space = TokenSpace(((config.grid, config.grid),), config.dim, config.vocab_size if config.quantize else None)
        self.scale = LatentScale(config.latent_scale, self.space.sizes)

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Ids (B, N), or normalised vectors (B, N, C)."""
        vectors = self.vectors(images)
        return self.codebook.nearest(vectors) if self.config.quantize else vectors

    def tokens(self, stored: Tensor, rng: Draws | None = None) -> Tensor:
        return stored if self.config.quantize else self.scale.apply_to(stored)

    def embed(self, tokens: Tensor) -> Tensor:
        return self.codebook(tokens)

    def context(self, tokens: Tensor, upto: int | None = None) -> Tensor:
        return tokens

    def decode(self, tokens: Tensor) -> Tensor:
        """Ids (B, N), code vectors (B, N, C), or vectors of unit scale where ``quantize`` is false."""
        if not tokens.is_floating_point():
            tokens = self.embed(tokens)
        elif not self.config.quantize:
            tokens = self.scale.undo(tokens)
        return self.autoencoder.decode(self._grid(tokens))

    def vectors(self, images: Tensor, rng: Draws | None = None) -> Tensor:
        """(B, N, C) before the codebook."""
        latent = rearrange(self.autoencoder.encode(images).float(), "b c h w -> b (h w) c")
        return F.normalize(latent, dim=-1) if self.config.normalize else latent

    def reconstruct(self, images: Tensor, rng: Draws | None = None) -> Reconstruction:
        """Training: straight through the codebook."""
        vectors = self.vectors(images)  # (B, N, C)
        ids = self.codebook.nearest(vectors.detach())  # (B, N)
        codes = self.codebook(ids)
        terms = {
            "codebook": lambda: F.mse_loss(codes, vectors.detach()),
            "commitment": lambda: F.mse_loss(vectors, codes.detach()),
            "entropy": lambda: entropy_loss(-self.codebook.distances(vectors)),
        }
        straight = vectors + (codes - vectors).detach()
        return Reconstruction(self.autoencoder.decode(self._grid(straight)), terms, ids, vectors.detach())

    @property
    def last_layer(self) -> Tensor:
        return self.autoencoder.last_layer

    def _grid(self, vectors: Tensor) -> Tensor:
        return rearrange(vectors, "b (h w) c -> b c h w", h=self.config.grid)
