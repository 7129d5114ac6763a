"""From noise to a token: ancestral sampling, as published, and DPM-Solver++ (arXiv 2211.01095), which needs 10 to 25 steps."""

from __future__ import annotations

from functools import lru_cache
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from argenzoo.heads.schedule import cosine_alpha_bar, noise_schedule, posterior
from argenzoo.rng import Draws

CLEAREST = -5.1  # log(alpha / sigma) where DPM-Solver++ begins: diffusers' advice for cosine schedules, whose first steps hold no signal

MOST = 200  # steps of DPM-Solver++: many more would fall on one timestep twice


class Solver(Protocol):
    """``timesteps`` (T,), first to last: where the network is asked. Made anew for every set of tokens."""

    timesteps: Tensor

    def start(self, rng: Draws, shape: tuple[int, ...]) -> Tensor:
        """(B, *shape) to begin with."""

    def step(self, i: int, eps: Tensor, variance: Tensor, x: Tensor) -> Tensor:
        """x at the next of the timesteps; ``variance`` is the learned one, in [-1, 1] between its bounds."""


class Ancestral:
    """DDPM's on the respaced schedule; ``temperature`` multiplies the noise injected at each step."""

    def __init__(self, num_steps: int, temperature: float, clip: float | None, device: torch.device) -> None:
        self.num_steps, self.temperature, self.clip = num_steps, temperature, clip
        self.schedule = noise_schedule(num_steps, device)
        self.timesteps = self.schedule.timesteps.flip(0)
        self._noises: Tensor | None = None

    def start(self, rng: Draws, shape: tuple[int, ...]) -> Tensor:
        x = rng.normal(*shape)
        self._noises = rng.normal(self.num_steps - 1, *shape) if self.temperature else None
        return x

    def step(self, i: int, eps: Tensor, variance: Tensor, x: Tensor) -> Tensor:
        t = self.num_steps - 1 - i
        mean, log_variance = posterior(self.schedule, eps, variance, x, t, self.clip)
        if self._noises is None or t == 0:
            return mean
        return mean + (0.5 * log_variance).exp() * self.temperature * self._noises[:, t - 1]


class DPMSolver:
    """diffusers' multistep solver of second order. It follows the ODE: all of its randomness is the noise that it begins with, and the
    learned variance is not used."""

    def __init__(self, num_steps: int, temperature: float, clip: float | None, device: torch.device) -> None:
        from diffusers import DPMSolverMultistepScheduler  # takes seconds to import

        self.clip, self.full = clip, noise_schedule(device=device)
        self.scheduler = DPMSolverMultistepScheduler(
            trained_betas=betas(), prediction_type="sample", lambda_min_clipped=CLEAREST, solver_order=2
        )
        self.scheduler.set_timesteps(num_steps)  # on the CPU, where it looks them up at every step
        self._steps = self.scheduler.timesteps.tolist()
        self.timesteps = self.scheduler.timesteps.to(device)

    def start(self, rng: Draws, shape: tuple[int, ...]) -> Tensor:
        return rng.normal(*shape)

    def step(self, i: int, eps: Tensor, variance: Tensor, x: Tensor) -> Tensor:
        t = self._steps[i]
        x0 = self.full.sqrt_recip_alpha_bar[t] * x - self.full.sqrt_recip_minus_one[t] * eps
        x0 = x0 if self.clip is None else x0.clamp(-self.clip, self.clip)
        return self.scheduler.step(x0, t, x, return_dict=False)[0]


@lru_cache(maxsize=1)
def betas() -> np.ndarray:
    bar = cosine_alpha_bar()
    return np.asarray(1 - bar / torch.cat([bar.new_ones(1), bar[:-1]]))


SOLVERS: dict[str, type[Ancestral | DPMSolver]] = {"ancestral": Ancestral, "dpm": DPMSolver}
