"""``argenzoo evaluate``, ``argenzoo stats`` and ``argenzoo tokenizer stats``."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from argenzoo.build import PRETRAINED, build_tokenizer, find, measure_scale, weights_in
from argenzoo.data.images import to_unit
from argenzoo.device import checked_device
from argenzoo.errors import ArgenzooError
from argenzoo.evaluation.features import Features, default_cache
from argenzoo.evaluation.inception import Inception, load_inception
from argenzoo.evaluation.pictures import Chosen, chosen
from argenzoo.evaluation.reconstruction import Figures, panels
from argenzoo.evaluation.statistics import Statistics, reference, statistics_of
from argenzoo.grids import save_grid
from argenzoo.losses.perceptual import lpips_network
from argenzoo.model import ARModel
from argenzoo.recipe import Recipe, data_part
from argenzoo.versions import about
from argenzoo.weights import fingerprint, replace_text

BATCH = 50
PROTOCOL = {
    "pictures": "short side resized to the image size, centre cut, uint8",
    "rounding": "round(255 x)",
    "psnr": "dB, data_range 255, on uint8, mean over pictures",
    "ssim": "scikit-image structural_similarity, 7 x 7 uniform window, data_range 255, mean over pictures and channels",
    "lpips": "lpips 0.1 (alex), on uint8, mean over pictures",
    "rfid": "Frechet distance (torch-fidelity) of FID Inception pool features: reconstructions against their originals",
    "codebook_usage": "share of the codes used at least once among codebook_window tokens a scale",
}


@dataclass
class Settings:
    """Where pictures, weights and results are.

    Args:
        num: pictures; None: all.
        inception, lpips: files of weights; None: what the packages bring or download.
        cache: folder of features and statistics.
    """

    num: int | None = None
    out: str | Path | None = None
    inception: str | None = None
    lpips: str | None = None
    cache: str | Path = field(default_factory=default_cache)
    device: str | None = None
    overwrite: bool = False


def evaluate(source: str | Path, overrides: dict[str, Any] | None = None, settings: Settings | None = None) -> dict[str, Any]:
    """Measure a tokenizer on pictures; writes evaluation.json and reconstructions.png to ``settings.out``, returns the JSON's content.

    Args:
        source: a tokenizer's checkpoint or run folder, or a recipe whose ``tokenizer.weights`` are named (``pretrained``: published).
        overrides: dotted keys, such as ``data.path``.

    Raises:
        ArgenzooError: no such tokenizer, weights or data; a generator's checkpoint.
    """
    settings = settings or Settings()
    out = free(settings)
    recipe = with_weights(source, overrides)
    device = checked_device(settings.device)
    tokenizer = build_tokenizer(recipe, device=device)
    pictures = chosen(recipe.data, tokenizer.image_size, settings.num)
    reasons: dict[str, str] = {}
    inception = attempt("rfid", reasons, lambda: load_inception(settings.inception, device))
    lpips = attempt("lpips", reasons, lambda: lpips_network("alex", settings.lpips).to(device))
    began = time.perf_counter()
    figures = Figures(tokenizer, lpips, None if inception is None else Features(inception, Path(settings.cache)))
    for batch in progress(pictures, "reconstructing"):
        figures.add(batch, device)
    rfid, against = (None, None) if inception is None else fid(figures, pictures, inception, Path(settings.cache))
    made = {
        "figures": {"rfid": rfid, "lpips": None, **figures.means(), **figures.codebook()},
        "reasons": reasons,
        "protocol": {**PROTOCOL, "reference": against and {"pixels": against.pixels, "count": against.count, "kind": "rFID"}},
        "data": {**recipe.data.dump(), "num": len(pictures), "part": pictures.part} if recipe.data else None,
        "recipe": recipe.name,
        "weights": {"file": recipe.tokenizer.weights, "tokenizer": fingerprint(tokenizer.state_dict())},
        "extractors": {"inception": inception and {"file": inception.source, "sha256": inception.sha256}, "lpips": settings.lpips},
        "seconds": round(time.perf_counter() - began, 1),
        "device": str(device),
        "versions": {**about(), **{name: version(name) for name in ("torch-fidelity", "scikit-image", "lpips")}},
    }
    write(out, made, figures)
    return made


def free(settings: Settings) -> Path:
    """The folder for the results. Raises ArgenzooError where it holds results already, or is a file."""
    out = Path(settings.out or "evaluation")
    if out.exists() and not out.is_dir():
        raise ArgenzooError(f"--out {out} is a file: name a folder")
    if (out / "evaluation.json").is_file() and not settings.overwrite:
        raise ArgenzooError(f"{out} holds an evaluation already: choose another --out, or --overwrite")
    return out


def with_weights(source: str | Path, overrides: dict[str, Any] | None) -> Recipe:
    """A tokenizer's recipe that names its weights."""
    recipe, folder = find(source, overrides)
    if folder is not None and recipe.generator is not None:
        raise ArgenzooError(f"{folder} is a generator's checkpoint: evaluate measures tokenizers, name the tokenizer's run folder")
    if folder is not None:
        recipe = replace(recipe, tokenizer=replace(recipe.tokenizer, weights=str(weights_in(folder)), sha256=None))
    if recipe.tokenizer.weights is None:
        hint = f", or to {PRETRAINED}" if recipe.pretrained is not None else ""
        raise ArgenzooError(f"recipe '{recipe.name}' has no weights to measure: set tokenizer.weights to a run folder or file{hint}")
    return recipe


def attempt(name: str, reasons: dict[str, str], load: Callable[[], Any]) -> Any | None:
    """What ``load`` gives; None, and the reason, where its weights can't be had."""
    try:
        return load()
    except ArgenzooError as error:
        reasons[name] = " ".join(str(error).split())
        tqdm.write(f"warning: no {name}: {reasons[name]}", file=sys.stderr)
        return None


def fid(figures: Figures, pictures: Chosen, inception: Inception, cache: Path) -> tuple[float, Statistics]:
    """(rFID, the statistics of the originals)."""
    assert figures.features is not None
    theirs, _ = reference(lambda: progress(pictures, "originals"), inception, cache)
    ours = statistics_of(*figures.features.finish(), inception.sha256)
    return ours.distance(theirs), theirs


def progress(pictures: Chosen, what: str) -> Iterator[np.ndarray]:
    with tqdm(total=len(pictures), desc=what, unit="picture", disable=not sys.stderr.isatty()) as bar:
        for batch in pictures.batches(BATCH):
            yield batch
            bar.update(len(batch))


def write(out: Path, made: dict[str, Any], figures: Figures) -> None:
    facts = {**about(), "recipe": made["recipe"], "tokenizer": made["weights"]["tokenizer"]}
    out.mkdir(parents=True, exist_ok=True)
    save_grid(panels(figures.shown), out / "reconstructions.png", facts)
    replace_text(out / "evaluation.json", json.dumps(made, indent=1) + "\n")


def table(made: dict[str, Any]) -> str:
    """The figures for a person."""
    plain = {key: value for key, value in made["figures"].items() if not isinstance(value, list)}
    rows = [f"{key:28} {'-  ' + made['reasons'].get(key, '') if value is None else f'{value:.4f}'}" for key, value in plain.items()]
    return "\n".join(rows)


def stats(pairs: dict[str, Any], size: int, settings: Settings) -> tuple[Statistics, Path]:
    """Reference statistics of a set at ``size`` px, computed where the cache has none of its hash; a copy goes to ``settings.out``.

    Args:
        pairs: dotted keys of the data alone, ``{"data.name": "folder", "data.path": ...}``.

    Raises:
        ArgenzooError: no such set, a key of something else, a file that is there.
    """
    wrong = next((key for key in pairs if not key.startswith("data.")), None)
    if wrong is not None:
        raise ArgenzooError(f"'{wrong}': only the data matter here, data.name=... data.path=...")
    out = settings.out and Path(settings.out)
    if out and (out.suffix != ".safetensors" or (out.exists() and not settings.overwrite)):
        wrong = "is there already: choose another, or --overwrite" if out.exists() else "should end in .safetensors"
        raise ArgenzooError(f"--out {out} {wrong}")
    section = {"held_out": 0.0, **{key.removeprefix("data."): value for key, value in pairs.items()}}
    pictures = chosen(data_part(section), size, settings.num)
    inception = load_inception(settings.inception, checked_device(settings.device))
    found, path = reference(lambda: progress(pictures, "pictures"), inception, Path(settings.cache))
    if out:
        found.save(out)
    return found, out or path


def latent_stats(source: str | Path, overrides: dict[str, Any] | None, settings: Settings) -> dict[str, Any]:
    """Measure a tokenizer's latent scale on training pictures; with ``settings.out``, write a checkpoint that has it in its configuration.

    Returns:
        ``latent_scale``: a factor a scale; ``before``: what it was; ``num`` pictures.
    """
    recipe = with_weights(source, overrides)
    device = checked_device(settings.device)
    tokenizer = build_tokenizer(recipe, device=device)
    before = tokenizer.scale.factors.tolist()
    pictures = chosen(recipe.data, tokenizer.image_size, settings.num, held_out=False)
    count = measure_scale(tokenizer, units(progress(pictures, "encoding"), device))
    factors = tokenizer.scale.factors.tolist()
    if settings.out is not None:
        value = factors[0] if len(factors) == 1 else tuple(factors)
        scaled = recipe.with_part("tokenizer", latent_scale=value)
        model = ARModel(tokenizer, None, None, replace(scaled, tokenizer=replace(scaled.tokenizer, weights=None)))
        model.save_pretrained(settings.out, overwrite=settings.overwrite)
    return {"latent_scale": factors, "before": before, "num": count}


def units(batches: Iterable[np.ndarray], device: torch.device) -> Iterator[Tensor]:
    """uint8 (n, H, W, 3) -> (n, 3, H, W) in [-1, 1]."""
    for batch in batches:
        yield to_unit(torch.from_numpy(batch).permute(0, 3, 1, 2)).to(device)
