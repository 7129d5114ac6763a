"""The conditional branch of sampling, and the null one beside it where it is guided: as one batch, step by step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from argenzoo.protocols import Condition


class Branches:
    """A generator's states.

    Args:
        null: None where nothing is guided.
        known: (B, N) the positions whose tokens are given.
        options: the generator's.
        parted: there are steps without the null branch; the generator's state must have ``skip``.
    """

    def __init__(
        self,
        generator: Any,
        cond: Condition,
        null: Condition | None,
        known: Tensor | None = None,
        options: Any = None,
        parted: bool = False,
    ) -> None:
        batch = len(cond.vector)
        self.generator, self.paired = generator, null is not None
        if null is None:
            self.both, self.alone = generator.start(cond, batch, known, options), None
        else:
            self.both = generator.start(Condition.pair(cond, null), 2 * batch, doubled(known), options)
            self.alone = generator.start(cond, batch, known, options) if parted else None

    def step(self, context: Tensor, positions: Tensor, guided: bool = True) -> tuple[Tensor, Tensor | None]:
        """(z, z of the null branch), (B, n, D) each; the latter None where there is none in this step."""
        if not self.paired:
            return self.generator.step(self.both, context, positions), None
        wide = positions if positions.dim() == 1 else doubled(positions)
        if self.alone is not None and not guided:
            self.both.skip(wide)
            return self.generator.step(self.alone, context, positions), None
        if self.alone is not None:
            self.alone.skip(positions)
        z, z_null = self.generator.step(self.both, doubled(context), wide).chunk(2)
        return z, z_null

    @property
    def even(self) -> bool:
        """Whether a step may be passed over, and its work lies between that of its neighbours."""
        return self.alone is None and hasattr(self.both, "skip") and not getattr(self.both, "uneven", False)

    def skip(self, positions: Tensor) -> None:
        """Pass over a step."""
        self.both.skip(doubled(positions) if self.paired and positions.dim() == 2 else positions)


def doubled(x: Any) -> Any:
    """[x; x] along the batch; None of None."""
    return None if x is None else torch.cat([x, x])
