"""The convolutional trunk that all three tokenizers share: LDM's encoder and decoder (arXiv 2112.10752), in diffusers' blocks."""

from __future__ import annotations

import torch
from diffusers.models.autoencoders.vae import Decoder, Encoder
from pydantic import Field
from torch import Tensor, nn

from argenzoo.errors import ArgenzooError
from argenzoo.registry import Config


class AutoencoderConfig(Config):
    """Sizes of the trunk. ``multipliers`` (1,1,2,2,4) downsample 16 times, (1,2,2,4) 8 times."""

    image_size: int = Field(256, ge=1)
    channels: int = Field(128, ge=8, description="of the first level")
    groups: int = Field(32, ge=1, description="of every GroupNorm; one channel a group would lose the picture's mean colour")
    multipliers: tuple[int, ...] = Field((1, 1, 2, 2, 4), min_length=1)
    num_res_blocks: int = Field(2, ge=1, description="a level of the encoder; the decoder has one more")
    attention: bool = Field(True, description="in the encoder's last level (and the decoder's first, except in KL-16)")

    @property
    def downsampling(self) -> int:
        return 2 ** (len(self.multipliers) - 1)

    @property
    def grid(self) -> int:
        """Side of the latent grid."""
        if self.image_size % self.downsampling:
            raise ArgenzooError(
                f"tokenizer.image_size {self.image_size} is no multiple of {self.downsampling}, "
                f"the downsampling of multipliers {self.multipliers}"
            )
        return self.image_size // self.downsampling


class Autoencoder(nn.Module):
    """Encoder, quant_conv | post_quant_conv, decoder.

    Args:
        config: sizes.
        latent: channels between encoder and quant_conv, and between post_quant_conv and decoder.
        dim: channels of the latent that is quantised or sampled.
        kernel: of quant_conv and post_quant_conv (3 in VAR, else 1).
        moments: 2 where the encoder gives mean and logvar (KL), else 1.
        decoder_attention: attention in the decoder's first level.
    """

    def __init__(
        self, config: AutoencoderConfig, latent: int, dim: int, kernel: int = 1, moments: int = 1, decoder_attention: bool = True
    ) -> None:
        super().__init__()
        self.image_size = config.image_size
        if config.channels % config.groups:
            raise ArgenzooError(f"tokenizer.channels {config.channels} is no multiple of tokenizer.groups {config.groups}")
        widths = tuple(config.channels * multiplier for multiplier in config.multipliers)
        plain = len(widths) - 1
        down = ("DownEncoderBlock2D",) * plain + ("AttnDownEncoderBlock2D" if config.attention else "DownEncoderBlock2D",)
        up = ("AttnUpDecoderBlock2D" if config.attention and decoder_attention else "UpDecoderBlock2D",) + ("UpDecoderBlock2D",) * plain
        self.encoder = Encoder(3, latent, down, widths, config.num_res_blocks, config.groups, double_z=moments == 2)
        self.decoder = Decoder(latent, 3, up, widths, config.num_res_blocks, config.groups)
        for part in self.decoder.modules():
            if isinstance(part, nn.SiLU):
                part.inplace = True  # of what a GroupNorm made: large maps, held and written once
        self.quant_conv = nn.Conv2d(latent * moments, dim * moments, kernel, padding=kernel // 2)
        self.post_quant_conv = nn.Conv2d(dim, latent, kernel, padding=kernel // 2)

    @property
    def last_layer(self) -> Tensor:
        """The weight whose gradients an adaptive weight compares."""
        return self.decoder.conv_out.weight

    def encode(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> the latent (B, dim * moments, h, w)."""
        size = (3, self.image_size, self.image_size)
        if images.shape[1:] != size:
            raise ArgenzooError(f"this tokenizer takes images (B, {size[0]}, {size[1]}, {size[2]}), got {tuple(images.shape)}")
        return self.quant_conv(self.encoder(images))

    def decode(self, latent: Tensor) -> Tensor:
        """(B, dim, h, w) -> images (B, 3, H, W)."""
        if latent.is_cuda:  # on a CPU it makes no difference: oneDNN has an order of its own
            latent = latent.contiguous(memory_format=torch.channels_last)
        return self.decoder(self.post_quant_conv(latent))
