"""Our sampling and training against the authors' loops said again in plain PyTorch (benchmarks/restated), in one interleaved run.

python benchmarks/speed.py llamagen --batch 1,8 --with "" --with execution.weights=bf16 --with execution.weights=int8
python benchmarks/speed.py var --batch 1,4 --with "" --with execution.weights=bf16
python benchmarks/speed.py mar --batch 1,4 --with ""
python benchmarks/speed.py mar --steps 64 --with "order.num_steps=16 head.solver=dpm head.num_steps=20"
python benchmarks/speed.py cifar10_mar mar_b --training --batch 64 --with "" --with train.compile=true

Weights are random; both sides have the same. Every loop runs in a process of its own, theirs as any script does, ours as our command sets
its process up. A ratio is that of the two seconds of one round; the table has its median, least and most.
"""

from __future__ import annotations

import argparse
import multiprocessing
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
from argenzoo.device import keep_memory
from argenzoo.model import ARModel, evaluating
from argenzoo.recipe import load_recipe
from argenzoo.rng import Rng

CPU = torch.device("cpu")
Make = Callable[[], Callable[[], Any]]


@dataclass(frozen=True)
class Family:
    """``recipe`` and ``sampling``: what is timed under this name; ``theirs``: the loop said again; ``decoded``: whether it decodes."""

    theirs: Any
    recipe: str
    sampling: dict[str, Any]
    decoded: bool = False

    def model(self) -> ARModel:
        return seeded(self.recipe, self.keys(""))

    def keys(self, text: str) -> dict[str, Any]:
        """Of the recipe, with a variant's."""
        return {f"sampling.{key}": value for key, value in {**self.sampling, **pairs(text)}.items()}


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
        "--with",
        dest="variants",
        action="append",
        default=[],
        metavar="KEY=VALUE ...",
        help="ours, with these keys: of sampling, or of the recipe",
    )
    parser.add_argument("--steps", type=int, help="MAR: the author's loop with so many steps of the order")
    parser.add_argument("--kept", action="store_true", help="give theirs the allocator that our command sets up, too")
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
            rows(what, batch, arguments, machine)


def rows(what: str, batch: int, arguments: argparse.Namespace, machine: Any) -> None:
    """One a variant, all of one run."""
    variants = arguments.variants or [""]
    if arguments.training:
        recipe, least = what, work.training
        makes: list[Make] = [partial(their_step, what, batch), *(partial(our_step, what, batch, text) for text in variants)]
    else:
        family = FAMILIES[what]
        recipe, least = family.recipe, work.decoded if family.decoded else work.sampling
        makes = [partial(their_sampling, what, batch, arguments.steps), *(partial(our_sampling, what, batch, text) for text in variants)]
    runs = {text: Apart(make, arguments.kept or text is not None) for text, make in zip([None, *variants], makes, strict=True)}
    seconds = interleaved(runs, arguments.rounds, CPU, warm=not arguments.cold)
    for text in variants:
        bound = least(work.Counts(load_recipe(recipe, keys(what, text, arguments.training))), batch, "fp32", machine).least
        row(recipe, batch, seconds[None], text or "as it is", seconds[text], equal(runs[None].made, runs[text].made), bound)
    for run in runs.values():
        run.close()


class Apart:
    """A loop in a process of its own; every call is one run. ``made``: what the last one returned."""

    def __init__(self, make: Make, kept: bool) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, other = context.Pipe()
        self.process = context.Process(target=serve, args=(other, make, kept), daemon=True)
        self.process.start()
        self.made = self.pipe.recv()

    def __call__(self) -> None:
        self.pipe.send(True)
        self.made = self.pipe.recv()

    def close(self) -> None:
        self.pipe.send(False)
        self.process.join()


def serve(pipe: Any, make: Make, kept: bool) -> None:
    if kept:
        keep_memory()
    run = make()
    pipe.send(None)
    while pipe.recv():
        made = run()
        pipe.send(made.numpy() if isinstance(made, torch.Tensor) else None)


def their_sampling(what: str, batch: int, steps: int | None) -> Callable[[], Any]:
    family, labels = FAMILIES[what], class_labels(batch)
    model = family.model()
    options = model.sampling if steps is None else model.sampling.override({"order.num_steps": steps})
    run = family.theirs.pictures if family.decoded else family.theirs.tokens
    return lambda: run(model, labels, Rng(0, range(batch)), options)


def our_sampling(what: str, batch: int, text: str) -> Callable[[], Any]:
    family, labels = FAMILIES[what], class_labels(batch)
    model = family.model()
    options = model.sampling.override(pairs(text))

    def run() -> torch.Tensor:
        with evaluating(model), torch.inference_mode():
            tokens = model.sample_tokens(labels, Rng(0, range(batch)), options)
            return ((model.tokenizer.decode(tokens) + 1) / 2).clamp(0, 1) if family.decoded else tokens

    return run


def our_step(name: str, batch: int, text: str) -> Callable[[], Any]:
    """A training step of a recipe; the value is none that can be compared."""
    step = training(Subject(name, seeded(name, pairs(text))), batch, "fp32")
    return lambda: step() and None


def their_step(name: str, batch: int) -> Callable[[], Any]:
    """Forward, backward, clipping, AdamW (fused where their script has it so), averages parameter by parameter."""
    model = seeded(name)
    theirs, config = GENERATORS[model.recipe.generator.name], model.recipe.train
    model.network.train()
    averages = deepcopy(model.network)
    rates = {"lr": config.lr, "betas": config.betas, "weight_decay": config.weight_decay}
    optimizer = torch.optim.AdamW(model.network.parameters(), **rates, fused=theirs is not mar)
    tokens, labels = some_tokens(model, batch), torch.arange(batch) % model.conditioner.config.num_classes
    extra = (model.tokenizer.context(tokens),) if theirs is var else ()

    def run() -> None:
        loss = theirs.loss(model, tokens, labels, Rng(0, range(batch), "train"), *extra)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.network.parameters(), config.clip or 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if config.ema is not None:
            with torch.no_grad():
                for average, parameter in zip(averages.parameters(), model.network.parameters(), strict=True):
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


def keys(what: str, text: str, training: bool) -> dict[str, Any]:
    """What a variant changes in the recipe."""
    return pairs(text) if training else FAMILIES[what].keys(text)


def class_labels(batch: int) -> torch.Tensor:
    return torch.arange(batch) * 7


def pairs(text: str) -> dict[str, Any]:
    return {key: yaml.safe_load(value) for key, _, value in (pair.partition("=") for pair in text.split())}


def equal(theirs: Any, mine: Any) -> str:
    """The share of numbers that are: ids alike, others within 0.001."""
    if theirs is None:
        return "-"
    same = abs(mine - theirs) < 1e-3 if mine.dtype.kind == "f" else mine == theirs
    return f"{same.mean():.1%}"


def row(what: str, batch: int, theirs: list[float], variant: str, mine: list[float], same: str, least: float) -> None:
    ratios = sorted(a / b for a, b in zip(theirs, mine, strict=True))
    middle = median(mine)
    times = f"{median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
    cells = [what, batch, f"{median(theirs):.2f} s", variant, f"{middle:.2f} s", times, same, f"{least:.2f} s", f"{least / middle:.0%}"]
    print(f"| {' | '.join(map(str, cells))} |", flush=True)


if __name__ == "__main__":
    main()
