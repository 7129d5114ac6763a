"""Out of memory: which settings would fit."""

from __future__ import annotations

import torch

from argenzoo.recipe import Recipe
from argenzoo.summary import memory

GIB = 1 << 30
USABLE = 0.9  # of a device's memory: the rest is the context's, the kernels' and fragmentation


def is_out_of_memory(error: BaseException) -> bool:
    """A GPU's error in any of its forms, or the CPU allocator's."""
    words = ("out of memory", "ALLOC_FAILED", "can't allocate memory")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(word in str(error) for word in words)


def advice(recipe: Recipe, available: int | None = None, processes: int = 1) -> str:
    """Settings whose estimated memory fits; ``available`` bytes, None: the GPU's."""
    assert recipe.train is not None
    if available is None:
        available = torch.cuda.get_device_properties(0).total_memory if torch.cuda.is_available() else 0
    train, need = recipe.train, memory(recipe)
    share, room = train.batch_size // processes, available * USABLE
    fixed = f"weights, gradients and optimizer take {gib(need.total(0))}, each image about {gib(need.activations)} more"
    for pieces in (n for n in range(train.accumulate + 1, share + 1) if share % n == 0):
        micro = share // pieces
        if not available or need.total(micro) <= room:
            return f"{fixed}. train.accumulate={pieces}, {micro} images at a time and the same result, would take {gib(need.total(micro))}"
    smaller = "" if train.precision != "fp32" else "; train.precision=bf16 halves the images' part"
    return f"{fixed}. Even one image at a time needs more than there is, {gib(available)}: a smaller model or a larger device{smaller}"


def gib(count: float) -> str:
    return f"{count / GIB:.2f} GiB"
