"""A checkpoint sampled in several ways: guidance, temperature, numbers of steps, against quality and time."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

from argenzoo.comparison.cells import Outcome
from argenzoo.comparison.plots import Series, plot
from argenzoo.comparison.report import Picture, Section
from argenzoo.comparison.study import Study, checked
from argenzoo.errors import ArgenzooError

FIGURES = {"kid": "KID x 1000", "fid": "FID", "inception_score": "Inception Score", "precision": "precision", "recall": "recall"}


def study_of(checkpoint: str, values: dict[str, list[Any]], overrides: dict[str, Any], measure: dict[str, Any]) -> Study:
    """A cell a combination of ``values``, a list a sampling key.

    Args:
        overrides: ``data.*`` of the reference, and sampling keys that stay as they are.
    """
    if not values:
        raise ArgenzooError("nothing to sweep: give a sampling key several values, such as guidance=1,1.5,2")
    data = {key: value for key, value in overrides.items() if key.startswith("data.")}
    fixed = {key: value for key, value in overrides.items() if key not in data}
    cells = {}
    for combination in product(*values.values()):
        chosen = dict(zip(values, combination, strict=True))
        cell = {"checkpoint": checkpoint, "sampling": {**fixed, **chosen}}
        cells[", ".join(f"{key}={value}" for key, value in chosen.items())] = cell
    made = {"title": f"{checkpoint}: {', '.join(values)}", "overrides": data, "measure": measure, "cells": cells}
    return checked(Study.parse(made, "sweep"))


def section(values: dict[str, list[Any]], outcomes: Sequence[Outcome]) -> Section:
    """Each figure over the first key, a line for every combination of the others."""
    first, *others = values
    lines: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        name = ", ".join(f"{key}={outcome.cell.sampling[key]}" for key in others) or first
        lines.setdefault(name, []).append(outcome)
    pictures = []
    for figure, words in FIGURES.items():
        if any(outcome.evaluation["figures"][figure] is None for outcome in outcomes):
            continue
        series = [line(name, members, figure, first) for name, members in lines.items()]
        pictures.append(Picture(f"sweep_{figure}", f"{words} over {first}", plot(series, first, words)))
    return Section("Sweep", f"Everything but {' and '.join(values)} stays as the recipe says.", pictures)


def line(name: str, members: Sequence[Outcome], figure: str, key: str) -> Series:
    scale = 1000 if figure == "kid" else 1
    values = [outcome.cell.sampling[key] for outcome in members]
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    x = values if numbers else [str(value) for value in values]
    y = [scale * outcome.evaluation["figures"][figure] for outcome in members]
    intervals = (
        [tuple(scale * end for end in outcome.evaluation["figures"]["kid_interval"]) for outcome in members] if figure == "kid" else None
    )
    return Series(name, x, y, intervals)
