"""In which form a network's weights are read while it samples: packed for the processor, in bfloat16, in 8-bit integers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from argenzoo.errors import ArgenzooError
from argenzoo.layers.linear import Form, Linear, fits, of_library, packed, takes
from argenzoo.layers.repeated import compiling
from argenzoo.registry import Config

PAIR = 2  # rows that a guided picture has in a step: of weights that no cache holds, oneDNN reads more a second for twice as many rows
LARGE = 2**19  # numbers of such weights (benchmarks/products.py)
FEW = 2  # rows for which the kernel for 8-bit integers is quicker than a product in bfloat16
BLOCK = 32  # a row's numbers come in whole ones, or the kernel for a CPU reads what lies behind them


class Execution(Config):
    """How the products of sampling are made. Of little use where a step reads weights for thousands of rows."""

    weights: Literal["fp32", "bf16", "int8"] = Field(
        "fp32", description="as they are read in every step: half, a quarter of the bytes; int8 needs torchao"
    )
    compile: bool = Field(False, description="blocks by torch.compile; raster needs order.static too")
    packed: bool = Field(True, description="on a CPU, held a second time in the order in which they are read; not with compile")


@contextmanager
def executing(network: nn.Module, execution: Execution) -> Iterator[None]:
    """Inside, every ``Linear`` of the network reads its weights in ``execution``'s form, made once here; they must not change meanwhile.

    Within another such context for the same network it does nothing: hold one around many calls.

    Raises:
        ArgenzooError: within a context of another form; int8 without torchao.
    """
    outer = getattr(network, "execution", None)
    if outer is not None:
        if outer != execution:
            raise ArgenzooError(f"this model executes with {outer} already, and can't with {execution} at the same time")
        yield
        return
    parts = [part for part in network.modules() if isinstance(part, Linear)]
    with compiling(network, execution.compile):
        pack = execution.packed and not execution.compile  # a compiler can't look at what is packed
        try:
            network.execution = execution  # type: ignore[assignment]
            for part in parts:
                part.form = FORMS[execution.weights](part.weight.detach(), pack)
            yield
        finally:
            network.execution = None  # type: ignore[assignment]
            for part in parts:
                part.form = None


def float32(weight: Tensor, pack: bool) -> Form | None:
    """Packed, which only a CPU's library knows; else as ever."""
    if not pack or not takes(weight, weight):
        return None
    ready = packed(weight)
    return lambda x, bias: by_packed(x, ready, bias) if fits(x) else None


def by_packed(x: Tensor, ready: Tensor, bias: Tensor | None) -> Tensor:
    """(..., K) by a packed weight -> (..., N)."""
    if x.numel() != PAIR * x.shape[-1] or ready.numel() < LARGE:
        return of_library(x, ready, bias)
    return of_library(torch.cat([x, x]), ready, bias)[: len(x)]


def bfloat16(weight: Tensor, pack: bool) -> Form:
    """Weights and inputs rounded to bfloat16; the sums come back in the input's type."""
    half = weight.to(torch.bfloat16)
    if not pack or not takes(weight, weight) or not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return lambda x, bias: plus(F.linear(x.to(torch.bfloat16), half).to(x.dtype), bias)
    ready = packed(half)
    return lambda x, bias: plus(by_packed(x.to(torch.bfloat16), ready, None).to(x.dtype), bias)


def int8(weight: Tensor, pack: bool) -> Form:
    """torchao's 8-bit integers with a scale a row of the weight; inputs in bfloat16. What does not fit the kernel is in bfloat16."""
    if weight.shape[1] % BLOCK:
        return bfloat16(weight, pack)
    quantized = quantize(weight)
    if weight.device.type != "cpu":
        return lambda x, bias: plus(F.linear(x.to(torch.bfloat16), quantized).to(x.dtype), bias)
    return Int8(quantized.qdata.contiguous(), quantized.scale.flatten().to(torch.bfloat16), pack)  # type: ignore[attr-defined]


class Int8:
    """On a CPU, where torchao itself would make a bfloat16 weight at every call: torch's kernel, which is the quicker one for few rows; for
    more the same rounded weights in bfloat16, made when they first come.

    Args:
        numbers, scales: (N, K) int8 and (N,) bfloat16.
    """

    def __init__(self, numbers: Tensor, scales: Tensor, pack: bool) -> None:
        self.numbers, self.scales, self.pack = numbers, scales, pack
        self._many: Form | None = None

    def __call__(self, x: Tensor, bias: Tensor | None) -> Tensor | None:
        if x.numel() > FEW * x.shape[-1]:
            return self._for_many()(x, bias)
        out = torch._weight_int8pack_mm(x.flatten(0, -2).to(torch.bfloat16), self.numbers, self.scales)
        return plus(out.view(*x.shape[:-1], len(self.numbers)).to(x.dtype), bias)

    def _for_many(self) -> Form:
        if self._many is None:
            self._many = bfloat16(self.numbers * self.scales.float()[:, None], self.pack)
        return self._many


def plus(x: Tensor, bias: Tensor | None) -> Tensor:
    """A bias is not rounded."""
    return x if bias is None else x + bias


def quantize(weight: Tensor) -> Tensor:
    """torchao's tensor of ``weight`` (N, K) in bfloat16. Raises ArgenzooError where torchao is not installed."""
    try:
        from torchao.quantization import Int8WeightOnlyConfig, quantize_
    except ImportError:
        raise ArgenzooError("execution.weights=int8 needs torchao: pip install 'argenzoo[int8]'") from None
    holder = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    holder.weight = nn.Parameter(weight.to(torch.bfloat16), requires_grad=False)
    quantize_(holder, Int8WeightOnlyConfig(set_inductor_config=False))
    return holder.weight


FORMS: dict[str, Callable[[Tensor, bool], Form | None]] = {"fp32": float32, "bf16": bfloat16, "int8": int8}
