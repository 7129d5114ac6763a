"""Our sampling and training against the authors' loops said again in plain PyTorch (benchmarks/restated), in one interleaved run.

python benchmarks/speed.py llamagen --batch 1,8 --with "" --with execution.weights=bf16 --with execution.weights=int8
python benchmarks/speed.py var --batch 1,4 --with "" --with execution.weights=bf16
python benchmarks/speed.py mar --batch 1,4 --with ""
python benchmarks/speed.py mar --steps 64 --with "order.num_steps=16 head.solver=dpm head.num_steps=20"
python benchmarks/speed.py cifar10_mar mar_b --training --batch 64

Weights are random; both sides have the same. A ratio is that of the two seconds of one round; the table has its median, least and most.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import torch
import yaml
from restated import llamagen, mar, var

from argenzoo import build_model
from argenzoo.benchmarking import work
from argenzoo.benchmarking.cases import Subject, some_tokens, training
from argenzoo.benchmarking.machine import measure
from argenzoo.benchmarking.timing import interleaved
from argenzoo.model import ARModel, evaluating
from argenzoo.rng import Rng

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Family:
    """``recipe`` and ``sampling``: what is timed under this name; ``theirs``: the loop said again; ``decoded``: whether it decodes."""

    theirs: Any
    recipe: str
    sampling: dict[str, Any]
    decoded: bool = False


FAMILIES = {
    "llamagen": Family(llamagen, "llamagen_b_256", {"guidance": 2.0, "ramp": "constant", "head.top_k": None, "head.top_p": None}),
    "var": Family(var, "var_d16", {"guidance": 2.5}, decoded=True),
    "mar": Family(mar, "mar_b", {"guidance": 2.9, "order.num_steps": 16, "head.num_steps": 100}),
}
GENERATORS = {"raster": llamagen, "var": var, "mar": mar}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="+", help=f"sampling: {', '.join(FAMILIES)}; with --training: recipes")
    parser.add_argument("--training", action="store_true", help="optimizer steps instead of sampling")
    parser.add_argument("--batch", default="1", help="e.g. 1,8")
    parser.add_argument(
        "--with", dest="variants", action="append", default=[], metavar="KEY=VALUE ...", help="ours, with these sampling keys"
    )
    parser.add_argument("--steps", type=int, help="MAR: the author's loop with so many steps of the order")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cold", action="store_true", help="no warm-up: for runs of minutes")
    arguments = parser.parse_args()
    machine = measure(CPU, ["fp32"])
    copied, rate = machine.bandwidth / 1e9, machine.rates["fp32"] / 1e9
    print(f"{machine.hardware}: {copied:.1f} GB/s copied, {rate:.0f} GFLOP/s, {arguments.rounds} rounds\n")
    columns = ["what", "batch", "theirs", "ours, with", "seconds", "times as fast", "equal", "at least", "reached"]
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for what in arguments.what:
        for batch in map(int, arguments.batch.split(",")):
            if arguments.training:
                steps(what, batch, arguments.rounds, machine)
            else:
                sampling(FAMILIES[what], batch, arguments, machine)


def sampling(family: Family, batch: int, arguments: argparse.Namespace, machine: Any) -> None:
    """A row a variant, all of one run."""
    model = seeded(family.recipe, {f"sampling.{key}": value for key, value in family.sampling.items()})
    labels = torch.arange(batch) * 7
    base = model.sampling
    theirs = base if arguments.steps is None else base.override({"order.num_steps": arguments.steps})
    run = family.theirs.pictures if family.decoded else family.theirs.tokens
    runs: dict[str, Callable[[], Any]] = {"theirs": lambda: run(model, labels, Rng(0, range(batch)), theirs)}
    options = {text: base.override(pairs(text)) for text in arguments.variants or [""]}
    for text, chosen in options.items():
        runs[text] = partial(ours, model, labels, chosen, family.decoded)
    made: dict[str, torch.Tensor] = {}
    seconds = interleaved({key: partial(kept, made, key, run) for key, run in runs.items()}, arguments.rounds, CPU, warm=not arguments.cold)
    least = (work.decoded if family.decoded else work.sampling)(work.Counts(model.recipe), batch, "fp32", machine).least
    for text in options:
        same = (made[text] - made["theirs"]).abs() < 1e-3 if made[text].is_floating_point() else made[text] == made["theirs"]
        row(family.recipe, batch, seconds["theirs"], text or "as it is", seconds[text], f"{same.float().mean():.1%}", least)


def kept(made: dict[str, torch.Tensor], key: str, run: Callable[[], Any]) -> None:
    made[key] = run()


def ours(model: ARModel, labels: torch.Tensor, options: Any, decoded: bool) -> torch.Tensor:
    with evaluating(model), torch.no_grad():
        tokens = model.sample_tokens(labels, Rng(0, range(len(labels))), options)
        return ((model.tokenizer.decode(tokens) + 1) / 2).clamp(0, 1) if decoded else tokens


def steps(name: str, batch: int, rounds: int, machine: Any) -> None:
    """A training step of a recipe."""
    model = seeded(name)
    theirs = GENERATORS[model.recipe.generator.name]
    runs = {"theirs": their_step(theirs, model, batch), "ours": training(Subject(name, model), batch, "fp32")}
    seconds = interleaved(runs, rounds, CPU)
    least = work.training(work.Counts(model.recipe), batch, "fp32", machine).least
    row(name, batch, seconds["theirs"], "training step", seconds["ours"], "-", least)


def their_step(theirs: Any, model: ARModel, batch: int) -> Callable[[], Any]:
    """Forward, backward, clipping, AdamW as torch has it by default, averages parameter by parameter."""
    config = model.recipe.train
    own = ARModel(model.tokenizer, deepcopy(model.network), model.sampling, model.recipe)
    own.network.train()
    averages = deepcopy(own.network)
    optimizer = torch.optim.AdamW(own.network.parameters(), lr=config.lr, betas=config.betas, weight_decay=config.weight_decay)
    tokens, labels = some_tokens(model, batch), torch.arange(batch) % model.conditioner.config.num_classes
    extra = (model.tokenizer.context(tokens),) if theirs is var else ()

    def run() -> None:
        loss = theirs.loss(own, tokens, labels, Rng(0, range(batch), "train"), *extra)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(own.network.parameters(), config.clip or 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if config.ema is not None:
            with torch.no_grad():
                for average, parameter in zip(averages.parameters(), own.network.parameters(), strict=True):
                    average.mul_(config.ema).add_(parameter, alpha=1 - config.ema)

    return run


def seeded(name: str, overrides: dict[str, Any] | None = None) -> ARModel:
    """Random weights, none of them at zero: a head that starts at zero would decide nothing."""
    torch.manual_seed(0)
    model = build_model(name, overrides)
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                parameter.normal_(std=0.02)
    return model


def pairs(text: str) -> dict[str, Any]:
    return {key: yaml.safe_load(value) for key, _, value in (pair.partition("=") for pair in text.split())}


def row(what: str, batch: int, theirs: list[float], variant: str, mine: list[float], same: str, least: float) -> None:
    ratios = sorted(a / b for a, b in zip(theirs, mine, strict=True))
    middle = median(mine)
    times = f"{median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
    cells = [what, batch, f"{median(theirs):.2f} s", variant, f"{middle:.2f} s", times, same, f"{least:.2f} s", f"{least / middle:.0%}"]
    print(f"| {' | '.join(map(str, cells))} |", flush=True)


if __name__ == "__main__":
    main()
