"""Codebook health while training: usage over windows, codes to start from, and new lives for dead ones."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from argenzoo.losses.usage import counts_of, usage
from argenzoo.protocols import TokenSpace
from argenzoo.rng import philox

ROUNDS = 10  # of k-means
AT_ONCE = 4096  # vectors that are compared with all codes


class CodebookWatch:
    """Counts over two windows, both kept in checkpoints: since the last log line, and since the last restart of dead codes.

    Args:
        tokenizer: with a ``codebook``.
        restart: steps between two restarts; None: never.
    """

    def __init__(self, tokenizer: Any, seed: int, restart: int | None) -> None:
        self.tokenizer, self.codebook, self.seed, self.restart = tokenizer, tokenizer.codebook, seed, restart
        shape = len(tokenizer.space.scales), self.codebook.num_embeddings
        self.logged, self.idle = (torch.zeros(shape, dtype=torch.long, device=self.codebook.weight.device) for _ in range(2))

    def note(self, ids: Tensor) -> None:
        counts = counts_of(ids, self.tokenizer.space, self.codebook.num_embeddings)
        self.logged += counts
        self.idle += counts

    def figures(self, accelerator: Any) -> dict[str, float]:
        """Over the window that ends now, of all processes."""
        counts = accelerator.reduce(self.logged, "sum")
        self.logged.zero_()
        return {**usage(counts.cpu(), self.tokenizer.space), "codebook_window": float(counts.sum())}

    def due(self, step: int) -> bool:
        return self.restart is not None and (step + 1) % self.restart == 0

    def total(self, accelerator: Any) -> dict[str, Tensor]:
        """Both windows, of all processes: what a checkpoint keeps."""
        return {name: accelerator.reduce(getattr(self, name), "sum") for name in ("logged", "idle")}

    @torch.no_grad()
    def revive(self, step: int, vectors: Tensor, averaged: Any, optimizer: Any, accelerator: Any) -> None:
        """Codes that no process used become vectors (B, N, C) of the last batch, each scale giving as many; the main process chooses."""
        used = accelerator.reduce(self.idle, "sum").sum(0) > 0
        self.idle.zero_()
        places = spread(vectors.shape[:2], self.tokenizer.space, int((~used).sum()), philox(self.seed, "restart", step))
        dead = (~used).nonzero().flatten()[: len(places)]
        if not len(dead):
            return
        self.codebook.replace(dead, vectors.flatten(0, 1)[places.to(vectors.device)], used.nonzero().flatten())
        if accelerator.num_processes > 1:
            torch.distributed.broadcast(self.codebook.weight, 0)
        averaged.codebook.weight[dead] = self.codebook.weight[dead]
        for moment in optimizer.state[self.codebook.weight].values():
            if moment.shape == self.codebook.weight.shape:
                moment[dead] = 0


def spread(shape: torch.Size, space: TokenSpace, count: int, rng: np.random.Generator) -> Tensor:
    """At most ``count`` different places among (B, N) tokens, as many from each scale; what a coarse one lacks the finer ones give."""
    batch, tokens = shape
    places: list[np.ndarray] = []
    start = 0
    for left, size in zip(range(len(space.sizes), 0, -1), space.sizes, strict=True):
        share = min(round(count / left), batch * size)
        chosen = rng.choice(batch * size, share, replace=False)
        places.append(chosen // size * tokens + start + chosen % size)
        start, count = start + size, count - share
    return torch.from_numpy(rng.permutation(np.concatenate(places)))


@torch.no_grad()
def start_from(tokenizer: Any, examples: Iterable[Tensor], how: str, seed: int) -> None:
    """Fill the codebook from encoded pictures: vectors at random (data), or their k-means centres."""
    vectors = torch.cat([tokenizer.reconstruct(part).vectors for part in examples])  # (B, N, C)
    codebook, flat = tokenizer.codebook, vectors.flatten(0, 1)
    places = spread(vectors.shape[:2], tokenizer.space, codebook.num_embeddings, philox(seed, "codebook", 0))
    rows, nobody = torch.arange(len(places), device=flat.device), torch.zeros(0, dtype=torch.long, device=flat.device)
    codebook.replace(rows, flat[places.to(flat.device)], nobody)
    for _ in range(ROUNDS if how == "kmeans" else 0):
        ids = torch.cat([codebook.nearest(part) for part in flat.split(AT_ONCE)])
        counts = torch.bincount(ids, minlength=codebook.num_embeddings)
        sums = torch.zeros_like(codebook.weight).index_add_(0, ids, flat)
        found = counts.nonzero().flatten()
        codebook.replace(found, sums[found] / counts[found, None], nobody)
