"""An author's own code, from a checkout of theirs, timed beside ours: same sizes and steps, random weights. Nothing of theirs is here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile

import torch

from argenzoo.benchmarking.theirs import DONE, READY, config
from argenzoo.errors import ArgenzooError
from argenzoo.recipe import Recipe


@dataclass(frozen=True)
class Peer:
    """``marker``: a file by which a checkout is known; ``kinds``: what of their code can be timed."""

    name: str
    marker: str
    kinds: tuple[str, ...]


PEERS = {  # generator, head, conditioner
    ("raster", "cross_entropy", "class_labels"): Peer("LlamaGen", "autoregressive/models/gpt.py", ("tokens", "pictures", "training")),
    ("var", "cross_entropy", "class_labels"): Peer("VAR", "models/var.py", ("pictures", "training")),
    ("mar", "diffusion", "class_labels"): Peer("MAR", "models/mar.py", ("tokens", "training")),
}


def peer_of(path: Path, recipe: Recipe, kinds: Collection[str] = ()) -> Peer:
    """``kinds``: what is timed.

    Raises:
        ArgenzooError: ``path`` is no checkout of the recipe's paper, or their code can't be made so.
    """
    assert recipe.generator is not None
    assert recipe.head is not None
    assert recipe.conditioner is not None
    parts = recipe.generator.name, recipe.head.name, recipe.conditioner.name
    peer = PEERS.get(parts)
    if peer is None:
        raise ArgenzooError(f"--peer: no author has code for {', '.join(parts)} (recipe '{recipe.name}')")
    if not (path / peer.marker).is_file():
        raise ArgenzooError(f"--peer {path}: no {peer.marker} there; for '{recipe.name}' name a checkout of {peer.name}'s repository")
    wrong = [f"{key} {value}, there {theirs}" for key, value, theirs in fixed(recipe, kinds) if value != theirs]
    if wrong:
        raise ArgenzooError(f"--peer: recipe '{recipe.name}' can't be built in {peer.name}'s code: {'; '.join(wrong)}")
    return peer


def fixed(recipe: Recipe, kinds: Collection[str]) -> Iterator[tuple[str, object, object]]:
    """(setting, the recipe's value, the only one that the author's code has)."""
    generator, space, sampling = config(recipe, "generator"), config(recipe, "tokenizer"), config(recipe, "sampling")
    yield "order", getattr(generator, "order", "raster"), "raster"
    yield "mlp_ratio", getattr(generator, "mlp_ratio", 4.0), 4.0
    if hasattr(space, "scales"):
        yield "generator.dim", generator.dim, 64 * generator.depth
        yield "generator.num_heads", generator.num_heads, generator.depth
        yield "tokenizer.vocab_size", space.vocab_size, 4096
        yield "tokenizer.dim", space.dim, 32
        yield "tokenizer.channels", space.channels, 160
        yield "sampling.ramp", sampling.guidance.ramp, "step"
    if hasattr(generator, "buffer_size"):
        yield "sampling.ramp", sampling.guidance.ramp, "revealed"
        yield "sampling.head.solver", sampling.head.solver, "ancestral"
        yield "sampling.head.last_steps", sampling.head.last_steps, None
        yield "generator.mask_ratio_std", generator.mask_ratio_std, 0.25
    if "training" in kinds and recipe.train is not None:
        if hasattr(generator, "drop_path"):
            yield "generator.drop_path", round(generator.drop_path, 4), round(0.1 * generator.depth / 24, 4)
        yield "train.optimizer", recipe.train.optimizer, "adamw"
        yield "train.checkpointing", recipe.train.checkpointing, False
        yield "train.only", recipe.train.only, ()


class PeerRun:
    """A process of theirs, ready to run; every call is one run.

    Raises:
        ArgenzooError: their code can't be imported, built or run; its last line is said.
    """

    def __init__(self, path: Path, recipe: Recipe, kind: str, batch: int, precision: str, device: torch.device) -> None:
        self.name = peer_of(path, recipe).name
        wanted = {"path": str(path), "recipe": recipe.dump(), "kind": kind, "batch": batch, "precision": precision, "device": str(device)}
        # a file, since a talkative process would wait for ever for somebody to empty a pipe
        self._errors = TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115
        command = [sys.executable, "-m", f"{__package__}.theirs"]
        hidden = {"CUDA_VISIBLE_DEVICES": ""} if device.type == "cpu" else {}  # VAR's code takes a GPU where there is one
        self._process = subprocess.Popen(
            command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, env={**os.environ, **hidden}
        )
        self._say(json.dumps({**wanted, "threads": torch.get_num_threads()}))
        self._expect(READY)

    def __call__(self) -> None:
        self._say("")
        self._expect(DONE)

    def close(self) -> None:
        self._process.communicate()
        self._errors.close()

    def _say(self, line: str) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(f"{line}\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            self._failed()

    def _expect(self, answer: str) -> None:
        assert self._process.stdout is not None
        if self._process.stdout.readline().strip() != answer:
            self._failed()

    def _failed(self) -> None:
        self._process.kill()  # where it still waits for a word of ours
        self._process.wait()
        self._errors.seek(0)
        last = next((line for line in reversed(self._errors.read().splitlines()) if line.strip()), "it ended")
        raise ArgenzooError(f"--peer: {self.name}'s code does not run here: {last.strip()}")
