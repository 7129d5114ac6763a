"""The small denoising MLP of the diffusion loss: residual blocks with AdaLN from time and z (MAR, appendix A)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ROWS = 1024  # of a product that makes modulations
Modulation = tuple[Tensor, ...]  # what AdaLN takes: (shift, scale, gate), or (shift, scale)


class ResidualBlock(nn.Module):
    """x + gate * MLP(LN(x) * (1 + scale) + shift)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.modulation = nn.Linear(width, 3 * width)

    def forward(self, x: Tensor, shift: Tensor, scale: Tensor, gate: Tensor) -> Tensor:
        return torch.addcmul(x, gate, self.mlp(torch.addcmul(shift, self.norm(x), 1 + scale)))


class DenoisingMLP(nn.Module):
    """(x_t, t, z) -> ``out_dim`` channels.

    Args:
        dim: channels of a token.
        z_dim: width of z.
        out_dim: channels out (2 x dim with a learned variance).
        width, depth: of the residual blocks.
    """

    frequencies = 256

    def __init__(self, dim: int, z_dim: int, out_dim: int, width: int, depth: int) -> None:
        super().__init__()
        self.time_embed = nn.Sequential(nn.Linear(self.frequencies, width), nn.SiLU(), nn.Linear(width, width))
        self.z_embed = nn.Linear(z_dim, width)
        self.in_proj = nn.Linear(dim, width)
        self.blocks = nn.ModuleList(ResidualBlock(width) for _ in range(depth))
        self.out_modulation = nn.Linear(width, 2 * width)
        self.out_proj = nn.Linear(width, out_dim)
        self._init()

    def forward(self, x: Tensor, t: Tensor, z: Tensor) -> Tensor:
        """x (M, C), t (M,), z (M, D) -> (M, out_dim)."""
        return self.denoise(x, self.modulations(self.embed_time(t) + self.z_embed(z)))

    def embed_time(self, t: Tensor) -> Tensor:
        """(M,) timesteps -> (M, width)."""
        half = self.frequencies // 2
        frequencies = torch.exp(-math.log(10000) * torch.arange(half, device=t.device) / half)
        angles = t[:, None].float() * frequencies
        return self.time_embed(torch.cat([angles.cos(), angles.sin()], dim=-1))

    def modulations(self, y: Tensor) -> Iterator[Modulation]:
        """Of every block in turn, then of the output, from time and z, embedded and added, y (..., width): they do not depend on x."""
        y = F.silu(y)
        for block in self.blocks:
            yield block.modulation(y).chunk(3, dim=-1)  # type: ignore[operator]
        yield self.out_modulation(y).chunk(2, dim=-1)

    def denoise(self, x: Tensor, modulations: Iterable[Modulation]) -> Tensor:
        """``forward`` with the modulations at hand, each (M, width)."""
        each = iter(modulations)
        x = self.in_proj(x)
        for block in self.blocks:
            x = block(x, *next(each))
        shift, scale = next(each)
        return self.out_proj(torch.addcmul(shift, F.layer_norm(x, x.shape[-1:], eps=1e-6), 1 + scale))

    def denoise_pair(self, x: Tensor, modulations: Iterable[Modulation], paired: bool) -> tuple[Tensor, Tensor | None]:
        """(B, ..., C) -> (cond, null), of modulations of 2B; without a pair (cond, None), of B."""
        made = self.denoise(torch.cat([x, x]) if paired else x, modulations).float()
        return (made[: len(x)], made[len(x) :]) if paired else (made, None)

    def along(self, times: Tensor, z: Tensor) -> Iterator[Iterable[Modulation]]:
        """The modulations at one time after another, for z (..., width) embedded.

        Of few rows those of many times are made in one product, so that their weights, more than half of the network's, are read once for
        ``ROWS`` rows, not once a time; of many rows a block's are made when it is its turn, so that no more than one block's are held.

        Args:
            times: (T, width), embedded.
        """
        rows = z.shape[:-1].numel()
        if 2 * rows > ROWS:
            yield from (Lazy(self, z + time) for time in times)
            return
        for some in times.split(ROWS // rows):
            made = list(self.modulations(z + some.view(-1, *[1] * (z.dim() - 1), z.shape[-1])))  # (t, ..., width) each
            for i in range(len(some)):
                yield [tuple(part[i] for part in modulation) for modulation in made]
            del made  # before the next are made

    def _init(self) -> None:
        """Xavier; time from N(0, 0.02^2); every modulation and the output start at zero, so the network starts as the identity."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        for module in self.time_embed:
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
        for module in self.modules():
            if isinstance(module, ResidualBlock):
                nn.init.zeros_(module.modulation.weight)
        for layer in (self.out_modulation, self.out_proj):
            nn.init.zeros_(layer.weight)


class Lazy:
    """The modulations of one y, made anew each time that they are gone through."""

    def __init__(self, mlp: DenoisingMLP, y: Tensor) -> None:
        self.mlp, self.y = mlp, y

    def __iter__(self) -> Iterator[Modulation]:
        return self.mlp.modulations(self.y)
