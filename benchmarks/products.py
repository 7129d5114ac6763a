"""How quickly packed weights are read by products of few rows: all of LlamaGen-B's Linears, interleaved.

python benchmarks/products.py --rows 1,2,3,4,6,8,16 --rounds 15

A guided picture makes two rows a step, which `layers/execution.py` makes four of.
"""

from __future__ import annotations

import argparse
from functools import partial
from statistics import median

import torch
from torch import Tensor

from argenzoo.benchmarking.timing import interleaved
from argenzoo.device import keep_memory
from argenzoo.layers.execution import by_packed
from argenzoo.layers.linear import of_library, packed

SHAPES = [(2304, 768), (768, 768), (2048, 768), (2048, 768), (768, 2048)] * 12 + [(16384, 768)]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="1,2,3,4,6,8,16")
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    keep_memory()
    print("| weights | rows | ms | GB/s | times as fast as 2 rows |\n|---|---|---|---|---|")
    for name, dtype in DTYPES.items():
        weights = [packed(torch.randn(shape, dtype=dtype)) for shape in SHAPES]
        runs = {rows: partial(products, weights, rows, dtype, False) for rows in sorted({2, *map(int, arguments.rows.split(","))})}
        runs |= {"2, as 4": partial(products, weights, 2, dtype, True)}  # type: ignore[dict-item]
        seconds = interleaved(runs, arguments.rounds, torch.device("cpu"))
        for rows, spent in seconds.items():
            ratios = sorted(two / own for two, own in zip(seconds[2], spent, strict=True))
            speed = sum(n * k for n, k in SHAPES) * dtype.itemsize / median(spent) / 1e9
            shown = f"{median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
            print(f"| {name} | {rows} | {1000 * median(spent):.1f} | {speed:.1f} | {shown} |")


@torch.inference_mode()
def products(weights: list[Tensor], rows: int, dtype: torch.dtype, ours: bool) -> None:
    inputs = {k: torch.randn(rows, k, dtype=dtype) for _, k in SHAPES}
    product = by_packed if ours else of_library
    for (_, k), weight in zip(SHAPES, weights, strict=True):
        product(inputs[k], weight, None)


if __name__ == "__main__":
    main()
