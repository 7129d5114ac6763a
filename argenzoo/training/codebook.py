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

    @torch.no_grad()
    def revive(self, step: int, vectors: Tensor, averaged: Any, optimizer: Any, accelerator: Any) -> None:
        """Codes that no process used become vectors (B, N, C) of the last batch, each scale giving as many; the main process chooses."""
        used = accelerator.reduce(self.idle, "sum").sum(0) > 0
        self.idle.zero_()
        dead = (~used).nonzero().flatten()
        if not len(dead):
            return
        chosen = spread(vectors.shape[:2], self.tokenizer.space, len(dead), philox(self.seed, "restart", step))
        self.codebook.replace(dead, vectors.flatten(0, 1)[chosen.to(vectors.device)], used.nonzero().flatten())
        if accelerator.num_processes > 1:
            torch.distributed.broadcast(self.codebook.weight, 0)
        averaged.codebook.weight[dead] = self.codebook.weight[dead]
        for moment in optimizer.state[self.codebook.weight].values():
            if moment.shape == self.codebook.weight.shape:
                moment[dead] = 0


def spread(shape: torch.Size, space: TokenSpace, count: int, rng: np.random.Generator) -> Tensor:
    """(count,) places among (B, N) tokens: each from a scale at random, then from its tokens at random."""
    batch, tokens = shape
    starts, sizes = np.cumsum([0, *space.sizes[:-1]]), np.array(space.sizes)
    scale = rng.integers(len(sizes), size=count)
    inside = starts[scale] + rng.integers(sizes[scale])
    return torch.from_numpy(rng.integers(batch, size=count) * tokens + inside)


@torch.no_grad()
def start_from(tokenizer: Any, examples: Iterable[Tensor], how: str, seed: int) -> None:
    """Fill the codebook from encoded pictures: vectors at random (data), or their k-means centres."""
    vectors = torch.cat([tokenizer.reconstruct(part).vectors for part in examples])  # (B, N, C)
    rng, size = philox(seed, "codebook", 0), tokenizer.codebook.num_embeddings
    codes = vectors.flatten(0, 1)[spread(vectors.shape[:2], tokenizer.space, size, rng).to(vectors.device)]
    if how == "kmeans":
        from scipy.cluster.vq import kmeans2

        flat = vectors.flatten(0, 1).double().cpu().numpy()
        found, _ = kmeans2(flat, codes.double().cpu().numpy(), minit="matrix", iter=10)
        codes = torch.from_numpy(found).to(codes)
    tokenizer.codebook.replace(torch.arange(size, device=codes.device), codes, codes.new_zeros(0, dtype=torch.long))
