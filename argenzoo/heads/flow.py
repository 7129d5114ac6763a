"""Flow matching: a continuous token's distribution as a straight path from noise (rectified flow, arXiv 2209.03003), in MAR's small MLP."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from argenzoo.errors import ArgenzooError
from argenzoo.guidance import guided
from argenzoo.heads.mlp import DenoisingMLP, Modulation
from argenzoo.protocols import Progress, TokenSpace
from argenzoo.registry import Config as PartConfig
from argenzoo.rng import Draws, GlobalRng

TIMES = 1000.0  # the MLP's sinusoids are spread for times of 0 to 1000


class Flow(nn.Module):
    """The velocity dx/dt = noise - token of x = (1 - t) token + t noise, with t drawn logit-normal (arXiv 2403.03206, section 3.1)."""

    class Config(PartConfig):
        width: int = Field(1024, ge=8)
        depth: int = Field(3, ge=1)
        batch_mul: int = Field(4, ge=1, description="times drawn for each token in training")
        t_mean: float = Field(0.0, description="of the normal whose sigmoid is t: above 0, more noise")
        t_std: float = Field(1.0, gt=0)

    class Sampling(PartConfig):
        num_steps: int = Field(25, ge=1, description="intervals from noise to token, of one length")
        solver: Literal["euler", "heun"] = Field("heun", description="heun asks the network twice an interval, but for the last")
        temperature: float = Field(1.0, ge=0, description="multiplies the noise that a path begins with")

    def __init__(self, config: Config, space: TokenSpace, dim: int) -> None:
        super().__init__()
        if space.vocab_size is not None:
            raise ArgenzooError(
                "head 'flow' needs token vectors, this tokenizer emits ids: "
                "set tokenizer.quantize=false (or use tokenizer.name=kl or head.name=cross_entropy)"
            )
        self.config, self.token_dim = config, space.dim
        self.mlp = DenoisingMLP(space.dim, dim, space.dim, config.width, config.depth)

    def check(self, options: Sampling) -> None:
        """Raises ArgenzooError where the solver's second half never comes."""
        if options.solver == "heun" and options.num_steps == 1:
            raise ArgenzooError("head.solver=heun has no effect with head.num_steps=1: use euler, or more steps")

    def loss(self, z: Tensor, tokens: Tensor, rng: Draws | None = None) -> Tensor:
        """z (M, D), tokens (M, C) -> (M,): the velocity's squared error, averaged over channels and ``batch_mul`` times."""
        rng, repeats = rng or GlobalRng(len(z), z.device), self.config.batch_mul
        t = (self.config.t_mean + self.config.t_std * rng.normal(repeats)).sigmoid().flatten()  # (M * repeats,)
        noise = rng.normal(repeats, self.token_dim).flatten(0, 1)
        z, tokens = z.repeat_interleave(repeats, dim=0), tokens.repeat_interleave(repeats, dim=0)
        return self.errors(z, tokens, t, noise).view(-1, repeats).mean(-1)

    def metrics(self, z: Tensor, tokens: Tensor) -> dict[str, Tensor]:
        return {}

    def errors(self, z: Tensor, tokens: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """(M,) at given t (M,) in [0, 1] and noise (M, C)."""
        tokens = tokens.float()
        x = torch.lerp(tokens, noise, t[:, None])
        velocity = self.mlp(x, TIMES * t, z).float()
        return (velocity - (noise - tokens)).square().mean(-1)

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
        """(B, n, D) -> vectors (B, n, C): the path from t = 1 to 0; guidance acts on the velocity."""
        rng = rng or GlobalRng(len(z), z.device)
        x = options.temperature * rng.normal(*z.shape[1:-1], self.token_dim)
        times = torch.linspace(1, 0, options.num_steps + 1, device=z.device)
        both = self.mlp.z_embed(z if z_null is None else torch.cat([z, z_null]))
        modulations = self.mlp.along(self.mlp.embed_time(TIMES * times[:-1]), both)

        def velocity(at: Tensor, modulation: Iterable[Modulation]) -> Tensor:
            return guided(*self.mlp.denoise_pair(at, modulation, z_null is not None), guidance)

        now = next(modulations)
        for length in times.diff():
            after = next(modulations, None)
            first = velocity(x, now)
            if options.solver == "heun" and after is not None:
                first = (first + velocity(x + length * first, after)) / 2
            x, now = x + length * first, after or now
        return x
