"""Speculative Jacobi decoding (arXiv 2410.01699): tokens that a causal model drafted for itself are verified many at a time, exactly in
distribution: what is accepted and what replaces it are together as likely as in the plain loop (arXiv 2211.17192, appendix A.1)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from argenzoo.branches import doubled
from argenzoo.layers.embed import take
from argenzoo.options import SamplingOptions
from argenzoo.protocols import Condition, Progress
from argenzoo.rng import Draws

Watch = Callable[[Progress], None]


class Drafted:
    """One batch on its way.

    Args:
        generator: has ``window``; ``head`` has ``probabilities`` and ``draw``.
        scale: s at the end of the ramp, 0-d or (B,).
    """

    def __init__(self, generator: Any, head: Any, cond: Condition, null: Condition | None, scale: Tensor, options: SamplingOptions) -> None:
        self.head, self.options, self.total = head, options, generator.space.num_tokens
        self.width, self.paired, batch = options.order.drafts, null is not None, len(cond.vector)  # type: ignore[attr-defined]
        both = cond if null is None else Condition.pair(cond, null)
        self.window = generator.window(both, batch * (1 + self.paired), getattr(options.order, "graph", False))
        every = [options.guidance.at(Progress(i, self.total, i + 1, self.total), scale) for i in range(self.total)]
        self.scales = torch.stack(every).expand(self.total) if scale.dim() == 0 else torch.stack(every, dim=1)  # (N,) or (B, N)
        self.rows = torch.arange(batch, device=cond.vector.device)

    def tokens(self, rng: Draws, watch: Watch | None = None) -> Tensor:
        """(B, N) ids."""
        probabilities = self._probabilities(self.window.begin(), self.rows.new_zeros(len(self.rows), 1))  # (B, 1, V)
        tokens = self.rows.new_zeros(len(self.rows), self.total)
        tokens[:, :1] = self.head.draw(probabilities, rng.uniform(1))
        done, drafted = torch.ones_like(self.rows), probabilities.expand(-1, self.width, -1)
        passes = 1
        while (known := int(done.min())) < self.total:
            if watch is not None:
                watch(Progress(passes, passes + self.total - known, known, self.total))
            tokens, done, drafted = self._further(tokens, done, drafted, rng)
            passes += 1
        if watch is not None:
            watch(Progress(passes, passes + 1, self.total, self.total))
        return tokens

    def _further(self, tokens: Tensor, done: Tensor, drafted: Tensor, rng: Draws) -> tuple[Tensor, Tensor, Tensor]:
        """One pass: behind ``done`` (B,) tokens drafts are drawn from ``drafted`` (B, W, V); at least one more token is known after it."""
        width, steps = self.width, torch.arange(self.width + 1, device=tokens.device)
        drafts = self.head.draw(drafted, rng.uniform(width))  # (B, W)
        at = done[:, None] - 1 + steps  # (B, W + 1), of the inputs
        inputs = torch.cat([take(tokens, done[:, None] - 1), drafts], dim=1)
        z = self.window.run(doubled(inputs) if self.paired else inputs, doubled(at) if self.paired else at)
        true = self._probabilities(z, (at + 1).clamp(max=self.total - 1))  # (B, W + 1, V)
        accepted = self._accepted(true, drafted, drafts, rng.uniform(width))  # (B,)
        new = self._instead(true, drafted, accepted, rng)
        made = torch.cat([drafts, new], dim=1).scatter(1, accepted[:, None], new)
        place = done[:, None] + steps
        kept = (steps <= accepted[:, None]) & (place < self.total)
        filled = torch.cat([tokens, tokens[:, :1]], dim=1)  # one more place, for what is not kept
        tokens = filled.scatter(1, torch.where(kept, place, self.total), made)[:, : self.total]
        following = take(true, (accepted[:, None] + 1 + steps[:width]).clamp(max=width))
        return tokens, (done + accepted + 1).clamp(max=self.total), following

    def _accepted(self, true: Tensor, drafted: Tensor, drafts: Tensor, uniform: Tensor) -> Tensor:
        """How many of the first drafts stay: each with probability min(1, true / drafted)."""
        p, q = (each[:, : self.width].gather(2, drafts[..., None])[..., 0] for each in (true, drafted))
        return (uniform * q < p).int().cumprod(dim=1).sum(dim=1)

    def _instead(self, true: Tensor, drafted: Tensor, accepted: Tensor, rng: Draws) -> Tensor:
        """(B, 1) the token behind the accepted ones: of what ``true`` has more than ``drafted``, or of ``true`` where all were accepted."""
        p, q = true[self.rows, accepted], drafted[self.rows, accepted.clamp(max=self.width - 1)]
        rest = (p - q * (accepted < self.width)[:, None]).clamp(min=0)
        rest = torch.where(rest.sum(-1, keepdim=True) > 0, rest, p)
        return self.head.draw(rest[:, None], rng.uniform(1))

    def _probabilities(self, z: Tensor, positions: Tensor) -> Tensor:
        """z (B or 2B, n, D) of the tokens at ``positions`` (B, n) -> (B, n, V)."""
        scales = self.scales[positions] if self.scales.dim() == 1 else self.scales.gather(1, positions)
        flat = z.flatten(0, 1)
        cond, null = flat.chunk(2) if self.paired else (flat, None)
        return self.head.probabilities(cond, null, scales.flatten(), self.options.head).unflatten(0, positions.shape)
