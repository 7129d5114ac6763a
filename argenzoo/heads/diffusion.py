"""Diffusion loss: a continuous token's distribution, by a small denoising MLP conditioned on z (MAR, arXiv 2406.11838, section 3.2)."""

from __future__ import annotations

import math

import torch
from pydantic import Field
from torch import Tensor, nn

from argenzoo.errors import ArgenzooError
from argenzoo.guidance import guided
from argenzoo.heads.mlp import DenoisingMLP, Modulation
from argenzoo.heads.schedule import NoiseSchedule, noise_schedule
from argenzoo.protocols import Progress, TokenSpace
from argenzoo.registry import Config as PartConfig
from argenzoo.rng import Draws, GlobalRng


class Diffusion(nn.Module):
    """eps prediction with a learned-range variance on the 1000-step cosine schedule (Nichol & Dhariwal, arXiv 2102.09672)."""

    steps = 1000

    class Config(PartConfig):
        width: int = Field(1024, ge=8)
        depth: int = Field(3, ge=1)
        batch_mul: int = Field(4, ge=1, description="timesteps drawn for each token in training")

    class Sampling(PartConfig):
        num_steps: int = Field(100, ge=2, le=1000, description="denoising steps, respaced from 1000")
        temperature: float = Field(1.0, ge=0, description="multiplies the noise injected at each step")
        clip: float | None = Field(None, gt=0, description="bound of the predicted clean token; off in MAR, steadies a short training")

    def __init__(self, config: Config, space: TokenSpace, dim: int) -> None:
        super().__init__()
        if space.vocab_size is not None:
            raise ArgenzooError(
                "head 'diffusion' needs token vectors, this tokenizer emits ids: "
                "set tokenizer.quantize=false (or use tokenizer.name=kl or head.name=cross_entropy)"
            )
        self.config, self.token_dim = config, space.dim
        self.mlp = DenoisingMLP(space.dim, dim, 2 * space.dim, config.width, config.depth)

    def loss(self, z: Tensor, tokens: Tensor, rng: Draws | None = None) -> Tensor:
        """z (M, D), tokens (M, C) -> (M,): eps error plus variational bound, averaged over ``batch_mul`` timesteps."""
        rng, repeats = rng or GlobalRng(len(z), z.device), self.config.batch_mul
        t = rng.integers(self.steps, repeats).flatten()  # (M * repeats,)
        noise = rng.normal(repeats, self.token_dim).flatten(0, 1)
        z, tokens = z.repeat_interleave(repeats, dim=0), tokens.repeat_interleave(repeats, dim=0)
        return self.terms(z, tokens, t, noise).sum(0).view(-1, repeats).mean(-1)

    def metrics(self, z: Tensor, tokens: Tensor) -> dict[str, Tensor]:
        return {}

    def terms(self, z: Tensor, tokens: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """(2, M): the eps error and the variational bound in bits, at given t (M,) and noise (M, C)."""
        schedule, tokens = noise_schedule(self.steps, z.device), tokens.float()
        x = schedule.sqrt_alpha_bar[t, None] * tokens + schedule.sqrt_one_minus_alpha_bar[t, None] * noise
        eps, variance = self.mlp(x, t, z).float().chunk(2, dim=-1)
        error = (noise - eps).square().mean(-1)
        return torch.stack([error, variational_bound(schedule, eps.detach(), variance, x, tokens, t)])

    @torch.no_grad()
    def sample(
        self,
        z: Tensor,
        z_null: Tensor | None,
        guidance: Tensor,
        options: Sampling,
        progress: Progress | None = None,
        rng: Draws | None = None,
    ) -> Tensor:
        """(B, n, D) -> vectors (B, n, C) by ancestral sampling on the respaced schedule; guidance acts on eps alone."""
        rng, shape = rng or GlobalRng(len(z), z.device), (*z.shape[1:-1], self.token_dim)
        schedule = noise_schedule(options.num_steps, z.device)
        both = self.mlp.z_embed(z if z_null is None else torch.cat([z, z_null]))
        modulations = self.mlp.along(self.mlp.embed_time(schedule.timesteps.flip(0)), both)
        x = rng.normal(*shape)
        noises = rng.normal(options.num_steps - 1, *shape) if options.temperature else None
        for i, modulation in zip(reversed(range(options.num_steps)), modulations, strict=True):
            eps, variance = self._predict(x, modulation, guidance)
            mean, log_variance = posterior(schedule, eps, variance, x, i, options.clip)
            x = mean if noises is None or i == 0 else mean + (0.5 * log_variance).exp() * options.temperature * noises[:, i - 1]
        return x

    def _predict(self, x: Tensor, modulation: list[Modulation], guidance: Tensor) -> tuple[Tensor, Tensor]:
        """(B, n, C) -> guided eps and the conditional variance; the modulation is of B, or of 2B for a guided pair."""
        paired = len(modulation[0][0]) == 2 * len(x)
        made = self.mlp.denoise(torch.cat([x, x]) if paired else x, modulation).float()
        eps, variance = made[: len(x)].chunk(2, dim=-1)
        return guided(eps, made[len(x) :].chunk(2, dim=-1)[0] if paired else None, guidance), variance


def posterior(
    schedule: NoiseSchedule, eps: Tensor, variance: Tensor, x: Tensor, t: Tensor | int, clip: float | None = None
) -> tuple[Tensor, Tensor]:
    """Mean and log-variance of p(x_{t-1} | x_t); ``variance`` in [-1, 1] interpolates the log-variance between its bounds."""

    def at(table: Tensor) -> Tensor:
        return table[t, None] if isinstance(t, Tensor) else table[t]

    x0 = at(schedule.sqrt_recip_alpha_bar) * x - at(schedule.sqrt_recip_minus_one) * eps
    x0 = x0 if clip is None else x0.clamp(-clip, clip)
    mean = at(schedule.posterior_mean_x0) * x0 + at(schedule.posterior_mean_xt) * x
    fraction = (variance + 1) / 2
    return mean, fraction * at(schedule.log_beta) + (1 - fraction) * at(schedule.posterior_log_variance)


def variational_bound(schedule: NoiseSchedule, eps: Tensor, variance: Tensor, x: Tensor, x0: Tensor, t: Tensor) -> Tensor:
    """(M,) in bits, mean over channels: KL(q(x_{t-1} | x_t, x_0) || p), and at t = 0 the negative discretised log-likelihood."""
    mean, log_variance = posterior(schedule, eps, variance, x, t)
    true_mean = schedule.posterior_mean_x0[t, None] * x0 + schedule.posterior_mean_xt[t, None] * x
    true_log_variance = schedule.posterior_log_variance[t, None]
    ratio = (true_log_variance - log_variance).exp()
    kl = 0.5 * (log_variance - true_log_variance - 1 + ratio + (true_mean - mean).square() * (-log_variance).exp())
    likelihood = discretised_log_likelihood(x0, mean, 0.5 * log_variance)
    return torch.where(t == 0, -likelihood.mean(-1), kl.mean(-1)) / math.log(2)


def discretised_log_likelihood(x: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """log of the Gaussian's mass in the bin of 1/255 each side of x; the outermost bins reach to infinity."""

    def cdf(u: Tensor) -> Tensor:  # the tanh approximation of the normal CDF
        return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (u + 0.044715 * u**3)))

    inverse = (-log_std).exp()
    upper, lower = cdf(inverse * (x - mean + 1 / 255)), cdf(inverse * (x - mean - 1 / 255))
    mass = torch.where(x < -0.999, upper, torch.where(x > 0.999, 1 - lower, upper - lower))
    return mass.clamp(min=1e-12).log()
