"""A study's report: report.html with everything inside, report.md with its table, results.json, and the pictures."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from argenzoo.build import PRETRAINED, build_tokenizer
from argenzoo.comparison.cells import Outcome
from argenzoo.comparison.plots import Series, plot
from argenzoo.comparison.study import Study
from argenzoo.comparison.tables import markdown, rows, tokenizer_of
from argenzoo.data.images import to_unit
from argenzoo.errors import ArgenzooError
from argenzoo.evaluation.pictures import chosen, to_tensor
from argenzoo.evaluation.reconstruction import panels
from argenzoo.grids import grid, to_uint8
from argenzoo.recipe import load_recipe
from argenzoo.versions import about
from argenzoo.weights import read_json, replace_text, write_file

SHOWN = 12  # pictures of each tokenizer
FIGURES = "figures"  # the pictures' folder
HIDDEN = {"figures", "picture", "samples", "checkpoint", "seconds_an_image", "plan"}  # of the table, or of one folder


@dataclass
class Picture:
    """PNG bytes with words; ``pixels``: shown without smoothing."""

    name: str
    caption: str
    png: bytes
    pixels: bool = False

    @property
    def data(self) -> str:
        return base64.b64encode(self.png).decode()


@dataclass
class Section:
    """``table``: Markdown, for report.md. ``notes``: what could not be shown, and why."""

    title: str
    text: str
    pictures: list[Picture] = field(default_factory=list)
    table: str = ""
    notes: list[str] = field(default_factory=list)


def write_report(study: Study, outcomes: Sequence[Outcome], out: Path, first: Sequence[Section] = ()) -> str:
    """Into ``out``; returns the Markdown. ``first``: sections before the usual ones."""
    table = rows(outcomes)
    sections = [*first, *quality(outcomes), losses(outcomes), grids(outcomes, study), reconstructions(outcomes)]
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
            "training": {**outcome.end, "flops": outcome.training_flops, "seconds": outcome.training_seconds[0]},
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


def quality(outcomes: Sequence[Outcome]) -> list[Section]:
    """KID and FID against seconds an image, and against FLOPs of training; precision against recall."""
    pictures = []
    for figure, words in (("kid", "KID x 1000"), ("fid", "FID"), ("inception_score", "Inception Score")):
        seen = [outcome for outcome in outcomes if outcome.evaluation["figures"][figure] is not None]
        if not seen:
            continue
        for name, axis, values in (
            ("seconds", "seconds an image", [outcome.evaluation["seconds_an_image"] for outcome in seen]),
            ("flops", "FLOPs of training", [outcome.training_flops for outcome in seen]),
        ):
            series = [point(outcome, figure, value) for outcome, value in zip(seen, values, strict=True) if value is not None]
            if series:  # a checkpoint's training is not known
                pictures.append(Picture(f"{figure}_{name}", f"{words} against {axis}", plot(series, axis, words, "x")))
    seen = [outcome for outcome in outcomes if outcome.evaluation["figures"]["precision"] is not None]
    pairs = [Series(one.name, [one.evaluation["figures"]["recall"]], [one.evaluation["figures"]["precision"]]) for one in seen]
    if pairs:
        pictures.append(Picture("precision_recall", "precision against recall", plot(pairs, "recall", "precision")))
    text = (
        "Bars are KID's 95 % intervals: of the draw of these samples and of the reference, which all cells share. They say nothing of "
        "another training: each cell is one, with one seed."
    )
    return [Section("Quality and cost", text, pictures)]


def point(outcome: Outcome, figure: str, x: float) -> Series:
    scale = 1000 if figure == "kid" else 1
    figures = outcome.evaluation["figures"]
    interval = figures["kid_interval"] if figure == "kid" else None
    error = None if interval is None else [(scale * interval[0], scale * interval[1])]
    return Series(outcome.name, [x], [scale * figures[figure]], error)


def losses(outcomes: Sequence[Outcome]) -> Section:
    """Held-out losses; a plot a kind of head and tokenizer, since others do not compare."""
    kinds: dict[str, dict[str, Outcome]] = {}
    for outcome in outcomes:
        if outcome.held_out() and outcome.recipe.head is not None:
            kinds.setdefault(f"{outcome.recipe.head.name} on {tokenizer_of(outcome)}", {})[outcome.source] = outcome
    pictures = []
    for kind, members in kinds.items():
        series = []
        for outcome in members.values():
            steps, values = zip(*outcome.held_out(), strict=True)
            batch = outcome.recipe.train.batch_size if outcome.recipe.train is not None else 1
            series.append(Series(outcome.name, [step * batch for step in steps], list(values)))
        name = f"loss_{kind.replace(' ', '_').replace('(', '').replace(')', '')}"
        pictures.append(Picture(name, f"held-out loss, {kind}", plot(series, "pictures seen", "held-out loss")))
    text = "Of the weights that are sampled: the averages, where a recipe has any. Losses compare only under the same head and tokenizer."
    return Section("Held-out losses", text, pictures)


def grids(outcomes: Sequence[Outcome], study: Study) -> Section:
    pictures = [
        Picture(
            f"samples_{outcome.folder.name}", outcome.name, enlarged((outcome.folder / outcome.evaluation["picture"]).read_bytes()), True
        )
        for outcome in outcomes
    ]
    return Section("Samples", f"The same labels and seed {study.measure.seed} everywhere, none chosen.", pictures)


def enlarged(png: bytes, smallest: int = 400) -> bytes:
    """A small grid, times a whole number."""
    with Image.open(io.BytesIO(png)) as picture:
        times = max(1, smallest // picture.width)
        large = picture.convert("RGB").resize((picture.width * times, picture.height * times), Image.Resampling.NEAREST)
    return encoded(np.asarray(large))


def encoded(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="png")
    return file.getvalue()


@torch.no_grad()
def reconstructions(outcomes: Sequence[Outcome]) -> Section:
    """What each tokenizer gives back of the first pictures of its data: originals, reconstructions, errors times 4."""
    section = Section("Tokenizers", "Originals, reconstructions, and absolute errors times 4.")
    known: set[str] = set()
    for outcome in outcomes:
        digest = outcome.evaluation["tokenizer_sha256"] or outcome.name
        name = f"{outcome.recipe.tokenizer.name}_{digest[:8]}{'_vectors' if 'vectors' in tokenizer_of(outcome) else ''}"
        if name in known:
            continue
        known.add(name)
        try:
            section.pictures.append(Picture(name, tokenizer_of(outcome), given_back(outcome, name), True))
        except ArgenzooError as error:  # a checkpoint need not know where its data are
            section.notes.append(f"{tokenizer_of(outcome)}: nothing to show ({error})")
    return section


def given_back(outcome: Outcome, name: str) -> bytes:
    """A PNG of pictures of the cell's data, spread over them. Raises ArgenzooError where they are not to be had."""
    published = {} if outcome.recipe.tokenizer.weights else {"tokenizer.weights": PRETRAINED}
    tokenizer = build_tokenizer(load_recipe(outcome.source, published) if published else outcome.recipe)
    shown = chosen(outcome.recipe.data, tokenizer.image_size, None)
    shown.positions = shown.positions[:: max(1, len(shown) // SHOWN)][:SHOWN]
    originals = next(shown.batches(SHOWN, name))
    decoded = tokenizer.decode(tokenizer.tokens(tokenizer.encode(to_unit(to_tensor(originals)))))
    return encoded(grid(panels(zip(originals, to_uint8((decoded + 1) / 2), strict=True))))
