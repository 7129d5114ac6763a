"""What is done to every block of a network alike, whatever network it is: recomputing it in the backward pass, compiling it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from argenzoo.errors import ArgenzooError

SHAPES = 64  # of one block, compiled each; VAR has ten
BACKEND = "inductor"
ON_CPU = {"fallback_random": True}  # dropout's draws by torch, which is quicker at them there than compiled code


def blocks_of(module: nn.Module) -> Iterator[nn.Module]:
    """The members of its lists of modules, not what is inside them."""
    for child in module.children():
        yield from child if isinstance(child, nn.ModuleList) else blocks_of(child)


def checkpointed(module: nn.Module) -> None:
    """Keep of every block its input alone, and do its forward pass again in the backward pass (arXiv 1604.06174).

    Raises:
        ArgenzooError: a module without blocks.
    """
    for block in some_blocks(module, "train.checkpointing"):
        block.forward = partial(_recomputed, block, block.forward)


def compiled(module: nn.Module) -> None:
    """``torch.compile`` every block, at its first call: as many alike are compiled once. Raises as ``checkpointed``.

    Torch's limit of compilations is raised for the whole process: VAR's blocks differ in drop_path, and behind it they would run plainly.
    """
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, SHAPES)
    options = None if next(module.parameters()).is_cuda else ON_CPU
    for block in some_blocks(module, "train.compile"):
        block.compile(backend=BACKEND, options=options)


@contextmanager
def compiling(module: nn.Module, wanted: bool) -> Iterator[None]:
    """Inside, every block runs compiled, or plainly, whatever it does outside; a shape is compiled when it first comes.

    Without CUDA graphs: they take what a block writes into a cache for its output, and give the memory away before the next step.

    Raises:
        ArgenzooError: it is wanted for a module without blocks.
    """
    blocks = some_blocks(module, "execution.compile") if wanted else list(blocks_of(module))
    before = [block._compiled_call_impl for block in blocks]
    with torch._dynamo.config.patch(recompile_limit=SHAPES) if wanted else nullcontext():
        try:
            for block in blocks:
                block._compiled_call_impl = None
                if wanted:
                    block.compile(backend=BACKEND)
            yield
        finally:
            for block, call in zip(blocks, before, strict=True):
                block._compiled_call_impl = call


def some_blocks(module: nn.Module, setting: str) -> list[nn.Module]:
    found = list(blocks_of(module))
    if not found:
        raise ArgenzooError(f"{setting} has no effect: this model has no list of blocks")
    return found


def _recomputed(block: nn.Module, forward: Any, *inputs: Any, **named: Any) -> Any:
    if block.training and torch.is_grad_enabled():
        return checkpoint(forward, *inputs, use_reentrant=False, **named)
    return forward(*inputs, **named)
