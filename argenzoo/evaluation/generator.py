"""A generator's figures: samples by the plan, features, distances to a reference, and how all of it came about."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs, gather_object

from argenzoo.build import build_model, find
from argenzoo.checkpoint import EVALUATION
from argenzoo.device import PATIENCE, checked_device
from argenzoo.errors import ArgenzooError
from argenzoo.evaluation import metrics
from argenzoo.evaluation.inception import Inception, load_inception
from argenzoo.evaluation.pictures import HOW, chosen, named_by_user, to_tensor
from argenzoo.evaluation.protocol import protocol
from argenzoo.evaluation.reference import Reference, of_file, of_pictures
from argenzoo.evaluation.samples import Plan, Samples, classes_of
from argenzoo.evaluation.settings import TOKENIZERS, Settings, free, warn_of_few
from argenzoo.evaluation.stats import data_of, named_set
from argenzoo.grids import grid, save_png
from argenzoo.model import ARModel
from argenzoo.recipe import Part, Recipe
from argenzoo.registry import datasets
from argenzoo.sampling.command import how_made, planned, warn_if_cold
from argenzoo.versions import about
from argenzoo.weights import read_json, replace_text, write_file

NUM = 50_000  # the papers'
GRID, PLAN = "grid.png", "plan.json"
ROWS, COLUMNS = 8, 10  # of the grid, at most

Referring = Callable[[int, Inception], Reference]  # pixels a side, extractor


def evaluate_generator(
    source: str | Path, overrides: dict[str, Any], settings: Settings, referring: Referring | None = None
) -> dict[str, Any]:
    """``argenzoo.evaluation.command.evaluate`` for a generator: FID, sFID, IS, KID, precision and recall of its samples.

    Args:
        referring: what to compare with, where several models share it; else the settings and ``overrides`` name it.

    Returns:
        The JSON's content; nothing on other processes than the main one.
    """
    settings.refuse(TOKENIZERS, "this is a generator")
    settings.check()
    out = free(settings, ())
    accelerator = Accelerator(kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)])
    if settings.device is not None and accelerator.num_processes > 1:
        raise ArgenzooError("--device names one device, and there are several processes: leave it out, each takes its own")
    device = accelerator.device if accelerator.num_processes > 1 else checked_device(settings.device)
    data = {key: value for key, value in overrides.items() if key.partition(".")[0] == "data"}
    model, how = loaded(source, data, {key: value for key, value in overrides.items() if key not in data}, device)
    referring = referring or compared_with(model.recipe, data, settings)
    inception = load_inception(settings.inception, device)
    samples = Samples(plan_of(model, how, settings, inception), out, inception, settings.keep)
    if len(set(gather_object([samples.plan.digest]))) > 1:
        raise ArgenzooError(f"processes see other weights or versions of '{source}', or of the Inception: is it still training?")
    if accelerator.is_main_process:  # what is wrong with the reference is found before a long sampling
        reference = referring(settings.resize or model.tokenizer.image_size, inception)
        claim(out, samples, reference, settings.overwrite)
    accelerator.wait_for_everyone()
    if not (out / PLAN).is_file():
        raise ArgenzooError(f"{out} is not seen by every process: --out must be on a disk that they share")
    samples.make(model, settings.batch, accelerator.process_index, accelerator.num_processes)
    accelerator.wait_for_everyone()
    made: dict[str, Any] = {}
    if accelerator.is_main_process:
        made = result(samples, reference, how)
        write(out, made, samples)
    accelerator.wait_for_everyone()
    return made


def loaded(source: str | Path, data: dict[str, Any], sampling: dict[str, Any], device: torch.device) -> tuple[ARModel, dict[str, Any]]:
    """(the model with its sampling options, what its samples depend on). Options are checked before a download begins."""
    recipe, folder = find(source, data)
    if folder is None and (recipe.pretrained is None or recipe.pretrained.generator is None):
        raise ArgenzooError(f"'{source}' is a recipe without published weights: train it first, then evaluate its run folder")
    _, options = planned(recipe, None, sampling)
    published = folder is None
    model = build_model(recipe, device=device, pretrained=True) if published else build_model(source, data, device)
    model.sampling = options
    warn_if_cold(model.sources["network"])
    return model, how_made(model, source, folder)


def plan_of(model: ARModel, how: dict[str, Any], settings: Settings, inception: Inception) -> Plan:
    """``how``: of ``how_made``."""
    rule, num_classes = protocol(settings.protocol), classes_of(model)
    depends = {key: how[key] for key in ("recipe", "weights_sha256", "tokenizer_sha256", "sampling")}
    parts = {kind: getattr(model.recipe, kind).dump() for kind in ("tokenizer", "conditioner", "generator", "head")}
    parts["tokenizer"].pop("weights", None)  # where it lies; its hash is above
    networks = {"parts": hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest(), "argenzoo": about()["argenzoo"]}
    own = {"seed": settings.seed, "resize": settings.resize, "precision": settings.precision, "inception": inception.sha256}
    facts = {**depends, **networks, **own, **rule.facts()}
    return Plan(settings.num or NUM, settings.seed, rule, settings.resize, settings.precision, num_classes, facts)


def claim(out: Path, samples: Samples, reference: Reference, overwrite: bool) -> None:
    """The folder is this plan's, and a result in it is of no more samples, against the same reference.

    Raises:
        ArgenzooError: it is another's, and ``overwrite`` is not set; with it, what is there is removed.
    """
    plan, path, result_file = samples.plan, out / PLAN, out / EVALUATION
    theirs = read_json(path) if path.is_file() else {}
    wrong = next((key for key in plan.facts if theirs.get(key, plan.facts[key]) != plan.facts[key]), None)
    there = f"{wrong}: {theirs.get(wrong)}, now {plan.facts[wrong]}" if wrong is not None else ""
    if not there and result_file.is_file():
        there = differs(read_json(result_file), plan, reference)
    if there and not overwrite:
        raise ArgenzooError(f"{out} holds other samples or results ({there}): choose another --out, or --overwrite")
    if there:
        result_file.unlink(missing_ok=True)
        (out / GRID).unlink(missing_ok=True)
    if wrong is not None:
        samples.clear()
    replace_text(path, json.dumps(plan.facts, indent=1) + "\n")


def differs(made: dict[str, Any], plan: Plan, reference: Reference) -> str:
    """What a result that is there has of its own; empty where the new one continues it."""
    if made.get("plan") != plan.digest:
        return f"{EVALUATION} of {made.get('recipe')}"
    if (theirs := made["protocol"]["reference"]) != against(reference):
        return f"reference: {theirs.get('file', theirs.get('pixels'))}"
    return f"num: {made['num']:,}, now {plan.num:,}" if made["num"] > plan.num else ""


def against(reference: Reference) -> dict[str, Any]:
    """What a result says of its reference."""
    plain: dict[str, Any] = json.loads(json.dumps(reference.facts))
    return {**plain, "pictures": HOW} if "data" in plain else plain


def compared_with(recipe: Recipe, data: dict[str, Any], settings: Settings) -> Referring:
    """What makes the reference; what can be wrong with its name is found now."""
    cache, batch, name = Path(settings.cache), settings.batch, settings.reference
    if name is not None and data:
        raise ArgenzooError(f"--reference {name} and {next(iter(data))} both name a reference: give one of them")
    if name is not None and name not in datasets.names() and not Path(name).is_dir():
        if settings.reference_num is not None:
            raise ArgenzooError(f"--reference-num has no effect here: {name} is a file")
        if not Path(name).is_file():
            raise ArgenzooError(f"--reference {name}: no such file, folder or set")
        return lambda size, inception: of_file(Path(name), size, inception, cache)
    part = data_of(named_set(name)) if name is not None else reference_data(recipe, data)
    chosen(part, 8, settings.reference_num, held_out=False, option="--reference-num")
    return lambda size, inception: of_pictures(chosen(part, size, settings.reference_num, held_out=False), batch, inception, cache)


def reference_data(recipe: Recipe, data: dict[str, Any]) -> Part:
    """The recipe's data section: what the model was trained on, or what the user named."""
    part = named_by_user(recipe.data, data)
    if part is None:
        raise ArgenzooError(f"recipe '{recipe.name}' has no data: name a reference with --reference, a folder, a set, .npz or .safetensors")
    return part


def result(samples: Samples, reference: Reference, how: dict[str, Any]) -> dict[str, Any]:
    """What evaluation.json holds."""
    plan, inception, made = samples.plan, samples.inception, samples.facts()
    warn_of_few("FID", plan.num)
    figures, reasons = metrics.measured(samples.rows, reference)
    rules = {**plan.protocol.facts(), "resize": plan.resize, "precision": plan.precision, **metrics.PROTOCOL}
    how = {key: value for key, value in how.items() if key not in about() and key not in ("rounding", "device")}
    return {
        "kind": "gFID",
        "picture": GRID,
        "figures": figures,
        "reasons": reasons,
        "num": plan.num,
        "seed": plan.seed,
        "protocol": {**rules, "reference": against(reference)},
        **how,
        **made,
        "plan": plan.digest,
        "extractor": {"file": inception.source, "fingerprint": inception.sha256, "final_layer": inception.final_sha256},
        "versions": {**about(), "torch-fidelity": version("torch-fidelity")},
    }


def write(out: Path, made: dict[str, Any], samples: Samples) -> None:
    """The grid, a column a class where there are few, then the JSON."""
    columns = min(samples.plan.num_classes, COLUMNS) if samples.plan.num_classes > 1 else COLUMNS
    columns = min(columns, samples.plan.num)
    pictures = to_tensor(samples.shown(ROWS * columns)).float() / 255
    whole = pictures[: len(pictures) // columns * columns]
    rows = whole.view(-1, columns, *whole.shape[1:])
    facts = {**about(), "recipe": made["recipe"], "weights_sha256": made["weights_sha256"], "seed": str(made["seed"])}
    write_file(out / GRID, lambda temporary: save_png(grid(rows), temporary, facts))
    replace_text(out / EVALUATION, json.dumps(made, indent=1, allow_nan=False) + "\n")
