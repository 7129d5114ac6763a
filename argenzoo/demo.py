"""``argenzoo demo``: every paradigm, trained small on photographs of fruit and set side by side in one picture and one table."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from argenzoo.build import build_model
from argenzoo.data.images import split, to_unit
from argenzoo.data.views import Views
from argenzoo.device import checked_device
from argenzoo.grids import save_png, to_uint8
from argenzoo.model import ARModel
from argenzoo.recipe import Recipe, load_recipe
from argenzoo.registry import datasets
from argenzoo.summary import parameters_by_part
from argenzoo.training.logs import read_log
from argenzoo.training.once import train_once
from argenzoo.versions import about

CELLS = {"fruit_raster": "fruit_vq", "fruit_var": "fruit_msvq", "fruit_mar": "fruit_kl"}
MORE_CELLS = {"fruit_raster_diffusion": "fruit_kl", "fruit_var_diffusion": "fruit_msvq", "fruit_mar_ce": "fruit_vq"}
SCALE, GAP, MARGIN, HEADER = 2, 2, 92, 28  # pixels: enlargement, gap, and what the names of rows and columns take


@dataclass
class Result:
    """What one cell has to show: rows of pictures (classes, 3, H, W) in [0, 1], and a row of the table."""

    name: str
    classes: tuple[str, ...]
    rows: dict[str, Tensor]
    table: dict[str, str]


def demo(out: str | Path, every_cell: bool = False, say: Callable[[str], object] = lambda text: None) -> str:
    """Train what is missing below ``out``, sample, write comparison.png, comparison.md and comparison.json; returns the table.

    Raises:
        ArgenzooError: the photographs are not installed.
    """
    folder = Path(out)
    cells = {**CELLS, **(MORE_CELLS if every_cell else {})}
    for tokenizer in dict.fromkeys(cells.values()):
        train_once(load_recipe(tokenizer, {"train.out": str(folder / tokenizer)}), say)
    results = []
    for name, tokenizer in cells.items():
        overrides = {"train.out": str(folder / name), "tokenizer.weights": str(folder / tokenizer)}
        recipe = load_recipe(name, overrides)
        train_once(recipe, say)
        results.append(show(recipe, folder / name, folder / tokenizer))
    facts = {**about(), "recipes": ", ".join(cells), "seed": "0", "device": str(checked_device(None))}
    save_png(comparison(results), folder / "comparison.png", facts)
    text = markdown(results)
    (folder / "comparison.md").write_text(text, encoding="utf-8")
    rows = {result.name: result.table for result in results}
    (folder / "comparison.json").write_text(json.dumps({**facts, "cells": rows}, indent=1) + "\n", encoding="utf-8")
    return f"{text}\n{folder / 'comparison.png'}"


@torch.no_grad()
def show(recipe: Recipe, run: Path, tokenizer_run: Path) -> Result:
    """One picture a class: real (held out), reconstructed, generated, and the generated one's nearest training picture."""
    assert recipe.sampling is not None
    device = checked_device(None)
    model = build_model(run, {"sampling": recipe.sampling.dump()}, device)  # sampled as the recipe says today
    real, labels, training = (part.to(device) for part in pictures(model))
    tokens = model.tokenizer.tokens(model.tokenizer.encode(real))
    rebuilt = (model.tokenizer.decode(tokens).clamp(-1, 1) + 1) / 2
    began = time.perf_counter()
    made = model.generate(labels, seed=0)
    seconds = (time.perf_counter() - began) / len(labels)
    rows = {"real": (real + 1) / 2, "reconstructed": rebuilt, "generated": made, "nearest": nearest(made, (training + 1) / 2)}
    names = model.conditioner.config.names
    rows = {name: row.cpu() for name, row in rows.items()}
    return Result(run.name, tuple(names[label] for label in labels.tolist()), rows, table_row(model, run, tokenizer_run, seconds))


def pictures(model: ARModel) -> tuple[Tensor, Tensor, Tensor]:
    """(a held-out picture of each class, their labels, all training pictures), in [-1, 1]."""
    data = model.recipe.data
    images = datasets.get(data.name)(data.config)
    kept, held_out = split(images, data.config)
    first = {images.label(int(index)): int(index) for index in held_out[::-1]}
    some = np.array([first[label] for label in sorted(first)])

    def load(indices: np.ndarray) -> Tensor:
        views = Views(images, data.config, model.tokenizer.image_size, indices, augment=False)
        return to_unit(torch.stack([views[i, i][0] for i in range(len(views))]))

    return load(some), torch.tensor(sorted(first)), load(kept)


def nearest(made: Tensor, training: Tensor) -> Tensor:
    """The training picture, or its mirror image, at the smallest L2 distance from each: memorising would show."""
    both = torch.cat([training, training.flip(-1)])
    return both[torch.cdist(made.flatten(1), both.flatten(1)).argmin(1)]


def table_row(model: ARModel, run: Path, tokenizer_run: Path, seconds: float) -> dict[str, str]:
    """The cells of the table, as text."""
    counts = parameters_by_part(model.recipe)
    ends = {path: [entry for entry in read_log(path) if entry["event"] == "end"] for path in (run, tokenizer_run)}
    spent = {path: sum(entry["seconds"] for entry in read_log(path) if entry["event"] in ("end", "stopped")) for path in ends}
    last = ends[run][-1]
    quantized = getattr(model.recipe.tokenizer.config, "quantize", True)  # what it was trained and measured as
    quality = f"PSNR {ends[tokenizer_run][-1]['held_out_psnr']:.1f} dB" if quantized else "without its codebook"
    return {
        "cell": f"{model.recipe.generator.name} + {model.recipe.head.name}",
        "tokenizer": f"{model.recipe.tokenizer.name}, {quality}",
        "parameters": f"{(counts['total'] - counts['tokenizer']) / 1e6:.2f}M + {counts['tokenizer'] / 1e6:.2f}M",
        "steps": f"{last['steps']}",
        "training": f"{spent[run]:.0f} s + {spent[tokenizer_run]:.0f} s",
        "sampling": f"{seconds:.3f} s/image",
        "held-out loss": f"{last['held_out_loss']:.3f}",
        "accuracy": f"{last['held_out_accuracy']:.1%}" if "held_out_accuracy" in last else "-",
    }


def markdown(results: list[Result]) -> str:
    """The table; losses are comparable only under the same head and tokenizer."""
    columns = list(results[0].table)
    lines = [columns, ["---"] * len(columns), *([result.table[column] for column in columns] for result in results)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def comparison(results: list[Result]) -> np.ndarray:
    """All rows of all cells under each other, enlarged, with their names: (height, width, 3) uint8."""
    count, _, height, width = results[0].rows["real"].shape
    step_x, step_y, title = width * SCALE + GAP, height * SCALE + GAP, 18
    block = title + len(results[0].rows) * step_y
    canvas = Image.new("RGB", (MARGIN + count * step_x, HEADER + block * len(results)), "white")
    draw = ImageDraw.Draw(canvas)
    for column, name in enumerate(results[0].classes):
        draw.multiline_text((MARGIN + column * step_x, 2), name.replace("-", "\n", 1), fill="black", spacing=1)
    for number, result in enumerate(results):
        top = HEADER + number * block
        draw.text((4, top + 3), f"{result.table['cell']}   ({result.table['tokenizer']})", fill="black")
        for row, (name, made) in enumerate(result.rows.items()):
            y = top + title + row * step_y
            draw.text((4, y + step_y // 2 - 8), name, fill="black")
            for column, picture in enumerate(to_uint8(made)):
                large = Image.fromarray(picture).resize((width * SCALE, height * SCALE), Image.Resampling.NEAREST)
                canvas.paste(large, (MARGIN + column * step_x, y))
    return np.asarray(canvas)
