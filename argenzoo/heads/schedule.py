"""The cosine noise schedule and its respacing (Nichol & Dhariwal, arXiv 2102.09672), as float64 tables."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor


@dataclass(frozen=True)
class NoiseSchedule:
    """Coefficients of q(x_t | x_0) and of the posterior q(x_{t-1} | x_t, x_0), each (T,) float32.

    Args:
        timesteps: (T,) what the network is told: 0..T-1, or the kept steps of a respaced schedule.
    """

    timesteps: Tensor
    sqrt_alpha_bar: Tensor
    sqrt_one_minus_alpha_bar: Tensor
    sqrt_recip_alpha_bar: Tensor
    sqrt_recip_minus_one: Tensor
    posterior_mean_x0: Tensor
    posterior_mean_xt: Tensor
    posterior_log_variance: Tensor
    log_beta: Tensor


def cosine_alpha_bar(steps: int = 1000, largest_beta: float = 0.999) -> Tensor:
    """(T,) float64: the product of 1 - beta, beta capped."""

    def level(u: float) -> float:
        return math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2

    betas = [min(1 - level((i + 1) / steps) / level(i / steps), largest_beta) for i in range(steps)]
    return (1 - torch.tensor(betas, dtype=torch.float64, device="cpu")).cumprod(0)


def respaced(num_steps: int, steps: int = 1000) -> list[int]:
    """The ``num_steps`` timesteps kept of ``steps``: evenly spaced from first to last, rounded."""
    stride = (steps - 1) / max(num_steps - 1, 1)
    return [round(i * stride) for i in range(num_steps)]


@cache  # one for each number of steps, which may fall along the order
@torch.inference_mode(mode=False)  # training uses those that sampling made
def noise_schedule(num_steps: int = 1000, device: torch.device | str = "cpu", steps: int = 1000) -> NoiseSchedule:
    """The full schedule, or one of ``num_steps`` of its ``steps`` whose betas are those between the kept timesteps."""
    timesteps = respaced(num_steps, steps)
    bar = cosine_alpha_bar(steps)[timesteps]
    before = torch.cat([torch.ones(1, dtype=torch.float64, device="cpu"), bar[:-1]])
    beta = 1 - bar / before
    variance = beta * (1 - before) / (1 - bar)
    clipped = torch.cat([variance[1:2], variance[1:]]) if len(bar) > 1 else beta  # the variance is 0 at t = 0
    tables = {
        "sqrt_alpha_bar": bar.sqrt(),
        "sqrt_one_minus_alpha_bar": (1 - bar).sqrt(),
        "sqrt_recip_alpha_bar": (1 / bar).sqrt(),
        "sqrt_recip_minus_one": (1 / bar - 1).sqrt(),
        "posterior_mean_x0": beta * before.sqrt() / (1 - bar),
        "posterior_mean_xt": (1 - before) * (1 - beta).sqrt() / (1 - bar),
        "posterior_log_variance": clipped.log(),
        "log_beta": beta.log(),
    }
    return NoiseSchedule(torch.tensor(timesteps, device=device), **{name: table.float().to(device) for name, table in tables.items()})


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
