"""How well a tokenizer gives pictures back: PSNR, SSIM, LPIPS, rFID, and how much of its codebook it uses."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from skimage.metrics import structural_similarity
from torch import Tensor

from argenzoo.data.images import to_unit
from argenzoo.errors import ArgenzooError
from argenzoo.evaluation.features import Features, Pixels
from argenzoo.evaluation.pictures import to_tensor
from argenzoo.grids import to_uint8
from argenzoo.losses.usage import counts_of, usage

SHOWN = 12  # pictures
WINDOW = 7  # pixels a side, of SSIM
PERFECT = 100.0  # dB, of a picture that comes back as it was


class Figures:
    """Sums over pictures, batch by batch, and the reason of each figure that can't be computed.

    Args:
        lpips: network, or None.
        features: of the reconstructions, or None.
        reasons: why those are None.
    """

    def __init__(self, tokenizer: Any, lpips: Any | None, features: Features | None, reasons: dict[str, str] | None = None) -> None:
        self.tokenizer, self.lpips, self.features, self.reasons = tokenizer, lpips, features, reasons or {}
        self.values: dict[str, list[float]] = {"psnr": [], "ssim": [], "lpips": []}
        self.counts: Tensor | None = None
        self.pixels = Pixels()  # of the originals
        self.shown: list[tuple[np.ndarray, np.ndarray]] = []
        if tokenizer.image_size < WINDOW:
            self.reasons["ssim"] = f"the pictures are smaller than its window of {WINDOW} px"

    @torch.inference_mode()
    def add(self, pictures: np.ndarray, device: torch.device) -> None:
        """(n, H, W, 3) uint8. Raises ArgenzooError where the tokenizer gives back what is no picture."""
        original = to_unit(to_tensor(pictures)).to(device)
        stored = self.tokenizer.encode(original)
        decoded = self.tokenizer.decode(self.tokenizer.tokens(stored)).float()
        if not decoded.isfinite().all():
            raise ArgenzooError(
                "the tokenizer's reconstructions are not finite: its weights are broken, or trained under a precision too low"
            )
        made = to_uint8((decoded + 1) / 2)  # (n, H, W, 3)
        self.values["psnr"] += [psnr(theirs, ours) for theirs, ours in zip(pictures, made, strict=True)]
        if "ssim" not in self.reasons:
            self.values["ssim"] += [ssim(theirs, ours) for theirs, ours in zip(pictures, made, strict=True)]
        self._lpips(to_unit(to_tensor(made)).to(device), original)
        if self.features is not None:
            self.features.add(made)
        self.pixels.add(pictures)
        self._count(stored)
        self.shown += list(zip(pictures, made, strict=True))[: SHOWN - len(self.shown)]

    def _lpips(self, made: Tensor, original: Tensor) -> None:
        if self.lpips is None:
            return
        try:
            self.values["lpips"] += self.lpips(made, original).flatten().tolist()
        except RuntimeError as error:  # AlexNet's strides leave nothing of a small picture
            self.lpips, self.reasons["lpips"] = None, f"LPIPS can't take pictures of this size ({str(error).splitlines()[0]})"

    def _count(self, stored: Tensor) -> None:
        space = self.tokenizer.space
        if space.vocab_size is not None:
            counts = counts_of(stored.cpu(), space, space.vocab_size)
            self.counts = counts if self.counts is None else self.counts + counts

    def result(self) -> dict[str, Any]:
        """Means, usage and perplexity over all pictures; None where there is a reason."""
        out: dict[str, Any] = {name: float(np.mean(values)) if values else None for name, values in self.values.items()}
        if self.counts is None:
            self.reasons["codebook_usage"] = "this tokenizer emits vectors: no code is looked up"
            return {**out, "codebook_usage": None, "codebook_perplexity": None, "codebook_window": None}
        return {**out, **usage(self.counts, self.tokenizer.space), "codebook_window": self.counts.sum(1).tolist()}


def psnr(theirs: np.ndarray, ours: np.ndarray) -> float:
    """dB of two pictures of bytes."""
    error = np.square(theirs.astype(np.float64) - ours).mean()
    return float(10 * np.log10(255**2 / error)) if error else PERFECT


def ssim(theirs: np.ndarray, ours: np.ndarray) -> float:
    """Of two pictures of bytes, mean over the channels."""
    return float(structural_similarity(theirs, ours, win_size=WINDOW, data_range=255, channel_axis=-1))


def panels(shown: Iterable[tuple[np.ndarray, np.ndarray]], smallest: int = 96) -> Tensor:
    """Originals, reconstructions, and absolute errors times 4: (3, columns, 3, H, W) in [0, 1], small pictures enlarged."""
    originals, made = (to_tensor(np.stack(part)).float() / 255 for part in zip(*shown, strict=True))
    rows = torch.stack([originals, made, (4 * (originals - made).abs()).clamp(max=1)])
    times = max(1, -(-smallest // rows.shape[-1]))
    return rows.repeat_interleave(times, -1).repeat_interleave(times, -2)
