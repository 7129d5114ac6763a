"""``argenzoo sample``: pictures, a grid, and how they were made."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from argenzoo.build import assemble, build_model, find, make_tokenizer
from argenzoo.device import checked_device
from argenzoo.errors import ArgenzooError, suggestion
from argenzoo.grids import save_grid, save_png, to_uint8
from argenzoo.model import ARModel
from argenzoo.options import SamplingOptions
from argenzoo.recipe import Recipe
from argenzoo.versions import about
from argenzoo.weights import origin, read_about, replace_text, sha256

SHOWN = 512  # pictures of the grid, at most
COLD = 0.01  # of the first weights in an average
PICTURES = "[0-9]*_class[0-9]*.png"


def sample(
    checkpoint: str | Path,
    out: str | Path,
    classes: list[str] | None = None,
    num: int | None = None,
    guidance: float | None = None,
    seed: int = 0,
    batch: int = 16,
    overwrite: bool = False,
    device: str | None = None,
    sampling: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Write ``num`` pictures, dealt over the classes in turn, a grid of the first, a column a class, and samples.json; returns its content.

    Args:
        checkpoint: a checkpoint or run folder, a repository of the Hub in our format, or the name of a published model.

    Raises:
        ArgenzooError: no such checkpoint, repository, published model or class, an option out of range, pictures in ``out`` already.
    """
    folder = free(out, overwrite)
    if (guidance is not None and guidance < 0) or batch < 1 or seed < 0 or (num is not None and num < 1):
        raise ArgenzooError("--guidance and --seed can't be negative, --batch and --num must be at least 1")
    recipe, source = find(checkpoint)
    if source is None and (recipe.pretrained is None or recipe.pretrained.generator is None):
        raise ArgenzooError(f"'{checkpoint}' is a recipe without published weights: train it first, then sample from its run folder")
    chosen, options = planned(recipe, classes, {**(sampling or {}), **({} if guidance is None else {"guidance": guidance})})
    labels = [chosen[i % len(chosen)] for i in range(4 * len(chosen) if num is None else num)]
    model = build_model(recipe if source is None else source, device=checked_device(device), pretrained=source is None)
    model.sampling = options
    warn_if_cold(model.sources["network"])
    for old in written_in(folder):  # with --overwrite
        old.unlink()
    folder.mkdir(parents=True, exist_ok=True)
    made = {"num": len(labels), "seed": seed, "labels": labels, **how_made(model, checkpoint, source)}
    facts = {**about(), "recipe": made["recipe"], "weights_sha256": made["weights_sha256"], "seed": str(seed)}
    began = time.perf_counter()
    shown = write_pictures(folder, sampled(model, labels, seed, batch), labels, facts)
    made["seconds"] = round(time.perf_counter() - began, 3)
    write_grid(folder / "grid.png", shown, len(chosen), facts)
    replace_text(folder / "samples.json", json.dumps(made, indent=1) + "\n")
    return made


def free(out: str | Path, overwrite: bool) -> Path:
    """A folder that may be written to. Raises ArgenzooError where it is none, or holds pictures."""
    folder = Path(out)
    if not str(out).strip() or (folder.exists() and not folder.is_dir()):
        raise ArgenzooError(f"--out {folder} is a file: name a folder" if str(out).strip() else "--out is empty: name a folder")
    if written_in(folder) and not overwrite:
        raise ArgenzooError(f"{folder} holds samples already: choose another --out, or --overwrite")
    return folder


def written_in(folder: Path) -> list[Path]:
    """What an earlier sampling wrote."""
    return [*folder.glob(PICTURES), *folder.glob("grid.png"), *folder.glob("samples.json")]


def planned(recipe: Recipe, classes: list[str] | None, sampling: dict[str, Any]) -> tuple[list[int], SamplingOptions]:
    """(labels, options): what the recipe alone decides, checked on the meta device, before a long download."""
    with torch.device("meta"):
        draft = assemble(recipe, make_tokenizer(recipe.tokenizer))
    options = draft.sampling.override(sampling)
    draft.check(options)
    return labels_of(draft, classes), options


def warn_if_cold(weights: Path) -> None:
    """Averaged weights that are still mostly those of the first step make noise, however well the run went (MAR's threads 48 and 105)."""
    told = read_about(weights).get("ema_share", "0") if weights.suffix == ".safetensors" else "0"
    share = float(told) if re.fullmatch(r"[01]\.?\d*", told) else 0.0  # anybody's file may say anything
    if share > COLD:
        text = f"warning: {weights} are averaged weights that are still {share:.0%} those of step 1"
        tqdm.write(f"{text}: train longer, or with train.ema_warmup=true", file=sys.stderr)


def how_made(model: ARModel, checkpoint: str | Path, folder: Path | None) -> dict[str, Any]:
    """What a picture depends on besides seed and label: recipe, weights, options, rounding, software. Without a ``folder`` the
    weights are published ones, named as the Hub does."""
    if folder is None:
        network, tokenizer = (origin(model.sources[part]) for part in ("network", "tokenizer"))
        weights = {"weights": network["source"], "weights_sha256": network["source_sha256"]}
        weights |= {"tokenizer_sha256": tokenizer["source_sha256"]}
    else:
        file = model.sources["network"]
        weights = {"weights": file.name, "weights_sha256": sha256(file), "tokenizer_sha256": model.recipe.tokenizer.sha256}
    return {
        "recipe": model.recipe.name,
        "checkpoint": str(checkpoint if folder is None else folder),
        **weights,
        "sampling": model.sampling.dump(),
        "rounding": "round(255 x)",
        "device": str(model.device),
        **about(),
    }


def sampled(model: ARModel, labels: list[int], seed: int, batch: int) -> Iterator[np.ndarray]:
    """(n, H, W, 3) uint8, ``batch`` at a time; picture i depends on (seed, i) and its label alone."""
    with tqdm(total=len(labels), desc="sampling", unit="picture", disable=len(labels) <= 1) as bar, model.executing():
        for first in range(0, len(labels), batch):
            some = labels[first : first + batch]
            yield to_uint8(model.generate(some, seed=seed, indices=list(range(first, first + len(some)))))
            bar.update(len(some))


def labels_of(model: ARModel, classes: list[str] | None) -> list[int]:
    """Labels for class numbers or names; all classes, at most 8, for None."""
    config = model.conditioner.config
    if not hasattr(config, "num_classes"):
        raise ArgenzooError(
            "this model is conditioned on text: the command line samples class labels; use model.generate((features, mask))"
        )
    names = {name.lower(): label for label, name in enumerate(config.names or ())}
    if classes is None:
        return list(range(min(config.num_classes, 8)))
    labels = []
    for text in (entry.strip() for entry in classes):
        if text.lower() in names:
            labels.append(names[text.lower()])
        elif re.fullmatch(r"-?[0-9]+", text):
            labels.append(int(text))
        else:
            hint = suggestion(text, config.names) if config.names else f" (this model has {config.num_classes} classes without names)"
            raise ArgenzooError(f"unknown class '{text}'{hint}")
    model.conditioner.check(labels)
    return labels


def write_pictures(folder: Path, batches: Iterable[np.ndarray], labels: list[int], facts: dict[str, str]) -> list[np.ndarray]:
    """Each as it comes, so that no more than a batch is in memory; returns the first ones, for the grid."""
    shown: list[np.ndarray] = []
    index = 0
    for pictures in batches:
        for picture in pictures:
            told = {**facts, "index": str(index), "label": str(labels[index])}
            save_png(picture, folder / f"{index:06d}_class{labels[index]:04d}.png", told)
            index += 1
        shown += list(pictures[: SHOWN - len(shown)])
    return shown


def write_grid(path: Path, shown: list[np.ndarray], classes: int, facts: dict[str, str]) -> None:
    """A column a class; blank where there are fewer."""
    pictures = torch.from_numpy(np.stack(shown)).permute(0, 3, 1, 2).float() / 255
    columns = min(classes, len(pictures))
    blank = torch.ones(-len(pictures) % columns, *pictures.shape[1:])
    save_grid(torch.cat([pictures, blank]).view(-1, columns, *pictures.shape[1:]), path, facts)
