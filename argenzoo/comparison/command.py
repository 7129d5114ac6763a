"""``argenzoo compare``, ``sweep`` and ``scaling``: three kinds of study, one way to run and to report them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from argenzoo.comparison import cells, scaling, sweeping
from argenzoo.comparison.cells import Outcome
from argenzoo.comparison.report import write_report
from argenzoo.comparison.sections import Section
from argenzoo.comparison.study import Study, load_study, study_path
from argenzoo.device import is_main, together
from argenzoo.errors import ArgenzooError
from argenzoo.evaluation.settings import Settings
from argenzoo.weights import read_json, replace_text

STUDY = "study.json"
Say = Callable[[str], object]


def compare(
    sources: Sequence[str], out: str | Path, overrides: dict[str, Any], budget: dict[str, Any], measure: dict[str, Any],
    settings: Settings, say: Say, shared: str | Path | None = None,
) -> str:  # fmt: skip
    """Train what is missing, sample and measure everything, write the report to ``out``; returns its Markdown.

    Args:
        sources: one study's name or file, or recipes and checkpoints.
        overrides: dotted keys of every recipe.
        budget: ``steps``, ``seconds`` or ``flops`` of each training.
        measure: fields of ``argenzoo.comparison.study.Measure``.
        settings: inception, cache, device, overwrite.
        shared: folder of token caches, trainings and samples, for several studies (default: ``out``): the same settings are done once.

    Raises:
        ArgenzooError: as ``load_study``, ``train`` and ``evaluate`` do; a folder that holds another study.
    """
    return run(load_study(sources, overrides, budget, measure), Path(out), settings, say, shared)


def sweep(
    checkpoint: str, out: str | Path, values: dict[str, list[Any]], overrides: dict[str, Any], measure: dict[str, Any],
    settings: Settings, say: Say,
) -> str:  # fmt: skip
    """Sample a checkpoint with every combination of ``values``; as ``compare`` otherwise."""
    return run(sweeping.study_of(checkpoint, values, overrides, measure), Path(out), settings, say)


def scale(
    source: str, out: str | Path, ladder: dict[str, list[Any]], overrides: dict[str, Any], budget: dict[str, Any], measure: dict[str, Any],
    settings: Settings, say: Say, shared: str | Path | None = None,
) -> str:  # fmt: skip
    """Train a ladder of sizes and fit scaling laws. ``source``: a study, or a recipe with a ``ladder``. Else as ``compare``."""
    if study_path(source) is None:
        if not ladder:
            raise ArgenzooError(f"'{source}' is one size: give a ladder, such as generator.dim=64,96,128 generator.depth=2,3,4")
        rest = {"overrides": overrides, "budget": budget, "measure": measure}
        study = scaling.ladder_of(f"Scaling of {source}", source, ladder, rest)
    elif ladder:
        raise ArgenzooError(f"study '{source}' has its own sizes: leave out {next(iter(ladder))}")
    else:
        study = scaling.checked_ladder(load_study([source], overrides, budget, measure))
    folder = Path(out)

    def fits(outcomes: Sequence[Outcome]) -> list[Section]:
        found = scaling.laws(outcomes)
        replace_text(folder / "scaling.json", json.dumps(scaling.dump(found), indent=1, allow_nan=False) + "\n")
        return [scaling.section(found)]

    return run(study, folder, settings, say, shared, fits)


def run(
    study: Study, out: Path, settings: Settings, say: Say, shared: str | Path | None = None,
    first: Callable[[Sequence[Outcome]], list[Section]] = lambda outcomes: [],
) -> str:  # fmt: skip
    """Claim the folder, do the work on every process, write the report on the main one."""
    planned = cells.plan(study, settings)
    if is_main():
        cells.read_reference(study, planned, settings)
        claim(study, out, settings.overwrite)
    outcomes = cells.run(study, planned, Path(shared or out), settings, say)
    text = write_report(study, outcomes, out, [*first(outcomes), *sweeping.sections(study, outcomes)]) if is_main() else ""
    together()
    return text


def claim(study: Study, out: Path, overwrite: bool) -> None:
    """The folder is this study's: cells may be added, what all of them depend on may not change unnoticed.

    With ``overwrite`` it may: trainings of another budget or recipe have folders of their own, and stay.
    """
    path = out / STUDY
    fixed = {"budget": study.budget.model_dump(), "overrides": study.overrides}
    if path.is_file() and not overwrite:
        theirs = read_json(path)
        wrong = next((key for key, value in fixed.items() if theirs.get(key) != json.loads(json.dumps(value))), None)
        if wrong is not None:
            raise ArgenzooError(f"{out} holds a study with another {wrong} ({theirs.get(wrong)}): choose another --out, or --overwrite")
        if not set(theirs.get("cells", ())) & set(study.cells):
            raise ArgenzooError(f"{out} holds another study ({theirs.get('title')}): choose another --out, or --overwrite")
    replace_text(path, json.dumps({**fixed, "title": study.title, "cells": list(study.cells)}, indent=1) + "\n")
