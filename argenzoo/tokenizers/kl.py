"""KL-16: a Gaussian posterior a position; tokens are its samples at unit scale (MAR, arXiv 2406.11838, section 4)."""

from __future__ import annotations

import torch
from einops import rearrange
from pydantic import Field
from torch import Tensor, nn

from argenzoo.errors import ArgenzooError
from argenzoo.losses.terms import kl_divergence
from argenzoo.protocols import Reconstruction, TokenSpace
from argenzoo.rng import Draws
from argenzoo.tokenizers.autoencoder import Autoencoder, AutoencoderConfig
from argenzoo.tokenizers.scale import LatentScale


class KL(nn.Module):
    """Mean and log-variance of ``dim`` channels; ``patch_size`` p groups p x p positions into one token, channel-major (c, p, q)."""

    class Config(AutoencoderConfig):
        dim: int = Field(16, ge=1)
        patch_size: int = Field(1, ge=1)
        latent_scale: float | None = Field(
            None, gt=0, description="1/std of the samples; None: measured after training (0.2325 on ImageNet)"
        )

    def __init__(self, config: Config) -> None:
        super().__init__()
        if config.grid % config.patch_size:
            raise ArgenzooError(f"tokenizer.patch_size {config.patch_size} does not divide the grid of {config.grid}")
        self.config, self.image_size = config, config.image_size
        self.autoencoder = Autoencoder(config, config.dim, config.dim, moments=2, decoder_attention=False)
        side = config.grid // config.patch_size
        self.space = TokenSpace(((side, side),), config.dim * config.patch_size**2)
        self.scale = LatentScale(config.latent_scale, self.space.sizes)

    def moments(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W) -> mean and logvar of the posterior, (B, C, h, w) each."""
        mean, logvar = self.autoencoder.encode(images).float().chunk(2, dim=1)
        return mean, logvar.clamp(-30, 20)

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """The moments, (B, 2C, h, w)."""
        return torch.cat(self.moments(images), dim=1)

    def tokens(self, stored: Tensor, rng: Draws | None = None) -> Tensor:
        """Moments (B, 2C, h, w) -> a posterior sample at unit scale (B, N, C p^2); the mean without ``rng``."""
        mean, logvar = stored.chunk(2, dim=1)
        return self.scale.apply_to(self._patches(posterior_sample(mean, logvar, rng)))

    def embed(self, tokens: Tensor) -> Tensor:
        raise ArgenzooError("tokenizer 'kl' has no codebook: its tokens are vectors already")

    def context(self, tokens: Tensor, upto: int | None = None) -> Tensor:
        return tokens

    def decode(self, tokens: Tensor) -> Tensor:
        side, p = self.space.scales[0][0], self.config.patch_size
        latent = rearrange(self.scale.undo(tokens), "b (h w) (c p q) -> b c (h p) (w q)", h=side, p=p, q=p)
        return self.autoencoder.decode(latent)

    def vectors(self, images: Tensor, rng: Draws | None = None) -> Tensor:
        """Posterior samples before scaling, (B, N, C p^2)."""
        return self._patches(posterior_sample(*self.moments(images), rng))

    def reconstruct(self, images: Tensor, rng: Draws | None = None) -> Reconstruction:
        """Training: of a posterior sample. ``kl``: divergence from N(0, 1), summed a sample, mean of the batch."""
        mean, logvar = self.moments(images)
        pictures = self.autoencoder.decode(posterior_sample(mean, logvar, rng))
        return Reconstruction(pictures, {"kl": lambda: kl_divergence(mean, logvar).mean()})

    @property
    def last_layer(self) -> Tensor:
        return self.autoencoder.last_layer

    def _patches(self, latent: Tensor) -> Tensor:
        p = self.config.patch_size
        return rearrange(latent, "b c (h p) (w q) -> b (h w) (c p q)", p=p, q=p)


def posterior_sample(mean: Tensor, logvar: Tensor, rng: Draws | None) -> Tensor:
    """mean + std * noise; the mean where ``rng`` is None."""
    return mean if rng is None else mean + (0.5 * logvar).exp() * rng.normal(*mean.shape[1:])
