"""VQ-16 / VQ-8: one grid of ids from an l2-normalised codebook (LlamaGen, arXiv 2406.06525, section 2.1)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from pydantic import Field
from torch import Tensor, nn

from argenzoo.device import full_precision
from argenzoo.protocols import Terms, TokenSpace
from argenzoo.rng import Draws
from argenzoo.tokenizers.autoencoder import Autoencoder, AutoencoderConfig
from argenzoo.tokenizers.scale import LatentScale


class VQ(nn.Module):
    """Nearest code of the normalised latent; the normalised code is the output.

    ``quantize: false`` emits the normalised vectors before the codebook instead of ids, and decodes them as they are.
    """

    class Config(AutoencoderConfig):
        latent_channels: int = Field(256, ge=1)
        vocab_size: int = Field(16384, ge=2)
        dim: int = Field(8, ge=1)
        quantize: bool = True
        latent_scale: float | None = Field(None, gt=0, description="1/std of the vectors; None: measured after training")

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config, self.image_size = config, config.image_size
        self.autoencoder = Autoencoder(config, config.latent_channels, config.dim)
        self.codebook = nn.Embedding(config.vocab_size, config.dim)
        nn.init.uniform_(self.codebook.weight, -1 / config.vocab_size, 1 / config.vocab_size)
        self.space = TokenSpace(((config.grid, config.grid),), config.dim, config.vocab_size if config.quantize else None)
        self.scale = LatentScale(config.latent_scale, self.space.sizes)

    @property
    def codes(self) -> Tensor:
        """(V, C) of unit length."""
        return F.normalize(self.codebook.weight.float(), dim=-1)

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Ids (B, N), or normalised vectors (B, N, C)."""
        vectors = self.vectors(images)
        return self._distances(vectors).argmin(-1) if self.config.quantize else vectors

    def tokens(self, stored: Tensor, rng: Draws | None = None) -> Tensor:
        return stored if self.config.quantize else self.scale.apply_to(stored)

    def embed(self, tokens: Tensor) -> Tensor:
        return tokens @ self.codes if tokens.is_floating_point() else F.embedding(tokens, self.codes)

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
        """(B, N, C), normalised, before the codebook."""
        latent = self.autoencoder.encode(images).float()
        return F.normalize(rearrange(latent, "b c h w -> b (h w) c"), dim=-1)

    def reconstruct(self, images: Tensor, rng: Draws | None = None) -> tuple[Tensor, Terms]:
        """Training: (reconstruction, terms), straight through the codebook."""
        vectors = self.vectors(images)  # (B, N, C)
        distances = self._distances(vectors)  # (B, N, V)
        codes = self.embed(distances.argmin(-1))
        terms: Terms = {
            "codebook": lambda: F.mse_loss(codes, vectors.detach()),
            "commitment": lambda: F.mse_loss(vectors, codes.detach()),
            "entropy": lambda: entropy_loss(-distances),
        }
        straight = vectors + (codes - vectors).detach()
        return self.autoencoder.decode(self._grid(straight)), terms

    def _distances(self, vectors: Tensor) -> Tensor:
        """(B, N, C) -> squared distances to all codes (B, N, V)."""
        with full_precision(vectors.device):
            codes = self.codes
            return vectors.square().sum(-1, keepdim=True) + codes.square().sum(-1) - 2 * vectors @ codes.T

    def _grid(self, vectors: Tensor) -> Tensor:
        return rearrange(vectors, "b (h w) c -> b c h w", h=self.config.grid)


def entropy_loss(affinity: Tensor, temperature: float = 0.01) -> Tensor:
    """Mean entropy a token minus the entropy of the mean, of softmax(affinity / temperature) (MaskGIT's tokenizer, as in LlamaGen).

    Args:
        affinity: (..., V).
    """
    flat = affinity.flatten(0, -2) / temperature
    probabilities, log_probabilities = flat.softmax(-1), (flat + 1e-5).log_softmax(-1)
    mean = probabilities.mean(0)
    each = -(probabilities * log_probabilities).sum(-1).mean()
    return each + (mean * (mean + 1e-5).log()).sum()
