"""Adversarial loss (VQGAN, arXiv 2012.09841, section 3.1): a discriminator against the tokenizer, which is the second player."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from argenzoo.losses.discriminator import PatchGAN
from argenzoo.registry import Config as PartConfig


class Adversarial(nn.Module):
    """What the tokenizer minimises; ``opponent`` is what the second player trains."""

    class Config(PartConfig):
        weight: float = Field(0.5, ge=0)
        kind: Literal["hinge", "non_saturating"] = "hinge"
        adaptive: bool = Field(False, description="scale by the ratio of the other losses' gradient to this one's (VQGAN, equation 7)")
        max_factor: float = Field(1e4, gt=0, description="of the adaptive scale, with losses that are means over pixels")
        start: int = Field(0, ge=0, description="step at which discriminator and loss set in")
        dim: int = Field(64, ge=8)
        layers: int = Field(3, ge=1, description="that halve the picture")
        norm: Literal["batch", "group"] = "batch"
        lr: float | None = Field(None, gt=0, description="None: train.lr")
        betas: tuple[float, float] | None = Field(None, description="None: train.betas")
        lecam: float = Field(0.0, ge=0, description="weight of LeCam's regularisation (arXiv 2104.03310), for small sets")

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.opponent = Opponent(config)

    def forward(self, reconstruction: Tensor, pictures: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] -> (); the gradient reaches the reconstruction, never the discriminator."""
        with frozen(self.opponent):
            fake = self.opponent.discriminator(reconstruction)
        return -fake.mean() if self.config.kind == "hinge" else F.softplus(-fake).mean()

    def factor(self, others: Tensor, own: Tensor) -> Tensor:
        """The adaptive weight: |d others| / |d own|, from the gradients of both at the decoder's last layer."""
        return (others.float().norm() / (own.float().norm() + 1e-6)).clamp(max=self.config.max_factor).detach()


class Opponent(nn.Module):
    """The discriminator with its loss."""

    mean_real: Tensor
    mean_fake: Tensor

    def __init__(self, config: Adversarial.Config) -> None:
        super().__init__()
        self.config = config
        self.discriminator = PatchGAN(config.dim, config.layers, config.norm)
        if config.lecam:
            self.register_buffer("mean_real", torch.zeros(()))
            self.register_buffer("mean_fake", torch.zeros(()))

    def forward(self, pictures: Tensor, reconstruction: Tensor) -> dict[str, Tensor]:
        """(B, 3, H, W) each -> ``loss``, the mean logits of ``real`` and ``fake`` and how often they are told apart."""
        real, fake = self.discriminator(pictures), self.discriminator(reconstruction)
        loss = DISCRIMINATOR[self.config.kind](real, fake)
        if self.config.lecam:
            loss = loss + self.config.lecam * self._lecam(real, fake)
        right = torch.cat([(real > 0).flatten(), (fake < 0).flatten()]).float().mean()
        return {"loss": loss, "real": real.mean(), "fake": fake.mean(), "accuracy": right}

    def _lecam(self, real: Tensor, fake: Tensor) -> Tensor:
        """Keeps each logit near the other's running mean."""
        if self.training:
            with torch.no_grad():
                for mean, seen in ((self.mean_real, real.mean()), (self.mean_fake, fake.mean())):
                    mean.lerp_(torch.where(seen.isfinite(), seen, mean), 0.01)
        return F.relu(real - self.mean_fake).square().mean() + F.relu(self.mean_real - fake).square().mean()


def hinge(real: Tensor, fake: Tensor) -> Tensor:
    return 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())


def non_saturating(real: Tensor, fake: Tensor) -> Tensor:
    """Binary cross-entropy from logits: real against 1, fake against 0."""
    return 0.5 * (F.softplus(-real).mean() + F.softplus(fake).mean())


DISCRIMINATOR = {"hinge": hinge, "non_saturating": non_saturating}


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """No parameter of it takes part in the graph that is built inside."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
