"""A checkpoint or a recipe sampled in several ways: guidance, temperature, numbers of steps, against quality."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from argenzoo.comparison.cells import Outcome
from argenzoo.comparison.plots import plot
from argenzoo.comparison.sections import FIGURES, Picture, Section, curve
from argenzoo.comparison.study import Study, Sweep, checked, slug, with_sweeps
from argenzoo.errors import ArgenzooError


def study_of(checkpoint: str, values: dict[str, list[Any]], overrides: dict[str, Any], measure: dict[str, Any]) -> Study:
    """A cell a combination of ``values``, a list a sampling key.

    Args:
        overrides: ``data.*`` of the reference, and sampling keys that stay as they are.
    """
    if not values:
        raise ArgenzooError("nothing to sweep: give a sampling key several values, such as guidance=1,1.5,2")
    data = {key: value for key, value in overrides.items() if key.startswith("data.")}
    fixed = {key: value for key, value in overrides.items() if key not in data}
    sweep = {"checkpoint": checkpoint, "sampling": fixed, "values": values}
    made = {"title": f"{checkpoint}: {', '.join(values)}", "overrides": data, "measure": measure, "sweeps": {"": sweep}}
    return checked(with_sweeps(Study.parse(made, "sweep")))


def sections(study: Study, outcomes: Sequence[Outcome]) -> list[Section]:
    """One a sweep."""
    return [section(name, sweep, {outcome.name: outcome for outcome in outcomes}) for name, sweep in study.sweeps.items()]


def section(name: str, sweep: Sweep, outcomes: dict[str, Outcome]) -> Section:
    """Each figure over the sweep's first key, a line for every combination of the others."""
    first = next(iter(sweep.values))
    lines = {line: [outcomes[cell] for cell in cells] for line, cells in sweep.lines(name).items()}
    pictures = []
    for figure, words in FIGURES.items():
        if any(outcome.evaluation["figures"][figure] is None for members in lines.values() for outcome in members):
            continue
        series = [curve(line, members, figure, places(members, first)) for line, members in lines.items()]
        file = "_".join(["sweep", *([slug(name)] if name else []), figure])
        pictures.append(Picture(file, f"{words} over {first}", plot(series, first, words)))
    return Section(
        f"Sweep: {name}" if name else "Sweep", f"Everything but {' and '.join(sweep.values)} stays as the recipe says.", pictures
    )


def places(outcomes: Sequence[Outcome], key: str) -> list[float | str]:
    """Where each lies on an axis: numbers as they are, all else as words."""
    values = [outcome.cell.sampling[key] for outcome in outcomes]
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    return values if numbers else [str(value) for value in values]
