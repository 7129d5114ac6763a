"""A study's report: report.html with everything inside, report.md with its table, results.json, and the pictures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from argenzoo.comparison.cells import Outcome
from argenzoo.comparison.sections import Picture, Section, grids, losses, quality, reconstructions
from argenzoo.comparison.study import Study
from argenzoo.comparison.tables import markdown, rows
from argenzoo.versions import about
from argenzoo.weights import read_json, replace_text, write_file

FIGURES = "figures"  # the pictures' folder
HIDDEN = {"figures", "picture", "samples", "checkpoint", "seconds_an_image", "plan"}  # of the table, or of one folder


def write_report(study: Study, outcomes: Sequence[Outcome], out: Path, first: Sequence[Section] = ()) -> str:
    """Into ``out``; returns the Markdown. ``first``: sections before the usual ones."""
    table = rows(outcomes)
    sections = [*first, quality(study, outcomes), losses(outcomes), grids(study, outcomes), reconstructions(outcomes)]
    sections = [section for section in sections if section.pictures or section.notes]
    facts = {"title": study.title, "about": study.about, "summary": summary(study, outcomes)}
    page = template().render(**facts, table=table, sections=sections, protocol=protocol(study, outcomes))
    write_figures([picture for section in sections for picture in section.pictures], out)
    parts = [f"# {study.title}", study.about, facts["summary"], markdown(table), *(section.table for section in first)]
    text = "\n\n".join(part.strip() for part in parts if part) + "\n"
    replace_text(out / "report.html", page)
    replace_text(out / "report.md", text)
    replace_text(out / "results.json", json.dumps(results(study, outcomes), indent=1, allow_nan=False) + "\n")
    return text


def write_figures(pictures: Sequence[Picture], out: Path) -> None:
    """As files; those of an earlier report that this one does not have are removed, and nothing else."""
    listed, files = out / FIGURES / "report.json", {f"{picture.name}.png": picture.png for picture in pictures}
    earlier = read_json(listed)["files"] if listed.is_file() else []
    for name in set(earlier) - set(files):
        (out / FIGURES / Path(name).name).unlink(missing_ok=True)
    for name, png in files.items():
        write_file(out / FIGURES / name, lambda temporary, png=png: temporary.write_bytes(png))  # type: ignore[misc]
    replace_text(listed, json.dumps({"files": sorted(files)}, indent=1) + "\n")


def template() -> Any:
    return Environment(loader=PackageLoader("argenzoo", "comparison"), autoescape=True, undefined=StrictUndefined).get_template(
        "report.html.j2"
    )


def summary(study: Study, outcomes: Sequence[Outcome]) -> str:
    """What was done, in two sentences."""
    first = outcomes[0].evaluation
    said = ", ".join(f"{name} {version}" for name, version in about().items())
    trained = f"Budget of each training: {study.budget.words()}. " if study.trains else ""
    references = sorted({reference_name(outcome.evaluation["protocol"]["reference"]) for outcome in outcomes})
    where = sorted({outcome.evaluation["hardware"] for outcome in outcomes})
    return (
        f"{trained}{first['num']:,} samples a cell, seed {first['seed']}, against {' or '.join(references)}; "
        f"sampled on {' or '.join(where)}; {said}."
    )


def reference_name(reference: dict[str, Any]) -> str:
    data = reference.get("data")
    return f"{reference['count']:,} pictures of {data['name']} ({data['part']})" if data else str(reference.get("file"))


def results(study: Study, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """For programs: every evaluation, with its training."""
    cells = {
        outcome.name: {
            **outcome.evaluation,
            "parameters": outcome.parameters,
            "training": {**outcome.end, "flops": outcome.training_flops, "seconds": outcome.training_seconds},
            "held_out": outcome.held_out(),
        }
        for outcome in outcomes
    }
    return {"study": study.model_dump(mode="json"), "cells": cells, **about()}


def protocol(study: Study, outcomes: Sequence[Outcome]) -> str:
    """What the evaluations have in common, and what was changed in each cell."""
    shown = [{key: value for key, value in outcome.evaluation.items() if key not in HIDDEN} for outcome in outcomes]
    common = {key: value for key, value in shown[0].items() if all(one.get(key) == value for one in shown)}
    cells = {
        outcome.name: {**outcome.cell.model_dump(exclude_defaults=True), **{key: one[key] for key in one if key not in common}}
        for outcome, one in zip(outcomes, shown, strict=True)
    }
    budget = {"budget": study.budget.words()} if study.trains else {}
    return json.dumps({**budget, **common, "overrides": study.overrides, "cells": cells}, indent=1)
