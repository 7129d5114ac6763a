"""Samples of a model and their features, chunk by chunk in files: every process makes its share, and an interrupted run goes on."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from argenzoo.device import autocast, hardware
from argenzoo.errors import ArgenzooError
from argenzoo.evaluation.features import CHUNK, features_of, hashed, kept
from argenzoo.evaluation.inception import Inception
from argenzoo.evaluation.protocol import Protocol, resized
from argenzoo.grids import save_png
from argenzoo.model import ARModel
from argenzoo.versions import about
from argenzoo.weights import read_about, read_weights, save_weights, write_file

SHOWN = 100  # pictures that are kept for the grid
FOLDER, PICTURES = "samples", "pictures"


@dataclass(frozen=True)
class Plan:
    """What a sample depends on besides its number.

    Args:
        num: samples; more of them later go on from those that are there.
        facts: everything else, as it is written: weights, sampling, seed, protocol, size.
    """

    num: int
    seed: int
    protocol: Protocol
    resize: int | None
    precision: str
    num_classes: int
    facts: dict[str, Any]

    @property
    def digest(self) -> str:
        return hashlib.sha256(json.dumps(self.facts, sort_keys=True).encode()).hexdigest()

    def labels(self, indices: Sequence[int]) -> list[int]:
        return [self.protocol.labels(index, self.num_classes, self.seed) for index in indices]

    def chunks(self) -> list[range]:
        """The samples' numbers, ``CHUNK`` a file."""
        return [range(start, min(start + CHUNK, self.num)) for start in range(0, self.num, CHUNK)]


class Samples:
    """The chunks of a plan, in ``out``/samples.

    Args:
        out: shared by the processes.
        inception: makes the features.
        keep: write every picture as PNG too, into ``out``/pictures.
    """

    def __init__(self, plan: Plan, out: Path, inception: Inception, keep: bool = False) -> None:
        self.plan, self.out, self.inception, self.keep = plan, out, inception, keep

    def file(self, chunk: range) -> Path:
        return self.out / FOLDER / f"{chunk.start:07d}.safetensors"

    def picture(self, index: int) -> Path:
        return self.out / PICTURES / f"{index:07d}_class{self.plan.labels([index])[0]:04d}.png"

    def is_done(self, chunk: range) -> bool:
        """Whether its file is whole and of this plan."""
        path = self.file(chunk)
        if kept(path, len(chunk), self.inception.provides) is None:
            return False
        told, final = read_about(path), self.inception.final_sha256
        if told.get("plan") != self.plan.digest or (final is not None and told.get("final_layer") != final):
            return False
        return not self.keep or all(self.picture(index).is_file() for index in chunk)

    def clear(self) -> None:
        """Remove what another plan left."""
        for path in [*(self.out / FOLDER).glob("[0-9]*.safetensors"), *(self.out / PICTURES).glob("[0-9]*_class*.png")]:
            path.unlink()

    def make(self, model: ARModel, batch: int, rank: int, world: int) -> None:
        """This process's share of what is missing, ``batch`` pictures at a time; a kill loses at most one batch and one chunk."""
        chunks = self.plan.chunks()[rank::world]
        todo = [chunk for chunk in chunks if not self.is_done(chunk)]
        indices = [index for chunk in todo for index in chunk]
        total = sum(map(len, chunks))
        waiting: list[tuple[np.ndarray, float]] = []  # a picture and its seconds
        with tqdm(total=total, initial=total - len(indices), desc="sampling", unit="picture", disable=rank > 0) as bar, model.executing():
            for start in range(0, len(indices), batch):
                waiting += self.sampled(model, indices[start : start + batch])
                bar.update(min(batch, len(indices) - start))
                while todo and len(waiting) >= len(todo[0]):
                    chunk = todo.pop(0)
                    self._write(chunk, waiting[: len(chunk)], batch, hardware(model.device))
                    del waiting[: len(chunk)]

    def sampled(self, model: ARModel, indices: list[int]) -> Iterator[tuple[np.ndarray, float]]:
        began = time.perf_counter()
        with autocast(model.device, self.plan.precision):
            pictures = model.generate(self.plan.labels(indices), seed=self.plan.seed, indices=indices)
        made = self.plan.protocol.bytes(resized(pictures, self.plan.resize))
        seconds = (time.perf_counter() - began) / len(indices)
        return ((picture, seconds) for picture in made)

    def _write(self, chunk: range, made: Sequence[tuple[np.ndarray, float]], batch: int, where: str) -> None:
        pictures, seconds = np.stack([picture for picture, _ in made]), sum(spent for _, spent in made) / len(made)
        for index, picture in zip(chunk, pictures, strict=True) if self.keep else ():
            self._write_picture(index, picture)
        shown = {"pixels": torch.from_numpy(pictures)} if chunk.start < SHOWN else {}
        facts = {"plan": self.plan.digest, "pixels": hashed(pictures), "seconds": f"{seconds:.6f}", "batch": str(batch), "hardware": where}
        facts |= {"final_layer": self.inception.final_sha256 or "none"}
        tensors = {**features_of(self.inception, pictures), **shown}
        write_file(self.file(chunk), lambda temporary: save_weights(temporary, tensors, {**about(), **facts}))

    def _write_picture(self, index: int, picture: np.ndarray) -> None:
        facts = {**about(), "plan": self.plan.digest, "index": str(index)}
        write_file(self.picture(index), lambda temporary: save_png(picture, temporary, facts))

    def rows(self, name: str) -> Iterator[Tensor]:
        """Features (n, D), chunk by chunk; nothing where the Inception has none of this name."""
        return (read_weights(self.file(chunk))[name] for chunk in self.plan.chunks() if name in self.inception.provides)

    def shown(self, count: int) -> np.ndarray:
        """The first pictures (n, H, W, 3)."""
        chunks = [chunk for chunk in self.plan.chunks() if chunk.start < min(count, SHOWN)]
        return np.concatenate([read_weights(self.file(chunk))["pixels"].numpy() for chunk in chunks])[:count]

    def facts(self) -> dict[str, Any]:
        """A hash of all samples' bytes; seconds an image, the median over chunks (sampling, decoding and bytes, not the Inception); where
        and in what batches they were made."""
        if any(not self.is_done(chunk) for chunk in self.plan.chunks()):
            raise ArgenzooError(f"{self.out / FOLDER} was changed while samples were made: start again, what is whole stays")
        told = [read_about(self.file(chunk)) for chunk in self.plan.chunks()]
        return {
            "samples": hashlib.sha256("".join(one["pixels"] for one in told).encode()).hexdigest(),
            "seconds_an_image": round(median(float(one["seconds"]) for one in told), 6),
            "batch": ", ".join(sorted({one["batch"] for one in told}, key=int)),
            "hardware": "; ".join(sorted({one["hardware"] for one in told})),
        }


def classes_of(model: ARModel) -> int:
    """Raises ArgenzooError where a model is not conditioned on class labels."""
    count = getattr(model.conditioner.config, "num_classes", None)
    if count is None:
        raise ArgenzooError("this model is conditioned on text: only models of class labels are measured so far")
    return int(count)
