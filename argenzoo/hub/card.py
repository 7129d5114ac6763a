"""The model card of a saved checkpoint: what it is, what it scored, how to use it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from argenzoo.model import ARModel
from argenzoo.recipe import Recipe
from argenzoo.versions import about

CARD, PICTURE, METRICS = "README.md", "samples.png", "metrics.json"
PAPERS = {"raster": "2406.06525", "var": "2404.02905", "mar": "2406.11838"}


def write_card(model: ARModel, folder: Path, license: str | None) -> None:  # noqa: A002
    """README.md in ``folder``, with the metrics and the sample grid that lie beside the weights' source."""
    published = model.recipe.pretrained
    data = ModelCardData(
        license=license or (published.license if published is not None else None),
        library_name="argenzoo",
        tags=["image-generation", "autoregressive", *sorted(set(parts_of(model.recipe).values()))],
    )
    beside = model.sources.get("network", model.sources.get("tokenizer"))
    grid = picture_of(beside)
    if grid is not None:
        shutil.copyfile(grid, folder / PICTURE)
    sections = [headline(model, published), "" if grid is None else f"![samples]({PICTURE})", usage(model), facts(model), scores(beside)]
    ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(part for part in sections if part) + "\n").save(folder / CARD)


def parts_of(recipe: Recipe) -> dict[str, str]:
    """Kind -> the part's name."""
    found = {kind: getattr(recipe, kind) for kind in ("tokenizer", "conditioner", "generator", "head")}
    return {kind: part.name for kind, part in found.items() if part is not None}


def headline(model: ARModel, published: Any) -> str:
    recipe = model.recipe
    what = "An image tokenizer" if recipe.generator is None else "An autoregressive image generator"
    origin = ""
    if published is not None and model.network is not None and published.generator is not None:
        origin = (
            f" Its weights are the authors' `{published.generator.address}` with the tokenizer `{published.tokenizer.address}`, converted."
        )
    paper = PAPERS.get(recipe.generator.name) if recipe.generator is not None else None
    link = f" The paradigm: [arXiv {paper}](https://arxiv.org/abs/{paper})." if paper else ""
    return f"# {recipe.name}\n\n{what} in the format of argenzoo, recipe `{recipe.name}`.{origin}{link}"


def usage(model: ARModel) -> str:
    """How to sample, or to reconstruct, in Python."""
    if model.network is None:
        lines = ["from argenzoo import build_tokenizer", "", 'tokenizer = build_tokenizer("FOLDER")  # this folder, downloaded']
        return "## Use it\n\n```python\n" + "\n".join(lines) + "\n```"
    labels = hasattr(model.conditioner.config, "num_classes")
    condition = "[0, 1]" if labels else "(features, mask)"
    lines = ["from argenzoo import build_model", "", 'model = build_model("OWNER/NAME")  # this repository, or its folder']
    lines += [
        f"pictures = model.generate({condition}, seed=0)  # (B, 3, {model.tokenizer.image_size}, {model.tokenizer.image_size}) in [0, 1]"
    ]
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


def scores(source: Path | None) -> str:
    found = metrics_of(source)
    return f"## Metrics\n\n{table(found)}" if found else ""


def table(rows: dict[str, Any]) -> str:
    return "\n".join(["| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in rows.items())])


def metrics_of(source: Path | None) -> dict[str, Any]:
    """What lies beside weights: ``metrics.json`` in their folder, and the run's last held-out figures at that step."""
    if source is None:
        return {}
    folder, found = source.parent, {}
    if (folder / METRICS).is_file():
        found.update(json.loads((folder / METRICS).read_text(encoding="utf-8")))
    log = folder.parent / "log.jsonl"
    if folder.name.startswith("step_") and log.is_file():
        entries = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]
        step = int(folder.name.removeprefix("step_"))
        at = [entry for entry in entries if entry["event"] == "held_out" and entry["step"] == step]
        figures = {key: value for key, value in (at[-1] if at else {}).items() if key.startswith("held_out_") and "/" not in key}
        found.update({f"{key} (step {step:,})": f"{value:.4g}" for key, value in figures.items() if value is not None})
    return found


def picture_of(source: Path | None) -> Path | None:
    """A grid beside weights: of ``argenzoo sample`` in their folder, or the training's newest."""
    if source is None:
        return None
    folder = source.parent
    training = sorted((folder.parent / "samples").glob("step_*.png")) if folder.name.startswith("step_") else []
    places = [folder / PICTURE, folder / "grid.png", folder / "samples" / "grid.png", *training[::-1][:1]]
    return next((place for place in places if place.is_file()), None)
