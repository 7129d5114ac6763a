"""An author's own code, from a checkout of theirs, timed beside ours: same sizes and steps, random weights. Nothing of theirs is here."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile

import torch

from argenzoo.benchmarking.theirs import DONE, READY
from argenzoo.errors import ArgenzooError
from argenzoo.recipe import Recipe


@dataclass(frozen=True)
class Peer:
    """``marker``: a file by which a checkout is known; ``kinds``: what of their code can be timed."""

    name: str
    marker: str
    kinds: tuple[str, ...]


PEERS = {
    "raster": Peer("LlamaGen", "autoregressive/models/gpt.py", ("tokens", "pictures")),
    "var": Peer("VAR", "models/var.py", ("pictures",)),
    "mar": Peer("MAR", "models/mar.py", ("tokens",)),
}


def peer_of(path: Path, recipe: Recipe) -> Peer:
    """Raises ArgenzooError where ``path`` is no checkout of the recipe's paper."""
    assert recipe.generator is not None
    peer = PEERS.get(recipe.generator.name)
    if peer is None:
        raise ArgenzooError(f"--peer: there is no author's code for generator '{recipe.generator.name}'")
    if not (path / peer.marker).is_file():
        raise ArgenzooError(f"--peer {path}: no {peer.marker} there; for '{recipe.name}' name a checkout of {peer.name}'s repository")
    return peer


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
        self._process = subprocess.Popen(command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors)
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
        self._process.wait()
        self._errors.seek(0)
        last = next((line for line in reversed(self._errors.read().splitlines()) if line.strip()), "it ended")
        raise ArgenzooError(f"--peer: {self.name}'s code does not run here: {last.strip()}")
