"""nn.Linear by the product that is quickest where it runs; and with its weights in another form while a model samples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from argenzoo.layers.dropout import Dropout

ONEDNN = torch.backends.mkldnn.is_available()  # asked once: a compiler can't
Form = Callable[[Tensor, Tensor | None], Tensor | None]  # (..., K) and a bias -> (..., N), of one Linear; None: not for this input


class Linear(nn.Linear):
    """The same parameters, file and mathematics as nn.Linear.

    Attributes:
        form: how the product is made while a model executes with other weights (``layers.execution``); None is ``linear``.
    """

    form: Form | None = None

    def forward(self, input: Tensor, bias: Tensor | None = None) -> Tensor:  # noqa: A002 (nn.Linear's)
        """``bias``: instead of its own."""
        bias = self.bias if bias is None else bias
        out = None if self.form is None or torch.is_grad_enabled() else self.form(input, bias)
        return linear(input, self.weight, bias) if out is None else out


def quick(module: nn.Module) -> None:
    """Every nn.Linear and nn.Dropout in it, timm's too, becomes ours; subclasses are left alone."""
    for part in module.modules():
        if type(part) in OURS:
            part.__class__ = OURS[type(part)]


OURS: dict[type[nn.Module], type[nn.Module]] = {nn.Linear: Linear, nn.Dropout: Dropout}


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """F.linear; on a CPU in float32 by oneDNN, which is quicker than the BLAS that torch takes, for few rows most of all."""
    if not takes(x, weight):
        return F.linear(x, weight, bias)
    if torch.is_grad_enabled() and any(part is not None and part.requires_grad for part in (x, weight, bias)):
        return OneDNN.apply(x, weight, bias)
    return product(x, weight, bias)


def takes(x: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN is there and this is for it."""
    return ONEDNN and fits(x) and weight.is_cpu and weight.dtype == torch.float32


def fits(x: Tensor) -> bool:
    """Whether these rows are for oneDNN."""
    return x.is_cpu and x.dtype == torch.float32 and x.dim() > 1 and x.numel() > 0 and not torch.is_autocast_enabled("cpu")


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x (..., K), weight (N, K) of any strides -> (..., N)."""
    return whole(x, weight, bias) if torch.compiler.is_compiling() else of_library(x, weight, bias)


def of_library(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


@torch.library.custom_op("argenzoo::product", mutates_args=(), device_types="cpu")
def whole(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``of_library`` as one operator, which a compiler does not look into: it knows oneDNN's with constant weights alone."""
    return of_library(x, weight, bias)


@whole.register_fake
def _shape(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty(*x.shape[:-1], len(weight))


def packed(weight: Tensor) -> Tensor:
    """A copy of (N, K) in the order in which oneDNN reads it: an opaque tensor, for ``of_library`` alone."""
    return torch.ops.mkldnn._reorder_linear_weight(weight.contiguous())


class OneDNN(torch.autograd.Function):
    """``product`` and its gradients; that of the weight is left to the BLAS, which is the quicker one there."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.biased = bias is not None
        return product(x, weight, bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        rows = gradient.flatten(0, -2)
        for_x = product(gradient, weight.t()) if ctx.needs_input_grad[0] else None
        for_weight = rows.t() @ x.flatten(0, -2) if ctx.needs_input_grad[1] else None
        return for_x, for_weight, rows.sum(0) if ctx.biased and ctx.needs_input_grad[2] else None
