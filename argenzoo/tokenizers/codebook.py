"""A codebook: nearest codes, always in float32."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from argenzoo.device import full_precision


class Codebook(nn.Embedding):
    """V codes of C channels.

    Args:
        normalize: codes have unit length, and so should what is looked up; the stored weights need not.
    """

    def __init__(self, vocab_size: int, dim: int, normalize: bool) -> None:
        super().__init__(vocab_size, dim)
        self.normalize = normalize
        nn.init.uniform_(self.weight, -1 / vocab_size, 1 / vocab_size)
        if normalize:  # only directions count; shorter codes would have huge gradients
            self.weight.data = F.normalize(self.weight.data, dim=-1)

    @property
    def codes(self) -> Tensor:
        """(V, C)."""
        return F.normalize(self.weight.float(), dim=-1) if self.normalize else self.weight

    def forward(self, tokens: Tensor) -> Tensor:
        """Ids (...), or probabilities over codes (..., V) -> (..., C)."""
        return tokens @ self.codes if tokens.is_floating_point() else F.embedding(tokens, self.codes)

    def distances(self, vectors: Tensor) -> Tensor:
        """(..., C) -> squared distances to all codes (..., V)."""
        with full_precision(vectors.device):
            codes = self.codes
            return vectors.square().sum(-1, keepdim=True) + codes.square().sum(-1) - 2 * vectors @ codes.T

    @torch.no_grad()
    def nearest(self, vectors: Tensor) -> Tensor:
        """(..., C) -> ids (...)."""
        return self.distances(vectors).argmin(-1)

    @torch.no_grad()
    def replace(self, rows: Tensor, vectors: Tensor, others: Tensor) -> None:
        """Codes ``rows`` (n,) become ``vectors`` (n, C); normalised ones take the stored length of the codes ``others``."""
        length = self.weight[others].norm(dim=-1).mean() if self.normalize and len(others) else 1.0
        self.weight[rows] = vectors.to(self.weight) * length
