"""``argenzoo bench``: models, batches and precisions in one interleaved run, with the roofline beside them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import torch
from tqdm import tqdm

from argenzoo.benchmarking.cases import KINDS, Case, Subject
from argenzoo.benchmarking.machine import DTYPES, SIDE, Machine, measure
from argenzoo.benchmarking.peers import PeerRun, peer_of
from argenzoo.benchmarking.timing import interleaved, peak
from argenzoo.benchmarking.work import Counts, Work
from argenzoo.build import build_model
from argenzoo.device import checked_device
from argenzoo.errors import ArgenzooError, suggestion
from argenzoo.recipe import Recipe, parse_overrides
from argenzoo.versions import about
from argenzoo.weights import replace_text

RESULT = "bench.json"
Key = tuple[str, str]  # a model, and a variant of it
COLUMNS = ("what", "batch", "precision", "seconds", "spread", "pictures / s", "memory", "FLOPs", "bytes", "at least", "reached", "bound by")


@dataclass(frozen=True)
class Settings:
    """What is timed, and how often."""

    kinds: list[str] = field(default_factory=lambda: list(KINDS))
    batches: list[int] = field(default_factory=lambda: [1])
    precisions: list[str] = field(default_factory=lambda: ["fp32"])
    variants: list[str] = field(default_factory=list)
    rounds: int = 5
    device: str | None = None
    peer: Path | None = None
    out: Path | None = None
    overwrite: bool = False

    def check(self) -> None:
        """Raises ArgenzooError on what can't be timed."""
        for what, given, known in (("--kinds", self.kinds, KINDS), ("--precision", self.precisions, DTYPES)):
            wrong = next((one for one in given if one not in known), None)
            if wrong is not None or not given:
                raise ArgenzooError(f"{what}: unknown '{wrong}'{suggestion(str(wrong), known)}")
        if len(set(self.variants)) < len(self.variants) or not all(self.variants):
            raise ArgenzooError("--with takes one or more key=value, and no two alike: a model is timed without any too")
        if self.rounds < 1 or not self.batches or min(self.batches) < 1:
            raise ArgenzooError("--rounds and --batch must be at least 1")
        if self.out is not None and (self.out / RESULT).exists() and not self.overwrite:
            raise ArgenzooError(f"{self.out} holds a result: choose another --out, or --overwrite")


@dataclass(frozen=True)
class Row:
    """A case's figures. ``memory``: bytes above the models'."""

    case: Case
    seconds: list[float]
    memory: int | None
    work: Work


def bench(sources: Sequence[str], overrides: dict[str, Any], settings: Settings) -> str:
    """Time every source in every way; returns the table, and writes ``bench.json`` and ``bench.md`` into ``settings.out``.

    Args:
        sources: recipes (with random weights, which take as long), checkpoints.
        overrides: dotted keys of every recipe, or ``sampling`` ones.

    Raises:
        ArgenzooError: an unknown recipe or setting; a training step of a model without a train section; a result that is there.
    """
    settings.check()
    if len(set(sources)) < len(sources):
        raise ArgenzooError("a model is named twice")
    device = checked_device(settings.device)
    if device.type not in SIDE:
        raise ArgenzooError(f"--device {device}: only {' and '.join(SIDE)} can be timed")
    if device.type == "cuda":
        torch.cuda.set_device(device)  # Accelerate takes the current one
    keys = list(product(sources, ["", *settings.variants]))
    subjects = {key: Subject(key[0], build_model(key[0], {**overrides, **parse_overrides(key[1].split())}, device)) for key in keys}
    ready(subjects.values(), settings)
    if settings.out is not None:
        settings.out.mkdir(parents=True, exist_ok=True)  # now, and not after an hour
    choices = product(sources, settings.kinds, settings.batches, settings.precisions, ["", *settings.variants])
    cases = [Case(*choice) for choice in choices]
    machine = measure(device, settings.precisions)
    rows = timed(cases, subjects, machine, settings, device)
    text = "\n".join([table(rows, machine), *ratios(rows)])
    if settings.out is not None:
        facts = {
            "machine": machine.dump(),
            "rounds": settings.rounds,
            "overrides": overrides,
            "rows": [dump(row) for row in rows],
            **about(),
        }
        replace_text(settings.out / RESULT, json.dumps(facts, indent=1) + "\n")
        replace_text((settings.out / RESULT).with_suffix(".md"), text)
    return text


def ready(subjects: Iterable[Subject], settings: Settings) -> None:
    """Raises ArgenzooError where a model can't be timed so: now, and not after the models before it."""
    for subject in subjects:
        if "training" in settings.kinds:
            subject.check()
        if settings.peer is not None:
            peer = peer_of(settings.peer, recipe_of(subject), settings.kinds)
            if not set(peer.kinds) & set(settings.kinds):
                raise ArgenzooError(f"--peer has no effect: {peer.name}'s code is timed for --kinds {','.join(peer.kinds)} alone")


def timed(cases: Sequence[Case], subjects: dict[Key, Subject], machine: Machine, settings: Settings, device: torch.device) -> list[Row]:
    """A run that warms up, memory in one of its own, then all cases in turn, an author's right after ours."""
    counts = {key: Counts(recipe_of(subject)) for key, subject in subjects.items()}
    runs: dict[Case, Callable[[], object]] = {}
    memory: dict[Case, int | None] = {}
    total = len(cases) * (settings.rounds + 1)
    with ExitStack() as stack, tqdm(total=total, desc="timing", unit="run") as bar:
        for case in cases:
            subject = subjects[case.name, case.variant]
            recipe, runs[case] = recipe_of(subject), case.prepared(subject)
            runs[case]()  # what is made once, moments say, is not of a step
            memory[case] = peak(runs[case], device)
            bar.update()
            if settings.peer is not None and not case.variant and case.kind in peer_of(settings.peer, recipe).kinds:
                run = PeerRun(settings.peer, recipe, case.kind, case.batch, case.precision, device)
                stack.callback(run.close)
                runs[replace(case, peer=run.name)] = run
                run()
                total += settings.rounds
                bar.total = total
        seconds = interleaved(runs, settings.rounds, device, bar.update, warm=False)
    return [Row(case, seconds[case], memory.get(case), case.least(counts[case.name, case.variant], machine)) for case in runs]


def recipe_of(subject: Subject) -> Recipe:
    assert subject.model.recipe is not None
    return subject.model.recipe


def dump(row: Row) -> dict[str, Any]:
    return {**asdict(row.case), "seconds": row.seconds, "median": median(row.seconds), "memory": row.memory, "work": asdict(row.work)}


def table(rows: Sequence[Row], machine: Machine) -> str:
    """Markdown: the machine in a line, then a row a case."""
    rates = ", ".join(f"{rate / 1e9:,.0f} GFLOP/s in {precision}" for precision, rate in machine.rates.items())
    lines = [["model", *COLUMNS], ["---"] * (len(COLUMNS) + 1), *(cells(row) for row in rows)]
    body = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"{machine.hardware}: {machine.bandwidth / 1e9:,.1f} GB/s copied, {rates} (measured)\n\n{body}\n"


def ratios(rows: Sequence[Row]) -> list[str]:
    """A line for each of ours and what it is compared with, over the rounds: a variant with none, all with an author's code beside them."""
    lines = []
    for row in (row for row in rows if not row.case.peer):
        case = row.case
        plain = [other for other in rows if case.variant and other.case == replace(case, variant="")]
        peers = [other for other in rows if other.case.peer and replace(other.case, peer="") == replace(case, variant="")]
        what = [case.name, KINDS[case.kind].words, f"batch {case.batch}", case.precision, *filter(None, [case.variant])]
        for other in [*plain, *peers]:
            times = sorted(one / mine for one, mine in zip(other.seconds, row.seconds, strict=True))
            than = f"{other.case.peer}'s code" if other.case.peer else "without"
            lines.append(f"{', '.join(what)}: {median(times):.2f} times as fast as {than} ({times[0]:.2f} to {times[-1]:.2f})\n")
    return lines


def cells(row: Row) -> list[str]:
    """``at least``: what the machine's measured speeds allow; ``reached``: that over the median."""
    middle, case, work = median(row.seconds), row.case, row.work
    bound = f"bytes, {work.bytes_share:.0%}" if work.bytes_share > 0.5 else f"FLOPs, {1 - work.bytes_share:.0%}"
    return [
        case.name + (f", {case.variant}" if case.variant else "") + (f", {case.peer}'s code" if case.peer else ""),
        KINDS[case.kind].words,
        f"{case.batch}",
        case.precision,
        seconds(middle),
        f"{seconds(min(row.seconds))} to {seconds(max(row.seconds))}",
        f"{case.batch / middle:.3g}",
        "-" if row.memory is None else f"{row.memory / 2**20:,.0f} MiB",
        f"{work.flops:.2e}",
        f"{work.moved:.2e}",
        seconds(work.least),
        f"{work.least / middle:.0%}",
        bound,
    ]


def seconds(value: float) -> str:
    return f"{value:.2f} s" if value >= 1 else f"{1000 * value:.3g} ms"
