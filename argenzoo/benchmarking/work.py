"""The least that a case must do: bytes that have to move, FLOPs that have to be done, and so the least time of a machine (the roofline)."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatch

import torch

from argenzoo.benchmarking.machine import Machine
from argenzoo.counting import Count, counting
from argenzoo.recipe import Recipe
from argenzoo.summary import META, Stage, cost, generator_stages, head_stages, is_paired, parts_of

BYTES = {"fp32": 4, "bf16": 2, "int8": 1}  # of a weight, a key, a value, where a product reads it
PASSES, UPDATE, AVERAGE = 3, 7, 3  # numbers a parameter: read twice, its gradient written; AdamW's four read, three written; averages


@dataclass(frozen=True)
class Work:
    """Of one run of a case.

    Args:
        flops, moved: of all stages.
        least: seconds, each stage at the speed of what takes longer.
        bytes_share: of the least, in stages where bytes take longer.
    """

    flops: float
    moved: float
    least: float
    bytes_share: float


class Counts:
    """What a recipe's sampling and training are made of, counted once.

    Attributes:
        steps: (the generator's, the head's a token) of every step.
        weights: bytes of one, at most, while sampling.
        parameters, trained: of the network, and those that an optimizer step changes.
    """

    def __init__(self, recipe: Recipe) -> None:
        tokenizer, model = parts_of(recipe)
        assert model is not None
        stages = generator_stages(model, is_paired(model))
        self.steps: list[tuple[Stage, Stage]] = list(zip(stages, head_stages(model, len(stages)), strict=True))
        self.train, self.decoder = cost(recipe).train, decoding(tokenizer)
        only = recipe.train.only if recipe.train is not None else ()
        sizes = {name: parameter.numel() for name, parameter in model.network.named_parameters()}
        self.parameters = sum(sizes.values())
        self.trained = sum(size for name, size in sizes.items() if not only or any(fnmatch(name, pattern) for pattern in only))
        self.weights = BYTES[model.sampling.execution.weights]
        self.averaged = recipe.train is not None and recipe.train.ema is not None


@torch.no_grad()
def decoding(tokenizer: torch.nn.Module) -> Count:
    with counting(tokenizer) as count:
        tokenizer.decode(tokenizer.space.empty(1, META))  # type: ignore[operator, union-attr]
    return count


def sampling(counts: Counts, batch: int, precision: str, machine: Machine) -> Work:
    """``batch`` pictures' tokens by the plain loop; its steps follow one another."""
    return together(sampling_stages(counts, batch, precision), machine, precision)


def decoded(counts: Counts, batch: int, precision: str, machine: Machine) -> Work:
    """``sampling``, and the tokenizer's decoder."""
    decoder = (batch * counts.decoder.flops, float(BYTES[precision] * counts.decoder.weights))
    return together([*sampling_stages(counts, batch, precision), decoder], machine, precision)


def sampling_stages(counts: Counts, batch: int, precision: str) -> list[tuple[float, float]]:
    """(FLOPs, bytes), step by step: a step reads its weights once, whatever the batch, and the keys and values of each picture."""
    size, stages = BYTES[precision], []
    weight = min(size, counts.weights)
    for step, head in counts.steps:
        stages.append((batch * step.flops, weight * step.weights + size * batch * step.attended))
        stages.append((batch * step.positions * head.flops + head.once, weight * head.weights))
    return stages


def training(counts: Counts, batch: int, precision: str, machine: Machine) -> Work:
    """One optimizer step: forward and backward passes of ``batch`` pictures, while weights and gradients move; then the update."""
    passes = (batch * counts.train, float(BYTES["fp32"] * PASSES * counts.parameters))
    update = BYTES["fp32"] * (UPDATE * counts.trained + AVERAGE * counts.averaged * counts.parameters)
    return together([passes, (0.0, float(update))], machine, precision)


def together(stages: list[tuple[float, float]], machine: Machine, precision: str) -> Work:
    """(FLOPs, bytes) of stages that follow one another."""
    least = [(machine.seconds(flops, moved, precision), machine.seconds(flops, 0, precision)) for flops, moved in stages]
    seconds = sum(both for both, _ in least)
    waiting = sum(both for both, computing in least if both > computing)
    return Work(sum(flops for flops, _ in stages), sum(moved for _, moved in stages), seconds, waiting / seconds)
