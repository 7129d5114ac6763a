"""How well a tokenizer gives pictures back: PSNR, SSIM, LPIPS, rFID, and how much of its codebook it uses."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor

from argenzoo.data.images import to_unit
from argenzoo.evaluation.features import Features
from argenzoo.grids import to_uint8
from argenzoo.losses.usage import counts_of, usage

SHOWN = 12  # pictures


class Figures:
    """Sums over pictures, batch by batch; what can't be computed is left out by its None.

    Args:
        lpips: network, or None.
        features: of the reconstructions, or None.
    """

    def __init__(self, tokenizer: Any, lpips: Any | None, features: Features | None) -> None:
        self.tokenizer, self.lpips, self.features = tokenizer, lpips, features
        self.sums: dict[str, list[float]] = {"psnr": [], "ssim": [], **({"lpips": []} if lpips is not None else {})}
        self.counts: Tensor | None = None
        self.shown: list[tuple[np.ndarray, np.ndarray]] = []

    @torch.inference_mode()
    def add(self, pictures: np.ndarray, device: torch.device) -> None:
        """(n, H, W, 3) uint8."""
        original = to_unit(torch.from_numpy(pictures).permute(0, 3, 1, 2)).to(device)
        stored = self.tokenizer.encode(original)
        made = to_uint8((self.tokenizer.decode(self.tokenizer.tokens(stored)).float() + 1) / 2)  # (n, H, W, 3)
        for ours, theirs in zip(made, pictures, strict=True):
            self.sums["psnr"].append(float(peak_signal_noise_ratio(theirs, ours, data_range=255)) if (ours != theirs).any() else 100.0)
            self.sums["ssim"].append(float(structural_similarity(theirs, ours, data_range=255, channel_axis=-1)))
        if self.lpips is not None:
            rounded = to_unit(torch.from_numpy(made).permute(0, 3, 1, 2)).to(device)
            self.sums["lpips"] += self.lpips(rounded, original).flatten().tolist()
        if self.features is not None:
            self.features.add(made)
        self._count(stored)
        self.shown += list(zip(pictures, made, strict=True))[: SHOWN - len(self.shown)]

    def _count(self, stored: Tensor) -> None:
        space = self.tokenizer.space
        if space.vocab_size is not None:
            counts = counts_of(stored.cpu(), space, space.vocab_size)
            self.counts = counts if self.counts is None else self.counts + counts

    def means(self) -> dict[str, float]:
        return {name: float(np.mean(values)) for name, values in self.sums.items()}

    def codebook(self) -> dict[str, Any]:
        """Usage and perplexity over all pictures, and the tokens of each scale that they were counted over."""
        if self.counts is None:
            return {}
        return {**usage(self.counts, self.tokenizer.space), "codebook_window": self.counts.sum(1).tolist()}


def panels(shown: Iterable[tuple[np.ndarray, np.ndarray]], smallest: int = 96) -> Tensor:
    """Originals, reconstructions, and absolute errors times 4: (3, columns, 3, H, W) in [0, 1], small pictures enlarged."""
    originals, made = (torch.from_numpy(np.stack(part)).permute(0, 3, 1, 2).float() / 255 for part in zip(*shown, strict=True))
    rows = torch.stack([originals, made, (4 * (originals - made).abs()).clamp(max=1)])
    times = max(1, -(-smallest // rows.shape[-1]))
    return rows.repeat_interleave(times, -1).repeat_interleave(times, -2)
