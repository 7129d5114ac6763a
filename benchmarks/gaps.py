"""What the time of sampling, or of a training step, is made of, beside the least that its products could take.

python benchmarks/gaps.py llamagen var mar
python benchmarks/gaps.py cifar10_raster cifar10_var cifar10_mar --training --batch 64

Shares are the profiler's; "outside" is what the clock counts and no operator: Python, and the profiler itself, so that it is less without
one where operators are small.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter

import torch
from speed import FAMILIES, keys, our_sampling, our_step
from torch.profiler import ProfilerActivity, profile, schedule

from argenzoo.benchmarking import work
from argenzoo.benchmarking.machine import measure
from argenzoo.device import keep_memory
from argenzoo.recipe import load_recipe

CPU = torch.device("cpu")
KINDS = {  # the first part of an operator's name that is found
    "convolutions": ("convolution",),
    "attention": ("attention",),
    "products": ("linear_pointwise", "mkldnn_linear", "mm", "int8pack", "mkl_linear"),
    "moving": ("copy_", "cat", "index", "gather", "scatter", "embedding", "fill_", "stack", "clone"),
    "drawing": ("bernoulli", "normal_", "random", "uniform", "searchsorted", "cumsum", "topk", "sort"),
    "norms": ("norm",),
}
WARM = 2
OTHER, OUTSIDE = "element-wise and others", "outside"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="+", help=f"sampling: {', '.join(FAMILIES)}; with --training: recipes")
    parser.add_argument("--training", action="store_true")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--with", dest="variant", default="", metavar="KEY=VALUE ...")
    arguments = parser.parse_args()
    keep_memory()
    machine = measure(CPU, ["fp32"])
    columns = [*KINDS, OTHER, OUTSIDE]
    print(f"| what | seconds | at least | {' | '.join(columns)} |\n|{'---|' * (len(columns) + 3)}")
    for what in arguments.what:
        if arguments.training:
            run, recipe, least = our_step(what, arguments.batch, arguments.variant), what, work.training
        else:
            family = FAMILIES[what]
            run, recipe = our_sampling(what, arguments.batch, arguments.variant), family.recipe
            least = work.decoded if family.decoded else work.sampling
        seconds, parts = taken(run)
        counts = work.Counts(load_recipe(recipe, keys(what, arguments.variant, arguments.training)))
        bound = least(counts, arguments.batch, "fp32", machine).least
        shares = " | ".join(f"{parts[column] / sum(parts.values()):.0%}" for column in columns)
        print(f"| {what} | {seconds:.2f} | {bound:.2f} | {shares} |", flush=True)


def taken(run: object) -> tuple[float, Counter[str]]:
    """(seconds without the profiler, seconds of each kind with it); runs before them warm up: memory is taken in the first ones, and again
    in the profiler's first."""
    assert callable(run)
    for _ in range(WARM):
        run()
    began = time.perf_counter()
    run()
    plain = time.perf_counter() - began
    with profile(activities=[ProfilerActivity.CPU], schedule=schedule(wait=0, warmup=WARM, active=1)) as profiler:
        for _ in range(WARM):
            run()
            profiler.step()
        began = time.perf_counter()
        run()
        spent = time.perf_counter() - began
    parts: Counter[str] = Counter()
    for event in profiler.key_averages():
        if not event.key.startswith("ProfilerStep"):  # whose own time is that of no operator
            parts[kind(event.key)] += event.self_cpu_time_total / 1e6
    parts[OUTSIDE] = max(0.0, spent - sum(parts.values()))
    return plain, parts


def kind(name: str) -> str:
    return next((kind for kind, marks in KINDS.items() if any(mark in name for mark in marks)), OTHER)


if __name__ == "__main__":
    main()
