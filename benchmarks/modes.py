"""What torch.inference_mode gains over torch.no_grad in sampling: the same model in both, interleaved.

python benchmarks/modes.py cifar10_raster cifar10_mar llamagen_b_256 --rounds 9
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from contextlib import AbstractContextManager
from statistics import median
from unittest.mock import patch

import torch

from argenzoo import build_model
from argenzoo.benchmarking.cases import conditions
from argenzoo.benchmarking.timing import interleaved
from argenzoo.device import keep_memory
from argenzoo.model import ARModel
from argenzoo.rng import Rng

MODES: dict[str, Callable[[], AbstractContextManager[object]]] = {"no_grad": torch.no_grad, "inference_mode": torch.inference_mode}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="+")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--guidance", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    keep_memory()
    print("| sampling | no_grad | inference_mode | times as fast |\n|---|---|---|---|")
    for name in arguments.recipes:
        model = build_model(name).eval()
        runs = {mode: sampling(model, mode, arguments.batch, arguments.guidance) for mode in MODES}
        with model.executing():
            seconds = interleaved(runs, arguments.rounds, torch.device("cpu"))
        ratios = sorted(a / b for a, b in zip(seconds["no_grad"], seconds["inference_mode"], strict=True))
        shown = " | ".join(f"{1000 * median(spent):.0f} ms" for spent in seconds.values())
        print(f"| {name} | {shown} | {median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}) |", flush=True)


def sampling(model: ARModel, mode: str, batch: int, guidance: float) -> Callable[[], object]:
    condition = conditions(model, batch)

    def run() -> object:
        with patch("argenzoo.model.only_sampling", lambda device: MODES[mode]()):
            return model.sample_tokens(condition, Rng(0, range(batch)), model.sampling, guidance)

    return run


if __name__ == "__main__":
    main()
