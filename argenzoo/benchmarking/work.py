"""The least that a case must do: bytes that have to move, FLOPs that have to be done, and so the least time of a machine (the roofline)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from argenzoo.benchmarking.machine import Machine
from argenzoo.counting import counting
from argenzoo.recipe import Recipe
from argenzoo.summary import META, cost, generator_stages, head_stages, is_paired, parameters_by_part, parts_of

BYTES = {"fp32": 4, "bf16": 2}  # of a weight, a key, a value, where a product reads it
UPDATE = 1 + 1 + 1 + 7  # a parameter is read forward and backward, its gradient written; AdamW reads four numbers and writes three
AVERAGE = 3  # an average is read with the parameter, and written


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


def sampling(recipe: Recipe, batch: int, precision: str, machine: Machine) -> Work:
    """``batch`` pictures' tokens by the plain loop; its steps follow one another."""
    return together(sampling_stages(recipe, batch, precision), machine, precision)


def decoded(recipe: Recipe, batch: int, precision: str, machine: Machine) -> Work:
    """``sampling``, and the tokenizer's decoder."""
    tokenizer, _ = parts_of(recipe)
    with counting(tokenizer) as count, torch.no_grad():
        tokenizer.decode(tokenizer.space.empty(1, META))
    decoder = (batch * count.flops, BYTES[precision] * count.weights)
    return together([*sampling_stages(recipe, batch, precision), decoder], machine, precision)


def sampling_stages(recipe: Recipe, batch: int, precision: str) -> list[tuple[float, float]]:
    """(FLOPs, bytes), step by step: a step reads its weights once, whatever the batch, and the keys and values of each picture."""
    _, model = parts_of(recipe)
    assert model is not None
    size, steps, stages = BYTES[precision], generator_stages(model, is_paired(model)), []
    for step, head in zip(steps, head_stages(model, len(steps)), strict=True):
        stages.append((batch * step.flops, size * (step.weights + batch * step.attended)))
        stages.append((batch * step.positions * head.flops, size * head.weights))
    return stages


def training(recipe: Recipe, batch: int, precision: str, machine: Machine) -> Work:
    """One optimizer step: forward and backward passes of ``batch`` pictures, and every parameter's update."""
    counts = parameters_by_part(recipe)
    trained = counts["total"] - counts["tokenizer"]
    averaged = AVERAGE if recipe.train is not None and recipe.train.ema is not None else 0
    moved = BYTES["fp32"] * trained * (UPDATE + averaged)
    return together([(batch * cost(recipe).train, 0.0), (0.0, moved)], machine, precision)


def together(stages: list[tuple[float, float]], machine: Machine, precision: str) -> Work:
    """(FLOPs, bytes) of stages that follow one another."""
    least = [(machine.seconds(flops, moved, precision), machine.seconds(flops, 0, precision)) for flops, moved in stages]
    seconds = sum(both for both, _ in least)
    waiting = sum(both for both, computing in least if both > computing)
    return Work(sum(flops for flops, _ in stages), sum(moved for _, moved in stages), seconds, waiting / seconds)
