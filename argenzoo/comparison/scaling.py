"""Scaling laws: one recipe in several sizes, losses and errors over parameters, tokens and compute (as VAR, arXiv 2404.02905, shows)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from argenzoo.comparison.cells import Outcome
from argenzoo.comparison.fits import Fit, fit, frontier, student
from argenzoo.comparison.plots import Series, plot
from argenzoo.comparison.sections import Picture, Section
from argenzoo.comparison.study import Study, checked
from argenzoo.comparison.tables import markdown
from argenzoo.errors import ArgenzooError

FEWEST = 3  # sizes


@dataclass(frozen=True)
class Law:
    """A measure over an axis: its points, its fits by name, and for points that several share a size the fits without each size."""

    measure: str
    axis: str
    points: list[tuple[float, float]]
    fits: dict[str, Fit]
    without: dict[str, list[Fit]]
    reasons: dict[str, str]

    def band(self, kind: str, x: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
        """95 %: of the fit's covariance where points are independent, else the jackknife's over sizes (of log L)."""
        one, others = self.fits[kind], self.without.get(kind)
        if others is None:
            return one.band(x)
        if len(others) < FEWEST:
            return None
        spread = student(len(others)) * deviation([np.log(other.at(x)) for other in others])
        return one.at(x) * np.exp(-spread), one.at(x) * np.exp(spread)

    def alpha_interval(self, kind: str) -> tuple[float, float] | None:
        one, others = self.fits[kind], self.without.get(kind)
        if others is None:
            return one.alpha_interval()
        if len(others) < FEWEST:
            return None
        spread = student(len(others)) * float(deviation([np.array(other.alpha) for other in others]))
        return one.alpha - spread, one.alpha + spread


def deviation(others: Sequence[np.ndarray]) -> np.ndarray:
    """The jackknife's standard error, from values that each leave one size out."""
    values = np.stack(others)
    return np.asarray(np.sqrt((len(values) - 1) * values.var(0)))


def ladder_of(name: str, recipe: str, steps: dict[str, list[Any]], rest: dict[str, Any]) -> Study:
    """A study whose k-th cell has the k-th value of every key of ``steps``.

    Raises:
        ArgenzooError: lists of other lengths, fewer than three sizes.
    """
    lengths = {key: len(values) for key, values in steps.items()}
    if len(set(lengths.values())) != 1:
        raise ArgenzooError(f"a ladder needs as many values of each key: {lengths or 'give generator.dim=64,96,128 generator.depth=2,3,4'}")
    cells = {}
    for values in zip(*steps.values(), strict=True):
        chosen = dict(zip(steps, values, strict=True))
        cells[", ".join(f"{key.rpartition('.')[2]} {value}" for key, value in chosen.items())] = {"recipe": recipe, "overrides": chosen}
    return checked_ladder(checked(Study.parse({"title": name, "cells": cells, **rest}, "ladder")))


def checked_ladder(study: Study) -> Study:
    if len(study.cells) < FEWEST:
        raise ArgenzooError(f"a ladder of {len(study.cells)} sizes shows no law: at least {FEWEST}")
    if any(cell.recipe is None for cell in study.cells.values()):
        raise ArgenzooError("a ladder is trained: its cells are recipes, not checkpoints")
    for name in study.cells:
        data = study.recipe_of(name).data
        if data is not None and not any(getattr(data.config, key, None) for key in ("held_out", "held_out_path", "held_out_split")):
            raise ArgenzooError(
                f"cell '{name}' holds nothing out: a law needs held-out losses, set data.held_out=0.05 or data.held_out_path"
            )
    return study


def laws(outcomes: Sequence[Outcome]) -> list[Law]:
    """Of every held-out measure that falls with size: losses, and errors of the most likely token, of all scales and of the last."""
    logged = {name for entry in outcomes[0].log if entry["event"] == "held_out" for name in entry}
    scales = sorted((name.rpartition("/")[2] for name in logged if name.startswith("held_out_loss/scale_")), key=number_of)
    last = f"/{scales[-1]}" if scales else None
    wanted = [("held_out_loss", "loss"), ("held_out_accuracy", "token error")]
    pairs = [(name + part, words + said) for part, said in (("", ""), (last, ", last scale")) if part is not None for name, words in wanted]
    return [law for name, words in pairs if all(curve(one, name) for one in outcomes) for law in over_all_axes(outcomes, name, words)]


def number_of(scale: str) -> int:
    """``scale_10_13x13`` -> 10."""
    return int(scale.split("_")[1])


def over_all_axes(outcomes: Sequence[Outcome], name: str, words: str) -> list[Law]:
    """Parameters: the last value of each size. Tokens and FLOPs: the frontier of all evaluations."""
    sizes = [(float(outcome.network_parameters), curve(outcome, name)[-1][1]) for outcome in outcomes]
    laws = [fitted(words, "parameters", sizes, [])]
    for axis in ("tokens", "training FLOPs"):
        curves = [[(step * cost_of(outcome, axis), value) for step, value in curve(outcome, name)] for outcome in outcomes]
        leaving = [frontier(list(chain(*curves[:k], *curves[k + 1 :]))) for k in range(len(curves))]
        laws.append(fitted(words, axis, frontier(list(chain(*curves))), leaving))
    return laws


def curve(outcome: Outcome, name: str) -> list[tuple[int, float]]:
    """(step, loss or error) of every evaluation."""
    return [(step, 1 - value if "accuracy" in name else value) for step, value in outcome.held_out(name)]


def cost_of(outcome: Outcome, axis: str) -> float:
    """Of one optimizer step."""
    assert outcome.recipe.train is not None
    return outcome.recipe.train.batch_size * (outcome.cost.predicted if axis == "tokens" else outcome.cost.train)


def fitted(measure: str, axis: str, points: list[tuple[float, float]], leaving: list[list[tuple[float, float]]]) -> Law:
    """``leaving``: the points without each size, where sizes share an axis."""
    fits: dict[str, Fit] = {}
    without: dict[str, list[Fit]] = {}
    reasons: dict[str, str] = {}
    for kind, irreducible in (("power law", False), ("with a floor", True)):
        try:
            fits[kind] = fit(*columns(points), irreducible)
        except ArgenzooError as error:
            reasons[kind] = str(error)
            continue
        if leaving:
            try:
                without[kind] = [fit(*columns(some), irreducible) for some in leaving]
            except ArgenzooError:  # too few points without one of the sizes: no jackknife, so no band
                without[kind] = []
    return Law(measure, axis, points, fits, without, reasons)


def columns(points: list[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]


def section(found: Sequence[Law]) -> Section:
    """Plots, and the table of exponents."""
    pictures = [picture(law) for law in found]
    rows = [row(law, kind, one) for law in found for kind, one in law.fits.items()]
    text = (
        "Dashed: fits with their 95 % confidence bands. Over tokens and FLOPs, the evaluations that no cheaper one equals are fitted; "
        "they come from few runs and hang together, so their bands are the jackknife's over sizes. They were made in the course of "
        "runs whose schedules go on: read those exponents as of learning curves, not of finished runs."
    )
    return Section("Scaling laws", text, pictures, markdown(rows))


def row(law: Law, kind: str, one: Fit) -> dict[str, str]:
    interval = law.alpha_interval(kind)
    band = "-" if interval is None else f"{interval[0]:.3f} to {interval[1]:.3f}"
    floor = f"{one.floor:.4f}" if "floor" in kind else "-"
    values = {
        "alpha": f"{one.alpha:.4f}",
        "95 %": band,
        "log10 beta": f"{one.log_beta:.2f}",
        "floor": floor,
        "r": "-" if one.correlation is None else f"{one.correlation:.3f}",
    }
    return {"measure": law.measure, "over": law.axis, "fit": kind, **values, "points": f"{len(law.points)}"}


def picture(law: Law) -> Picture:
    x, y = (list(values) for values in zip(*law.points, strict=True))
    at = np.geomspace(min(x), 4 * max(x), 100)
    bands = []
    for kind, one in law.fits.items():
        low, high = law.band(kind, at) or (one.at(at), one.at(at))
        bands.append((f"{kind}: alpha {one.alpha:.3f}", at, one.at(at), low, high))
    png = plot([Series("measured", x, y, line=False)], law.axis, law.measure, "xy", bands)
    name = f"scaling_{law.measure}_{law.axis}".replace(", ", "_").replace(" ", "_").lower()
    return Picture(name, f"{law.measure} over {law.axis}", png)


def dump(found: Sequence[Law]) -> list[dict[str, Any]]:
    return [
        {
            "measure": law.measure,
            "over": law.axis,
            "points": law.points,
            "fits": {kind: {**one.dump(), "alpha_interval": law.alpha_interval(kind)} for kind, one in law.fits.items()},
            "reasons": law.reasons,
        }
        for law in found
    ]
