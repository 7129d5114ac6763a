"""A tokenizer's figures, how they came about, and a picture."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from argenzoo.build import build_tokenizer
from argenzoo.checkpoint import EVALUATION
from argenzoo.device import checked_device
from argenzoo.errors import ArgenzooError
from argenzoo.evaluation.features import Features
from argenzoo.evaluation.inception import load_inception
from argenzoo.evaluation.pictures import HOW, Chosen, chosen
from argenzoo.evaluation.reconstruction import Figures, panels
from argenzoo.evaluation.settings import GENERATORS, Settings, free, warn_of_few, with_weights
from argenzoo.evaluation.statistics import reference, statistics_of
from argenzoo.grids import grid, save_png
from argenzoo.losses.perceptual import lpips_network
from argenzoo.versions import about
from argenzoo.weights import fingerprint, replace_text, write_file

RESULTS = (EVALUATION, "reconstructions.png")
PROTOCOL = {
    "pictures": HOW,
    "latent": "deterministic: of a KL tokenizer the posterior's mean",
    "rounding": "round(255 x)",
    "psnr": "dB of uint8, data_range 255, 100 where nothing differs, mean over pictures",
    "ssim": "scikit-image structural_similarity of uint8, 7 x 7 uniform window, data_range 255, mean over channels and pictures",
    "lpips": "lpips 0.1 (alex) of uint8, mean over pictures",
    "rfid": "Frechet distance (torch-fidelity) of FID Inception pool features of uint8: reconstructions against their originals",
    "codebook_usage": "share of the codes used at least once among codebook_window tokens a scale",
}


def evaluate_tokenizer(source: str | Path, overrides: dict[str, Any], settings: Settings) -> dict[str, Any]:
    """``argenzoo.evaluation.command.evaluate`` for a tokenizer: rFID, PSNR, SSIM, LPIPS, codebook usage."""
    settings.refuse(GENERATORS, "this is a tokenizer")
    out, device = free(settings, RESULTS), checked_device(settings.device)
    recipe = with_weights(source, overrides)
    tokenizer = build_tokenizer(recipe, device=device)
    pictures = chosen(recipe.data, tokenizer.image_size, settings.num)
    figures, extractors = prepare(tokenizer, settings, device)
    began = time.perf_counter()
    for batch in pictures.batches(settings.batch, "reconstructing"):
        figures.add(batch, device)
    rfid, against = distance(figures, pictures, settings)
    made = {
        "kind": "rFID",
        "picture": RESULTS[1],
        "figures": {"rfid": rfid, **figures.result()},
        "reasons": figures.reasons,
        "protocol": {**PROTOCOL, "reference": against},
        "data": pictures.facts(),
        "recipe": recipe.name,
        "tokenizer": {**recipe.tokenizer.dump(), "fingerprint": fingerprint(tokenizer.state_dict())},
        "extractors": extractors,
        "seconds": round(time.perf_counter() - began, 1),
        "device": str(device),
        "versions": {**about(), **{name: version(name) for name in ("torch-fidelity", "scikit-image", "lpips")}},
    }
    write(out, made, figures)
    return made


def prepare(tokenizer: Any, settings: Settings, device: torch.device) -> tuple[Figures, dict[str, Any]]:
    """(the figures to fill, what is said of the networks that they need)."""
    reasons: dict[str, str] = {}
    inception = attempt("rfid", reasons, settings.inception, lambda: load_inception(settings.inception, device))
    lpips = attempt("lpips", reasons, settings.lpips, lambda: lpips_network("alex", settings.lpips, "--lpips").to(device))
    extractors = {
        "inception": inception and {"file": inception.source, "fingerprint": inception.sha256},
        "lpips": lpips and {"file": settings.lpips or "torchvision", "fingerprint": fingerprint(lpips.state_dict())},
    }
    features = None if inception is None else Features(inception, Path(settings.cache))
    return Figures(tokenizer, lpips, features, reasons), extractors


def attempt(name: str, reasons: dict[str, str], named: str | None, load: Callable[[], Any]) -> Any | None:
    """What ``load`` gives; None, and the reason, where its weights can't be had. A file that the user named must do."""
    try:
        return load()
    except ArgenzooError as error:
        if named is not None:
            raise
        reasons[name] = " ".join(str(error).split())
        tqdm.write(f"warning: no {name}: {reasons[name]}", file=sys.stderr)
        return None


def distance(figures: Figures, pictures: Chosen, settings: Settings) -> tuple[float | None, dict[str, Any]]:
    """(rFID, what it was measured against)."""
    against: dict[str, Any] = {"kind": "rFID", "pixels": figures.pixels.finish(), "count": figures.pixels.count}
    if figures.features is None:
        return None, against
    try:
        ours = statistics_of(figures.features)
    except ArgenzooError as error:
        figures.reasons["rfid"] = str(error)
        return None, against
    warn_of_few("rFID", ours.count)
    originals = partial(pictures.batches, settings.batch, "originals")
    theirs, kept = reference(against["pixels"], originals, figures.features.inception, Path(settings.cache))
    return ours.pool.distance(theirs.pool), {**against, "kept": kept}


def write(out: Path, made: dict[str, Any], figures: Figures) -> None:
    """The picture, then the JSON."""
    facts = {**about(), "recipe": made["recipe"], "tokenizer": made["tokenizer"]["fingerprint"]}
    write_file(out / RESULTS[1], lambda temporary: save_png(grid(panels(figures.shown)), temporary, facts))
    replace_text(out / RESULTS[0], json.dumps(made, indent=1) + "\n")
