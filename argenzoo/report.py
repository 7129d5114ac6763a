"""``argenzoo show``: a recipe's size and cost, as text."""

from __future__ import annotations

from argenzoo.data.cache import read_manifest
from argenzoo.recipe import Recipe
from argenzoo.summary import Cost, Memory, cost, memory, parameters_by_part, steps_of

IMAGENET = 1_281_167


def report(recipe: Recipe) -> str:
    """Parameters and memory by part, FLOPs an image, steps and tokens in all.

    Epochs are of the recipe's cache, where it names one, else of ImageNet.
    """
    kept = recipe.data.config.cache if recipe.data is not None else None
    samples = IMAGENET if kept is None else read_manifest(kept).parts["train"].count
    found, counts = cost(recipe), parameters_by_part(recipe)
    need = memory(recipe, found)
    return "\n".join(
        [
            *table(counts, need, recipe.train.precision if recipe.train else "fp32"),
            "",
            *flops(recipe, found),
            "",
            *whole(recipe, found, need, samples),
        ]
    )


def table(counts: dict[str, int], need: Memory, precision: str) -> list[str]:
    """Parameters and weights of each part, and what training adds."""
    rows = [f"{'part':12} {'parameters':>15} {'float32':>10} {'bfloat16':>10}"]
    rows += [f"{name:12} {count:>15,} {size(4 * count):>10} {size(2 * count):>10}" for name, count in counts.items()]
    added = {"gradients": need.gradients, "optimizer": need.optimizer, "ema": need.averaged}
    rows += ["", "training adds"]
    rows += [f"{name:12} {'':15} {size(value):>10}" for name, value in added.items()]
    return [*rows, f"{'activations':12} {f'an image, {precision}':>15} {size(need.activations):>10}"]


def flops(recipe: Recipe, found: Cost) -> list[str]:
    """FLOPs an image; a multiplication and an addition are two, attention counts all pairs."""
    rows = [
        "FLOPs an image",
        f"  train, forward and backward {engineering(found.train):>12}",
        f"  encode                      {engineering(found.encode):>12}",
    ]
    if recipe.sampling is not None:
        guided = f"guidance {recipe.sampling.guidance.guidance:g}" if recipe.sampling.guidance.guidance != 1 else "unguided"
        rows += [f"  sample tokens, {guided:14}{engineering(found.sample):>12}"]
    return [*rows, f"  decode                      {engineering(found.decode):>12}"]


def whole(recipe: Recipe, found: Cost, need: Memory, samples: int) -> list[str]:
    """Steps, images, tokens and FLOPs of the whole training, and the memory of one process."""
    train = recipe.train
    if train is None:
        return ["no train section"]
    steps = steps_of(train, samples)
    images = steps * train.batch_size
    epochs = f" ({train.epochs:g} epochs of {samples:,} images)" if train.epochs else ""
    micro = train.batch_size // train.accumulate
    rows = [f"steps        {steps:,}{epochs}", f"images       {images:,}"]
    if found.predicted:
        rows.append(f"tokens       {images * found.predicted:.3g} with a loss, {found.predicted:.0f} an image")
    rows.append(f"FLOPs        {images * found.train:.3g}, and {images * found.encode:.3g} to encode where there is no cache")
    rows.append(
        f"memory       {size(need.total(0))} without images; {micro} at a time in {train.precision}: about {size(need.total(micro))}"
    )
    return [*rows, f"             over P processes, {micro} / P images each"]


def size(count: float) -> str:
    """Bytes, for a person."""
    for unit, scale in (("GiB", 1 << 30), ("MiB", 1 << 20)):
        if count >= scale:
            return f"{count / scale:.2f} {unit}"
    return f"{count / 1024:.1f} KiB"


def engineering(count: float) -> str:
    for unit, scale in (("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6)):
        if count >= scale:
            return f"{count / scale:.2f} {unit}"
    return f"{count:.0f}  "
