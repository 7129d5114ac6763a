"""timm's ViT block, that can also read keys and values that were made in an earlier pass, and make less than it reads."""

from __future__ import annotations

import torch.nn.functional as F
from einops import rearrange
from timm.models.vision_transformer import Block
from torch import Tensor

from argenzoo.layers.embed import put, take


class Slots:
    """A block's keys and values of every position of a sequence, (B, length, 2 D): what an earlier pass made, until a later one does."""

    def __init__(self, length: int) -> None:
        self.length = length
        self._made: Tensor | None = None

    def update(self, made: Tensor, at: Tensor) -> Tensor:
        """Keep ``made`` (b, n, 2 D) at positions ``at`` (n,) or (b, n), b <= B; all positions of these b samples, (b, length, 2 D)."""
        if self._made is None:
            self._made = made.new_zeros(len(made), self.length, made.shape[2])
        some = put(self._made[: len(made)], at, made)
        self._made[: len(made)] = some
        return some


class ViTBlock(Block):
    """The same weights and, without ``slots`` and ``rows``, the same computation as timm's."""

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        slots: Slots | None = None,
        at: Tensor | None = None,
        whole: bool = True,
        rows: Tensor | None = None,
    ) -> Tensor:
        """x (B, n, D) -> (B, n, D), or (B, m, D) of the ``rows`` (m,) or (B, m) of x.

        Args:
            mask: (B, 1, 1, L), True where what is attended to may be seen.
            slots, at: keep keys and values of x, which are those of positions ``at``.
            whole: x attends to itself; if not, to all that ``slots`` hold.
        """
        if slots is None and rows is None:
            return super().forward(x, attn_mask=mask)
        q, kv = self.attn.qkv(self.norm1(x)).tensor_split([x.shape[2]], dim=2)
        if slots is not None and at is not None:
            all_kv = slots.update(kv, at)
            kv = kv if whole else all_kv
        if rows is not None:
            q, x = take(q, rows), take(x, rows)
        q = rearrange(q, "b n (h d) -> b h n d", h=self.attn.num_heads)
        k, v = rearrange(kv, "b n (two h d) -> two b h n d", two=2, h=self.attn.num_heads)
        out = rearrange(F.scaled_dot_product_attention(q, k, v, attn_mask=mask), "b h n d -> b n (h d)")
        x = x + self.attn.proj(out)
        return x + self.mlp(self.norm2(x))
