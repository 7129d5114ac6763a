"""Training attention of next-scale prediction: how to see one's own scale and the coarser ones. Forward and backward pass, interleaved.

python benchmarks/attention.py --batch 64 --heads 5 --head-dim 32 --scales 1,2,3,4,6,8
python benchmarks/attention.py --batch 1 --heads 16 --head-dim 64 --scales 1,2,3,4,5,6,8,10,13,16 --device cuda --precision bf16

mask: SDPA with a boolean mask; additive: with one of 0 and -inf, made once; scale by scale: SDPA without a mask, one a scale; last 2 alone:
the first scales under a mask in one, each of the last two in one of its own without (what VAR does here, layers/block_causal.py);
flex: torch's FlexAttention with a block mask, compiled, which has no backward pass on a CPU.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from argenzoo.benchmarking.timing import interleaved
from argenzoo.device import keep_memory
from argenzoo.layers.block_causal import BlockCausal

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
Way = Callable[[Tensor, Tensor, Tensor], Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--heads", type=int, default=5)
    parser.add_argument("--head-dim", type=int, default=32)
    parser.add_argument("--scales", default="1,2,3,4,6,8")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="fp32", choices=DTYPES)
    arguments = parser.parse_args()
    keep_memory()
    device, sizes = torch.device(arguments.device), [int(side) ** 2 for side in arguments.scales.split(",")]
    shape = (3, arguments.batch, arguments.heads, sum(sizes), arguments.head_dim)
    qkv = torch.randn(shape, device=device, dtype=DTYPES[arguments.precision])
    ways = {name: way for name, way in all_ways(sizes, qkv).items() if name != "flex" or device.type == "cuda"}
    expected = passes(ways["mask"], qkv)
    for name, way in ways.items():
        torch.testing.assert_close(passes(way, qkv), expected, rtol=2e-2, atol=1e-3, msg=f"{name} is not the same")
    seconds = interleaved({name: partial(passes, way, qkv) for name, way in ways.items()}, arguments.rounds, device)
    print("| attention | ms | times as fast as mask |\n|---|---|---|")
    for name, spent in seconds.items():
        ratios = sorted(a / b for a, b in zip(seconds["mask"], spent, strict=True))
        print(f"| {name} | {1000 * median(spent):.1f} | {median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}) |")


def all_ways(sizes: list[int], qkv: Tensor) -> dict[str, Way]:
    device = qkv.device
    levels = torch.arange(len(sizes), device=device).repeat_interleave(torch.tensor(sizes, device=device))
    mask = levels[:, None] >= levels
    additive = qkv.new_zeros(mask.shape).masked_fill(~mask, -torch.inf)
    flex = torch.compile(flex_attention)
    blocks = None

    def flexible(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        nonlocal blocks
        if blocks is None:
            count = len(levels)
            blocks = create_block_mask(lambda b, h, i, j: levels[i] >= levels[j], None, None, count, count, device=str(device))
        return flex(q, k, v, block_mask=blocks)

    return {
        "mask": lambda q, k, v: F.scaled_dot_product_attention(q, k, v, attn_mask=mask),
        "additive": lambda q, k, v: F.scaled_dot_product_attention(q, k, v, attn_mask=additive),
        "scale by scale": partial(by_scale, sizes),
        **{f"last {alone} alone": partial(last_alone, sizes, mask, alone) for alone in (1, 2, 3)},
        "flex": flexible,
    }


def by_scale(sizes: list[int], q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    ends = torch.tensor(sizes).cumsum(0).tolist()
    parts = q.split(sizes, dim=2)
    return torch.cat(
        [F.scaled_dot_product_attention(part, k[:, :, :end], v[:, :, :end]) for part, end in zip(parts, ends, strict=True)], dim=2
    )


def last_alone(sizes: list[int], mask: Tensor, alone: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    first = sum(sizes[:-alone])
    return BlockCausal((first, *sizes[-alone:]), mask[:first, :first]).attend(q, k, v, 0.0, None)


def passes(way: Way, qkv: Tensor) -> tuple[Tensor, Tensor]:
    """(what comes out, the gradients)."""
    leaf = qkv.clone().requires_grad_()
    out = way(*leaf)
    out.backward(torch.ones_like(out))
    assert leaf.grad is not None
    return out.detach(), leaf.grad


if __name__ == "__main__":
    main()
