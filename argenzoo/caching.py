"""``argenzoo cache``: encode every view of every picture once, in shards, resumable and parallel over processes."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from argenzoo.build import ENCODED_AT_ONCE, build_tokenizer, encoded
from argenzoo.data.allviews import AllViews
from argenzoo.data.cache import MANIFEST, UNSEEN, Manifest, PartName, shard_path
from argenzoo.data.crops import CUTS
from argenzoo.data.images import ImageSet, split, to_unit
from argenzoo.data.shards import Shard, open_shard, write_shard
from argenzoo.data.views import Views
from argenzoo.device import PATIENCE, checked_device
from argenzoo.errors import ArgenzooError
from argenzoo.recipe import Recipe
from argenzoo.registry import datasets
from argenzoo.versions import about
from argenzoo.weights import fingerprint, replace_text


@dataclass(frozen=True)
class Job:
    """One part of the cache, as this process writes it.

    Args:
        settings: what the tokens depend on; a shard's ``key`` is its hash.
    """

    folder: Path
    part: PartName
    pictures: AllViews
    tokenizer: Any
    dtype: np.dtype
    per_shard: int
    settings: dict[str, Any]

    @property
    def shards(self) -> int:
        return -(-len(self.pictures) // self.per_shard)

    @property
    def key(self) -> str:
        text = json.dumps({**self.settings, "part": self.part, "views": self.pictures.count, "samples": len(self.pictures)}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def present(self, number: int) -> Shard | None:
        """A shard that is there and whole; None where it must be written. Raises ArgenzooError where it is another cache's."""
        path = shard_path(self.folder, self.part, number)
        if not path.is_file():
            return None
        try:
            shard = open_shard(path)
        except ArgenzooError:
            return None
        if shard.about.get("key") != self.key:
            raise ArgenzooError(f"{path} was made with other data, settings or weights: choose another --out, or remove {self.folder}")
        return shard if shard.checksum() == shard.about["sha256"] else None

    def write(self, number: int, workers: int, tick: Callable[[int], object]) -> None:
        """Encode a shard's samples, all views of each."""
        positions = range(number * self.per_shard, min((number + 1) * self.per_shard, len(self.pictures)))
        loader = DataLoader(self.pictures, sampler=positions, batch_size=None, num_workers=workers)
        tokens, labels, notes = [], [], []
        waiting: list[Tensor] = []
        for item in loader:
            if isinstance(item, ArgenzooError):
                raise item
            pictures, label, wrong = item
            waiting.append(pictures)
            labels.append(label)
            notes += wrong
            if sum(map(len, waiting)) >= ENCODED_AT_ONCE or len(labels) == len(positions):
                tokens.append(self._encode(torch.cat(waiting)))
                tick(len(waiting))
                waiting = []
        classes = len(self.pictures.views.classes)
        if not 0 <= min(labels) <= max(labels) < classes:
            raise ArgenzooError(f"the data hold labels from {min(labels)} to {max(labels)}, they have {classes} classes")
        stored = np.concatenate(tokens).reshape(len(positions), self.pictures.count, *tokens[0].shape[1:])
        facts = {"key": self.key, "corrupt": json.dumps(notes), "largest": str(float(max(stored.max(), -stored.min().astype(np.float64))))}
        write_shard(shard_path(self.folder, self.part, number), stored, np.array(labels, np.int32), facts)

    def _encode(self, pictures: Tensor) -> np.ndarray:
        device = next(self.tokenizer.parameters()).device
        made = encoded(self.tokenizer, to_unit(pictures.to(device))).cpu().numpy()
        if not np.isfinite(made).all():
            raise ArgenzooError("the tokenizer makes values that are not finite: its weights are damaged")
        stored = made.astype(self.dtype)
        if not np.isfinite(stored).all():
            raise ArgenzooError(f"the tokenizer's values exceed {self.dtype}: use --dtype float32")
        return stored


def cache(
    recipe: Recipe, out: str | Path, dtype: str = "float32", copies: int | None = None, per_shard: int = 4096, device: str | None = None
) -> Manifest:
    """Write what is missing of a recipe's cache; returns its manifest.

    Args:
        dtype: of vectors and moments, float32 or float16; ids are kept in 16 bits where the codebook allows.
        copies: random cuts of each picture, where ``data.crop`` is random.
        per_shard: samples a file; a kill loses at most one file a process.

    Raises:
        ArgenzooError: no data or tokenizer weights, ``out`` holds another cache, a corrupt picture.
    """
    if recipe.data is None:
        raise ArgenzooError(f"recipe '{recipe.name}' has no data section: there is nothing to encode")
    if recipe.tokenizer.weights is None:
        raise ArgenzooError(
            f"recipe '{recipe.name}' needs a trained tokenizer: set tokenizer.weights to its run folder or .safetensors file"
            + (", or to pretrained" if recipe.pretrained is not None else "")
        )
    if per_shard < 1 or (copies is not None and copies < 1):
        raise ArgenzooError("--shard and --copies must be at least 1")
    state, folder = Accelerator(kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)]), Path(out)
    if device is not None and state.num_processes > 1:
        raise ArgenzooError("--device names one device, and there are several processes: leave it out, each takes its own")
    tokenizer = build_tokenizer(recipe, device=state.device if device is None else checked_device(device))
    began = time.perf_counter()
    folder.mkdir(parents=True, exist_ok=True)
    images = datasets.get(recipe.data.name)(recipe.data.config)
    jobs = [job for job in jobs_of(recipe, folder, images, tokenizer, dtype, copies, per_shard) if len(job.pictures)]
    for job in jobs:
        run(job, state, recipe.train.workers if recipe.train else 0)
    state.wait_for_everyone()
    facts = {**about(), "recipe": recipe.name, "processes": str(state.num_processes), "seconds": f"{time.perf_counter() - began:.1f}"}
    manifest = manifest_of(jobs, images, tokenizer, facts)
    if state.is_main_process:
        replace_text(folder / MANIFEST, manifest.model_dump_json(indent=1) + "\n")
    state.wait_for_everyone()  # or another process looks for it too early
    return manifest


def jobs_of(recipe: Recipe, folder: Path, images: Any, tokenizer: Any, dtype: str, copies: int | None, per_shard: int) -> list[Job]:
    """Training and held-out part."""
    assert recipe.data is not None
    config, seed = recipe.data.config, recipe.train.seed if recipe.train else 0
    kind = storage(tokenizer, dtype)
    settings = {
        "tokenizer": replace(recipe.tokenizer, weights=None, sha256=None).dump(),
        "tokenizer_sha256": fingerprint(tokenizer.state_dict()),
        "data": {key: value for key, value in recipe.data.dump().items() if key not in UNSEEN},
        "cuts": CUTS,
        "dtype": str(kind),
        "per_shard": per_shard,
    }
    parts: dict[PartName, np.ndarray] = dict(zip(("train", "held_out"), split(images, config), strict=True))
    config = config.model_copy(update={"in_memory": False})
    return [
        Job(
            folder, part, AllViews(Views(images, config, tokenizer.image_size, indices, seed, augment=part == "train"), copies),
            tokenizer, kind, per_shard, settings,
        )
        for part, indices in parts.items()
    ]  # fmt: skip


def storage(tokenizer: Any, dtype: str) -> np.dtype:
    """What a token is kept in."""
    if dtype not in ("float32", "float16"):
        raise ArgenzooError(f"--dtype must be float32 or float16, not {dtype}")
    vocab_size = tokenizer.space.vocab_size
    if vocab_size is None:
        return np.dtype(dtype)
    if dtype != "float32":
        raise ArgenzooError("--dtype has no effect: this tokenizer's tokens are ids")
    return np.dtype(np.uint16 if vocab_size <= 1 << 16 else np.int32)


def run(job: Job, state: Accelerator, workers: int) -> None:
    """This process's shards: every ``num_processes``-th."""
    mine = range(state.process_index, job.shards, state.num_processes)
    total = sum(min(job.per_shard, len(job.pictures) - number * job.per_shard) for number in mine)
    with tqdm(total=total, desc=f"{job.folder.name}/{job.part}", unit="picture", disable=not state.is_main_process) as bar:
        for number in mine:
            shard = job.present(number)
            if shard is None:
                job.write(number, workers, bar.update)
            else:
                bar.update(len(shard.labels))


def manifest_of(jobs: list[Job], images: ImageSet, tokenizer: Any, facts: dict[str, str]) -> Manifest:
    """From the shards' headers."""
    shards = {job.part: [open_shard(shard_path(job.folder, job.part, number)) for number in range(job.shards)] for job in jobs}
    every = [shard for part in shards.values() for shard in part]
    parts = {
        job.part: {
            "count": len(job.pictures),
            "views": job.pictures.count,
            "corrupt": len({note for shard in shards[job.part] for note in json.loads(shard.about["corrupt"])}),
        }
        for job in jobs
    }
    values = {
        **{key: jobs[0].settings[key] for key in ("tokenizer", "tokenizer_sha256", "data", "cuts", "dtype", "per_shard")},
        "image_size": tokenizer.image_size,
        "classes": images.classes,
        "shape": every[0].tokens.shape[2:],
        "largest": max(float(shard.about["largest"]) for shard in every),
        "parts": {"held_out": {"count": 0, "views": 1}, **parts},
        "about": facts,
    }
    return Manifest.parse(values, MANIFEST)
