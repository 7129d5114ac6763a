"""What a recipe builds and costs, counted on the meta device: parameters, FLOPs, memory, steps and tokens."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from argenzoo.branches import Branches
from argenzoo.build import assemble, make_tokenizer
from argenzoo.counting import Count, counting
from argenzoo.layers.repeated import checkpointed
from argenzoo.model import ARModel
from argenzoo.protocols import Progress
from argenzoo.recipe import Recipe
from argenzoo.rng import GlobalRng, Rng
from argenzoo.train_options import TrainConfig

META = torch.device("meta")
BACKWARD = 2  # times the forward pass
RATIOS = 4  # quantiles of MAR's mask ratio that are averaged
STEPS = 8  # of a long sampling loop that are counted; the others lie between them
FLOAT = 4  # bytes


def parts_of(recipe: Recipe) -> tuple[Any, ARModel | None]:
    """(tokenizer, model or None), all of it on the meta device."""
    with META:
        tokenizer = make_tokenizer(recipe.tokenizer)
        model = assemble(recipe, tokenizer) if recipe.generator is not None else None
    tokenizer.to(META)  # tables that are made on the CPU
    return tokenizer, None if model is None else model.to(META)


def parameters_by_part(recipe: Recipe) -> dict[str, int]:
    """Parameters of each part, and in all; no memory is used."""
    tokenizer, model = parts_of(recipe)
    parts = {"tokenizer": tokenizer}
    if model is not None:
        parts |= {"conditioner": model.conditioner, "generator": model.generator, "head": model.head}
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()}
    return {**counts, "total": sum(counts.values())}


class Quantile(Rng):
    """Draws for one image whose shared draw is a given quantile."""

    def __init__(self, quantile: float) -> None:
        super().__init__(0, [0])
        self.quantile = quantile

    def shared_uniform(self) -> float:
        return self.quantile


@dataclass(frozen=True)
class Cost:
    """Of one image.

    Args:
        encode, decode: FLOPs of the tokenizer.
        train: FLOPs of the network's forward and backward pass.
        sample: FLOPs of generating its tokens, guided where the recipe's sampling is.
        activations: bytes kept for the backward pass in float32.
        predicted: positions that a training image has a loss on, on average.
    """

    encode: float
    decode: float
    train: float
    sample: float
    activations: float
    predicted: float


def cost(recipe: Recipe) -> Cost:
    """Counts a recipe's work. A tokenizer's recipe trains encoder and decoder; its own losses are left out."""
    tokenizer, model = parts_of(recipe)
    images = torch.empty(1, 3, tokenizer.image_size, tokenizer.image_size, device=META)
    with counting(tokenizer) as encode, torch.no_grad():
        tokenizer.encode(images)
    with counting(tokenizer) as decode, torch.no_grad():
        tokenizer.decode(tokenizer.space.empty(1, META))
    if model is None:
        tokenizer.train().requires_grad_(True)
        with counting(tokenizer) as count:
            tokenizer.reconstruct(images)
        return Cost(encode.flops, decode.flops, (1 + BACKWARD) * count.flops, 0, count.kept, 0)
    if recipe.train is not None and recipe.train.checkpointing:
        checkpointed(model.network)
    passes = [training_pass(model, 0.5)]
    if passes[0][2] < tokenizer.space.num_tokens:  # how many positions are predicted is drawn
        passes = [training_pass(model, (i + 0.5) / RATIOS) for i in range(RATIOS)]
    flops, kept, predicted = (sum(values) / len(passes) for values in zip(*passes, strict=True))
    return Cost(encode.flops, decode.flops, (1 + BACKWARD) * flops, sampling_flops(model), kept, predicted)


def training_pass(model: ARModel, quantile: float) -> tuple[float, float, int]:
    """(FLOPs of the forward pass, bytes kept, positions with a loss) of one image."""
    tokens = model.tokenizer.space.empty(1, META)
    context = model.tokenizer.context(tokens)
    model.network.train()
    with counting(model.network) as count:
        z, mask = model.generator(context, model.conditioner(example(model)), Quantile(quantile))
        rows = mask.numel() if mask.is_meta else int(mask.sum())
        hidden = z.new_empty(rows, z.shape[-1]).requires_grad_()
        model.head.loss(hidden, tokens.new_empty(rows, *tokens.shape[2:]))
    model.network.eval()
    return count.flops, count.kept, rows


@dataclass(frozen=True)
class Stage:
    """A step of sampling: the generator's, of one picture, or the head's, of one token.

    Args:
        flops: of products.
        weights: numbers that are read whatever the batch.
        attended: keys and values.
        positions: tokens that it is for.
        once: FLOPs whatever the batch.
    """

    flops: float
    weights: float
    attended: float
    positions: int
    once: float = 0


def sampling_flops(model: ARModel) -> float:
    """The plain loop's, with the recipe's options."""
    stages = generator_stages(model, is_paired(model))
    heads = head_stages(model, len(stages))
    return sum(step.flops + step.positions * head.flops + head.once for step, head in zip(stages, heads, strict=True))


def generator_flops(model: ARModel, paired: bool) -> float:
    """Of all steps of the generator."""
    return sum(stage.flops for stage in generator_stages(model, paired))


def is_paired(model: ARModel) -> bool:
    """Whether the recipe's sampling is guided."""
    return bool(model.sampling.guidance.guidance != 1)


def head_stages(model: ARModel, steps: int) -> list[Stage]:
    """Of one token at every step: a head's work is the same for every token of a step, and changes evenly over the steps, if it does."""
    first, last = (head_stage(model, step, steps) for step in (0, steps - 1))
    columns = [np.linspace(getattr(first, name), getattr(last, name), steps).tolist() for name in ("flops", "weights", "once")]
    return [Stage(flops, weights, 0, 1, once) for flops, weights, once in zip(*columns, strict=True)]


def head_stage(model: ARModel, step: int, steps: int) -> Stage:
    """Of one token at a step: what a second token adds; the rest is for all of them."""
    one, two = (counted_head(model, step, steps, tokens) for tokens in (1, 2))
    each = two.flops - one.flops
    return Stage(each, one.weights, one.attended, 1, one.flops - each)


@torch.no_grad()
def counted_head(model: ARModel, step: int, steps: int, tokens: int) -> Count:
    options, paired = model.sampling, is_paired(model)
    with counting(model) as count:
        z, scale = torch.empty(1, tokens, model.generator.dim, device=META), torch.empty((), device=META)
        progress = Progress(step, steps, tokens, model.tokenizer.space.num_tokens)
        model.head.sample(z, z if paired else None, scale, options.head, progress, GlobalRng(1, META))
    return count


@torch.no_grad()
def generator_stages(model: ARModel, paired: bool) -> list[Stage]:
    """Of every step; of a long loop ``STEPS`` are counted, the rest is passed over and lies between them."""
    cond = model.conditioner(example(model))
    null, guidance = model.conditioner.null(1, cond.mask) if paired else None, model.sampling.guidance
    branches = Branches(model.generator, cond, null, options=model.sampling.order, parted=guidance.skip > 0)
    context, total = model.tokenizer.context(model.tokenizer.space.empty(1, META)), model.tokenizer.space.num_tokens
    sets = list(model.generator.order(1, rng=Rng(0, [0]), options=model.sampling.order))
    revealed = np.cumsum([positions.shape[-1] for positions in sets]).tolist()
    long = len(sets) > 2 * STEPS and branches.even
    counted = sorted({round(step) for step in np.linspace(1, len(sets) - 1, STEPS)} | {0}) if long else list(range(len(sets)))
    found = []
    for step, positions in enumerate(sets):
        if step not in counted:
            branches.skip(positions)
            continue
        with counting(model) as count:
            branches.step(context, positions, guidance.acts(Progress(step, len(sets), revealed[step], total)))
        found.append((count.flops, count.weights, count.attended))
    flops, weights, attended = (np.interp(range(len(sets)), counted, column).tolist() for column in zip(*found, strict=True))
    return [Stage(*step) for step in zip(flops, weights, attended, [positions.shape[-1] for positions in sets], strict=True)]


def example(model: ARModel) -> Any:
    """A condition of the right shape."""
    config = model.recipe.conditioner.config
    if hasattr(config, "num_classes"):
        return torch.zeros(1, dtype=torch.long, device=META)
    features = torch.empty(1, config.num_tokens, config.feature_dim, device=META)
    return features, torch.ones(1, config.num_tokens, dtype=torch.bool, device=META)


@dataclass(frozen=True)
class Memory:
    """Bytes a process. Weights, gradients and moments stay in float32 under mixed precision; activations are about halved by it."""

    weights: dict[str, int]
    gradients: int
    optimizer: int
    averaged: int
    activations: float

    def total(self, images: int) -> float:
        """With a micro-batch of ``images``."""
        return sum(self.weights.values()) + self.gradients + self.optimizer + self.averaged + images * self.activations


def memory(recipe: Recipe, found: Cost | None = None) -> Memory:
    """What training a recipe takes, in float32 or under its ``train.precision``; ``found``, where it was counted already."""
    counts, train = parameters_by_part(recipe), recipe.train
    counts.pop("total")
    trained = sum(count for name, count in counts.items() if recipe.generator is None or name != "tokenizer") * FLOAT
    half = train is not None and train.precision != "fp32"
    return Memory(
        {name: count * FLOAT for name, count in counts.items()},
        trained,
        2 * trained,
        trained if train is not None and train.ema is not None else 0,
        (found or cost(recipe)).activations * (0.5 if half else 1),
    )


def steps_of(train: TrainConfig, samples: int) -> int:
    """Optimizer steps of a run over a set of ``samples``."""
    return train.steps or math.ceil((train.epochs or 0) * samples / train.batch_size)
