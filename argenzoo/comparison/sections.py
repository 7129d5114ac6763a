"""What a report shows: quality against cost, held-out losses, samples, reconstructions."""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from argenzoo.build import PRETRAINED, build_tokenizer
from argenzoo.comparison.cells import Outcome
from argenzoo.comparison.plots import Series, plot
from argenzoo.comparison.study import Study, slug
from argenzoo.comparison.tables import tokenizer_of
from argenzoo.data.images import to_unit
from argenzoo.errors import ArgenzooError
from argenzoo.evaluation.pictures import chosen, to_tensor
from argenzoo.evaluation.reconstruction import panels
from argenzoo.grids import grid, to_uint8
from argenzoo.recipe import load_recipe

SHOWN = 12  # pictures of each tokenizer
FIGURES = {"kid": "KID x 1000", "fid": "FID", "inception_score": "Inception Score", "precision": "precision", "recall": "recall"}


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


def quality(study: Study, outcomes: Sequence[Outcome]) -> Section:
    """Every figure against seconds an image, and against FLOPs of training; precision against recall."""
    pictures = []
    for figure, words in FIGURES.items():
        for name, axis in (("seconds", "seconds an image"), ("flops", "FLOPs of training")):
            series = curves(study, [outcome for outcome in outcomes if spent(outcome, name) is not None], figure, name)
            if series:  # a checkpoint's training is not known, and not every figure can be computed
                pictures.append(Picture(f"{figure}_{name}", f"{words} against {axis}", plot(series, axis, words, "x")))
    if pairs := curves(study, outcomes, "precision", "recall"):
        pictures.append(Picture("precision_recall", "precision against recall", plot(pairs, "recall", "precision")))
    text = (
        "Bars are KID's 95 % intervals: of the draw of these samples and of the reference, which all cells share. They say nothing of "
        "another training: each cell is one, with one seed."
    )
    return Section("Quality and cost", text, pictures)


def spent(outcome: Outcome, name: str) -> float | None:
    """What a figure is drawn against."""
    if name == "seconds":
        return float(outcome.evaluation["seconds_an_image"])
    return outcome.training_flops if name == "flops" else outcome.evaluation["figures"][name]


def curves(study: Study, outcomes: Sequence[Outcome], figure: str, against: str) -> list[Series]:
    """A line a line of the study, and a point a cell that has the figure."""
    known = {outcome.name: outcome for outcome in outcomes if outcome.evaluation["figures"][figure] is not None}
    lines = {line: [known[cell] for cell in cells if cell in known] for line, cells in study.lines.items()}
    return [curve(line, members, figure, [spent(one, against) or 0.0 for one in members]) for line, members in lines.items() if members]


def curve(name: str, outcomes: Sequence[Outcome], figure: str, x: Sequence[float | str]) -> Series:
    """A figure of several cells, with KID's intervals."""
    scale, figures = 1000 if figure == "kid" else 1, [outcome.evaluation["figures"] for outcome in outcomes]
    intervals = [tuple(scale * end for end in one["kid_interval"]) for one in figures] if figure == "kid" else None
    return Series(name, x, [scale * one[figure] for one in figures], intervals)


def losses(outcomes: Sequence[Outcome]) -> Section:
    """Held-out losses; a plot a kind of head and tokenizer, since others do not compare."""
    kinds: dict[str, dict[str, Outcome]] = {}
    shared = Counter(outcome.source for outcome in outcomes)
    for outcome in outcomes:
        if outcome.held_out() and outcome.recipe.head is not None:
            kinds.setdefault(f"{outcome.recipe.head.name} on {tokenizer_of(outcome)}", {})[outcome.source] = outcome
    pictures = []
    for kind, members in kinds.items():
        series = []
        for outcome in members.values():
            steps, values = zip(*outcome.held_out(), strict=True)
            batch = outcome.recipe.train.batch_size if outcome.recipe.train is not None else 1
            label = outcome.name if shared[outcome.source] == 1 else Path(outcome.source).name  # the run of several cells
            series.append(Series(label, [step * batch for step in steps], list(values)))
        name = f"loss_{kind.replace(' ', '_').replace('(', '').replace(')', '')}"
        pictures.append(Picture(name, f"held-out loss, {kind}", plot(series, "pictures seen", "held-out loss")))
    text = "Of the weights that are sampled: the averages, where a recipe has any. Losses compare only under the same head and tokenizer."
    return Section("Held-out losses", text, pictures)


def grids(study: Study, outcomes: Sequence[Outcome]) -> Section:
    pictures = [
        Picture(
            f"samples_{slug(outcome.name)}", outcome.name, enlarged((outcome.folder / outcome.evaluation["picture"]).read_bytes()), True
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
    seen: set[bytes] = set()  # each training keeps a file of its own of the same tokenizer
    for outcome in outcomes:
        digest = outcome.evaluation["tokenizer_sha256"] or outcome.name
        name = f"{outcome.recipe.tokenizer.name}_{digest[:8]}{'_vectors' if 'vectors' in tokenizer_of(outcome) else ''}"
        if name in known:
            continue
        known.add(name)
        try:
            picture = given_back(outcome, name)
            if picture not in seen:
                section.pictures.append(Picture(name, tokenizer_of(outcome), picture, True))
            seen.add(picture)
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
