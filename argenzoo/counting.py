"""FLOPs and kept activations of a computation on the meta device: nothing is computed, no memory is used."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode


class Attention(torch.autograd.Function):
    """Stands for a fused attention kernel: it keeps q, k, v and the output for the backward pass, never the N x N weights."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = q.new_empty(*q.shape[:-1], v.shape[-1])
        ctx.save_for_backward(q, k, v, out)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.empty_like(saved) for saved in ctx.saved_tensors[:3])


PRODUCTS = (F.linear, F.conv2d)  # that read a weight


class CountAttention(TorchFunctionMode):
    """Counts attention as two matrix products over all pairs (a causal kernel may do half of it), and what it and the products read."""

    flops = weights = attended = 0

    def __torch_function__(self, function: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if function in PRODUCTS:
            self.weights += args[1].numel()
        if function is not F.scaled_dot_product_attention:
            return function(*args, **(kwargs or {}))
        q, k, v = args[:3]
        self.flops += 2 * q.shape[:-1].numel() * k.shape[-2] * (q.shape[-1] + v.shape[-1])
        self.attended += k.numel() + v.numel()
        return Attention.apply(q, k, v)


class Count:
    """What was counted: ``flops`` (a multiplication and an addition are two), ``kept`` bytes of activations for the backward pass,
    numbers of ``weights`` that products read, and of keys and values that were ``attended`` to."""

    def __init__(self) -> None:
        self.flops, self.kept, self.weights, self.attended = 0, 0, 0, 0
        self._storages: dict[int, Any] = {}

    def keep(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self._storages:
            self._storages[storage._cdata] = storage
            self.kept += storage.nbytes()
        return tensor


@contextmanager
def counting(*modules: nn.Module) -> Iterator[Count]:
    """Counts what is done inside with modules on the meta device; their parameters are no activations."""
    count = Count()
    for tensor in (tensor for module in modules for tensor in (*module.parameters(), *module.buffers())):
        count._storages[tensor.untyped_storage()._cdata] = tensor
    attention, products = CountAttention(), FlopCounterMode(display=False)
    with attention, products, torch.autograd.graph.saved_tensors_hooks(count.keep, lambda tensor: tensor):
        yield count
    count.flops, count.weights, count.attended = attention.flops + products.get_total_flops(), attention.weights, attention.attended
