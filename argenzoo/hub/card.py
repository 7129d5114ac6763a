"""The model card of a saved checkpoint: what it is, what it scored, how to use it."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from argenzoo.checkpoint import EVALUATION, RECIPE
from argenzoo.errors import ArgenzooError
from argenzoo.model import ARModel
from argenzoo.published import HubFile
from argenzoo.recipe import Recipe
from argenzoo.versions import about
from argenzoo.weights import sha256

CARD, PICTURE, METRICS = "README.md", "samples.png", "metrics.json"


def write_card(model: ARModel, folder: Path, license: str | None, origins: dict[str, dict[str, str]], repo: str | None) -> None:  # noqa: A002
    """README.md in ``folder``, with the metrics and the sample grid of these weights that lie beside their source.

    Args:
        origins: where ``network`` and ``tokenizer`` came from: ``source`` and ``source_sha256``, or empty.
    """
    data = ModelCardData(
        license=license or license_of(model, origins),
        library_name="argenzoo",
        tags=["image-generation", "autoregressive", *sorted(set(parts_of(model.recipe).values()))],
    )
    weights = model.sources.get("tokenizer" if model.network is None else "network")
    grid = None if weights is None else picture_of(weights)
    if grid is not None:
        shutil.copyfile(grid, folder / PICTURE)
    found = {} if weights is None else metrics_of(weights)
    if found:
        (folder / METRICS).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    picture = "" if grid is None else f"![samples]({PICTURE})"
    sections = [headline(model, origins), picture, usage(model, repo), facts(model), f"## Metrics\n\n{table(found)}" if found else ""]
    ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(part for part in sections if part) + "\n").save(folder / CARD)


def license_of(model: ARModel, origins: dict[str, dict[str, str]]) -> str | None:
    """The authors', where these are their weights."""
    published = model.recipe.pretrained
    if published is None:
        return None
    files = {"network": published.generator, "tokenizer": published.tokenizer}
    theirs = [file is not None and is_of(origins[part], file) for part, file in files.items() if getattr(model, part)]
    return published.license if all(theirs) else None


def is_of(origin: dict[str, str], file: HubFile) -> bool:
    """Whether weights came from this file, by its hash where that is known."""
    if file.sha256 is not None:
        return origin.get("source_sha256") == file.sha256
    return origin.get("source") == file.address


def parts_of(recipe: Recipe) -> dict[str, str]:
    """Kind -> the part's name."""
    found = {kind: getattr(recipe, kind) for kind in ("tokenizer", "conditioner", "generator", "head")}
    return {kind: part.name for kind, part in found.items() if part is not None}


def headline(model: ARModel, origins: dict[str, dict[str, str]]) -> str:
    """What it is, and which files its weights came from."""
    recipe = model.recipe
    what = "An image tokenizer" if model.network is None else "An autoregressive image generator"
    told = [f"- {part}: from `{file['source']}`, SHA-256 `{file['source_sha256']}`" for part, file in origins.items() if file]
    paragraphs = [f"# {recipe.name}", f"{what} in the format of argenzoo, recipe `{recipe.name}`.", "\n".join(told)]
    return "\n\n".join(paragraphs).rstrip()


def usage(model: ARModel, repo: str | None) -> str:
    """How to sample, or to reconstruct, in Python."""
    name = f'"{repo or "FOLDER"}"'
    if model.network is None:
        lines = ["from argenzoo import build_tokenizer", "", f"tokenizer = build_tokenizer({name})"]
    else:
        labels = "[0, 1]" if hasattr(model.conditioner.config, "num_classes") else "(features, mask)"
        side = model.tokenizer.image_size
        lines = ["from argenzoo import build_model", "", f"model = build_model({name})"]
        lines += [f"pictures = model.generate({labels}, seed=0)  # (B, 3, {side}, {side}) in [0, 1]"]
    return "## Use it\n\n```python\n" + "\n".join(lines) + "\n```"


def facts(model: ARModel) -> str:
    """Parts, parameters, sampling and versions, as a table."""
    rows: dict[str, Any] = {kind: f"`{name}`" for kind, name in parts_of(model.recipe).items()}
    for name in ("network", "tokenizer"):
        if getattr(model, name) is not None:
            rows[f"parameters of the {name}"] = f"{sum(p.numel() for p in getattr(model, name).parameters()):,}"
    rows["pictures"] = f"{model.tokenizer.image_size} x {model.tokenizer.image_size}"
    if model.sampling is not None:
        rows["sampling"] = f"`{json.dumps(model.sampling.dump())}`"
    rows |= {"made with": ", ".join(f"{name} {version}" for name, version in about().items())}
    return "## Facts\n\n" + table(rows) + "\n\nEvery setting is in `recipe.yaml`."


def table(rows: dict[str, Any]) -> str:
    return "\n".join(["| | |", "|---|---|", *(f"| {cell(key)} | {cell(value)} |" for key, value in rows.items())])


def cell(value: Any) -> str:
    """One that can't break the table."""
    return " ".join(str(value).split()).replace("|", "\\|")


def metrics_of(weights: Path) -> dict[str, Any]:
    """Of a checkpoint's weights: ``metrics.json`` beside its recipe, evaluations, and the run's held-out figures at that step."""
    folder, found = weights.parent, {}
    if (folder / RECIPE).is_file() and (folder / METRICS).is_file():
        found.update(read_metrics(folder / METRICS))
    found.update(evaluation_of(weights))
    step, log = step_of(folder), folder.parent / "log.jsonl"
    if step is not None and log.is_file():
        entries = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]
        at = [entry for entry in entries if entry["event"] == "held_out" and entry["step"] == step]
        figures = {key: value for key, value in (at[-1] if at else {}).items() if key.startswith("held_out_") and "/" not in key}
        found.update({f"{key} (step {step:,})": f"{value:.4g}" for key, value in figures.items() if value is not None})
    return found


def evaluation_of(weights: Path) -> dict[str, str]:
    """The figures of these very weights, from an evaluation in or below their folder."""
    found: dict[str, str] = {}
    for path in (weights.parent / EVALUATION, weights.parent / "evaluation" / EVALUATION):
        made = read_metrics(path) if path.is_file() else {}
        if made.get("kind") == "gFID" and made.get("weights_sha256") == sha256(weights):
            reference = made["protocol"]["reference"]
            against = f"{made['num']:,} samples against {reference.get('count', '')} {reference.get('file', 'pictures')}"
            figures = {key: value for key, value in made["figures"].items() if isinstance(value, float)}
            found |= {f"{key} ({' '.join(against.split())})": f"{value:.4g}" for key, value in figures.items()}
    return found


def read_metrics(path: Path) -> dict[str, Any]:
    """Name -> value. Raises ArgenzooError where the file is no such thing."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError):
        raise ArgenzooError(f'{path} is no JSON object of metrics, such as {{"FID": 2.5}}') from None


def picture_of(weights: Path) -> Path | None:
    """A grid of these very weights: the run's at that step, or one of ``argenzoo sample`` in or below the checkpoint's folder."""
    folder, step = weights.parent, step_of(weights.parent)
    of_run = folder.parent / "samples" / f"{folder.name}.png"
    if step is not None and of_run.is_file():
        return of_run
    if not (folder / RECIPE).is_file():  # the authors' file, in whatever folder
        return None
    if (folder / PICTURE).is_file():
        return folder / PICTURE
    made = [place for place in (folder, folder / "samples") if (place / "samples.json").is_file() and (place / "grid.png").is_file()]
    told = {place: json.loads((place / "samples.json").read_text(encoding="utf-8")).get("weights_sha256") for place in made}
    return next((place / "grid.png" for place, digest in told.items() if digest == sha256(weights)), None)


def step_of(folder: Path) -> int | None:
    """Of a run's checkpoint."""
    match = re.fullmatch(r"step_(\d+)", folder.name)
    return int(match[1]) if match else None
