"""Diffusion loss: a continuous token's distribution, by a small denoising MLP conditioned on z (MAR, arXiv 2406.11838, section 3.2)."""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from argenzoo.errors import ArgenzooError
from argenzoo.guidance import guided
from argenzoo.heads.mlp import DenoisingMLP
from argenzoo.heads.schedule import NoiseSchedule, noise_schedule, posterior
from argenzoo.heads.solvers import MOST, SOLVERS
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
        last_steps: int | None = Field(None, ge=2, le=1000, description="in the order's last step; num_steps in the first, evenly between")
        solver: Literal["ancestral", "dpm"] = Field("ancestral", description="dpm: DPM-Solver++, for 10 to 25 steps")
        temperature: float = Field(1.0, ge=0, description="multiplies the noise injected at each step")
        clip: float | None = Field(None, gt=0, description="bound of the predicted clean token; off in MAR, steadies a short training")

        def steps_at(self, progress: Progress | None) -> int:
            """Denoising steps at a step of the order: later sets, of which more is known, need fewer (DiSA, arXiv 2505.20297)."""
            if self.last_steps is None or progress is None:
                return self.num_steps
            return round(self.num_steps + (self.last_steps - self.num_steps) * progress.step / max(progress.steps - 1, 1))

    def __init__(self, config: Config, space: TokenSpace, dim: int) -> None:
        super().__init__()
        if space.vocab_size is not None:
            raise ArgenzooError(
                "head 'diffusion' needs token vectors, this tokenizer emits ids: "
                "set tokenizer.quantize=false (or use tokenizer.name=kl or head.name=cross_entropy)"
            )
        self.config, self.token_dim = config, space.dim
        self.mlp = DenoisingMLP(space.dim, dim, 2 * space.dim, config.width, config.depth)

    def check(self, options: Sampling) -> None:
        """Raises ArgenzooError where the solver has no use for an option, or no room for so many steps."""
        if options.solver == "dpm" and options.temperature != 1:
            raise ArgenzooError("head.temperature has no effect with head.solver=dpm, which injects no noise: leave it at 1")
        most = max(options.num_steps, options.last_steps or 0)
        if options.solver == "dpm" and most > MOST:
            raise ArgenzooError(f"head.solver=dpm takes at most {MOST} steps, not {most}: 10 to 25 are its purpose")

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
        """(B, n, D) -> vectors (B, n, C); guidance acts on eps alone."""
        rng, shape = rng or GlobalRng(len(z), z.device), (*z.shape[1:-1], self.token_dim)
        solver = SOLVERS[options.solver](options.steps_at(progress), options.temperature, options.clip, z.device)
        both = self.mlp.z_embed(z if z_null is None else torch.cat([z, z_null]))
        x = solver.start(rng, shape)
        for i, modulation in enumerate(self.mlp.along(self.mlp.embed_time(solver.timesteps), both)):
            cond, null = self.mlp.denoise_pair(x, modulation, z_null is not None)
            (eps, variance), eps_null = cond.chunk(2, dim=-1), None if null is None else null.chunk(2, dim=-1)[0]
            x = solver.step(i, guided(eps, eps_null, guidance), variance, x)
        return x


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
