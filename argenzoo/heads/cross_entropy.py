"""Cross-entropy: z -> logits over the codebook; temperature, then top-k, then top-p."""

from __future__ import annotations

from contextlib import nullcontext

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from argenzoo.device import full_precision
from argenzoo.errors import ArgenzooError
from argenzoo.guidance import guided
from argenzoo.protocols import Progress, TokenSpace
from argenzoo.registry import Config as PartConfig
from argenzoo.rng import Draws, GlobalRng


class CrossEntropy(nn.Module):
    """A Linear and a categorical distribution."""

    class Config(PartConfig):
        bias: bool = False
        init_std: float = Field(0.0, ge=0, description="0: the first loss is exactly ln V (LlamaGen)")
        float32: bool = Field(False, description="logits in float32 under mixed precision (VAR)")
        chunk: int | None = Field(None, ge=1, description="tokens whose logits are held at a time in training, made again for the gradient")

    class Sampling(PartConfig):
        """None is off. Temperature 0 is the most likely token."""

        temperature: float | None = Field(None, ge=0)
        top_k: int | None = Field(None, ge=1)
        top_p: float | None = Field(None, gt=0, lt=1)

    def __init__(self, config: Config, space: TokenSpace, dim: int) -> None:
        super().__init__()
        if space.vocab_size is None:
            raise ArgenzooError(
                "head 'cross_entropy' needs token ids, this tokenizer emits vectors: use head.name=diffusion (or tokenizer.quantize=true)"
            )
        self.config, self.vocab_size = config, space.vocab_size
        self.linear = nn.Linear(dim, space.vocab_size, bias=config.bias)
        nn.init.trunc_normal_(self.linear.weight, std=config.init_std) if config.init_std else nn.init.zeros_(self.linear.weight)
        if config.bias:
            nn.init.zeros_(self.linear.bias)

    def check(self, options: Sampling) -> None:
        """Raises ArgenzooError where top_k exceeds V."""
        if options.top_k is not None and options.top_k > self.vocab_size:
            raise ArgenzooError(f"head.top_k {options.top_k} is more than the vocabulary's {self.vocab_size}")

    def logits(self, z: Tensor) -> Tensor:
        """(..., D) -> (..., V) in float32."""
        with full_precision(z.device) if self.config.float32 else nullcontext():
            return self.linear(z.to(self.linear.weight.dtype) if self.config.float32 else z).float()

    def loss(self, z: Tensor, tokens: Tensor, rng: Draws | None = None) -> Tensor:
        """(M, D), ids (M,) -> -log p (M,), in nats."""
        if self.config.chunk is None or len(z) <= self.config.chunk:
            return self._loss(z, tokens)
        pairs = zip(z.split(self.config.chunk), tokens.split(self.config.chunk), strict=True)
        return torch.cat([checkpoint(self._loss, *pair, use_reentrant=False) for pair in pairs])

    def _loss(self, z: Tensor, tokens: Tensor) -> Tensor:
        return F.cross_entropy(self.logits(z), tokens, reduction="none")

    def metrics(self, z: Tensor, tokens: Tensor) -> dict[str, Tensor]:
        """Token accuracy: whether the most likely id is right, (M,)."""
        return {"accuracy": (self.logits(z).argmax(-1) == tokens).float()}

    def sample(
        self,
        z: Tensor,
        z_null: Tensor | None,
        guidance: Tensor,
        options: Sampling,
        progress: Progress | None = None,
        rng: Draws | None = None,
    ) -> Tensor:
        """(B, n, D) -> ids (B, n)."""
        if options.temperature == 0:
            return self._guided(z, z_null, guidance).argmax(-1)
        uniform = (rng or GlobalRng(len(z), z.device)).uniform(*z.shape[1:-1])
        return self.draw(self.probabilities(z, z_null, guidance, options), uniform)

    def probabilities(self, z: Tensor, z_null: Tensor | None, guidance: Tensor, options: Sampling) -> Tensor:
        """(..., D) -> (..., V), of which ``sample`` draws."""
        logits = self._guided(z, z_null, guidance)
        if options.temperature == 0:
            return F.one_hot(logits.argmax(-1), self.vocab_size).float()
        return filtered(logits, options).softmax(-1)

    def draw(self, probabilities: Tensor, uniform: Tensor) -> Tensor:
        """(..., V), of any sum, and a number in [0, 1) each -> ids (...)."""
        return inverse_cdf(probabilities, uniform)

    def _guided(self, z: Tensor, z_null: Tensor | None, guidance: Tensor) -> Tensor:
        """Guided logits; of a pair in one product, so that the weights are read once."""
        both = self.logits(z if z_null is None else torch.cat([z, z_null]))
        return guided(both[: len(z)], None if z_null is None else both[len(z) :], guidance)


def filtered(logits: Tensor, options: CrossEntropy.Sampling) -> Tensor:
    """Temperature, then all but the top k, then all outside the smallest set of probability top_p -> -inf. What is as likely as the last
    that stays, stays too."""
    if options.temperature is not None:
        logits = logits / options.temperature
    if options.top_k is None and options.top_p is None:
        return logits
    ordered = logits.topk(options.top_k or logits.shape[-1], dim=-1).values  # of the top k alone: the whole vocabulary takes long to sort
    least = ordered[..., -1:]
    if options.top_p is not None:
        total = logits.masked_fill(logits < least, -torch.inf).logsumexp(-1, keepdim=True)
        probabilities = (ordered - total).exp()
        outside = probabilities.cumsum(-1) - probabilities > options.top_p
        least = ordered.masked_fill(outside, torch.inf).amin(-1, keepdim=True)
    return logits.masked_fill(logits < least, -torch.inf)


def inverse_cdf(probabilities: Tensor, uniform: Tensor) -> Tensor:
    """Ids with probabilities (..., V), one uniform number in [0, 1) each: one draw a token, not V, and no host synchronisation."""
    cdf = probabilities.cumsum(-1)
    ids = torch.searchsorted(cdf, uniform[..., None] * cdf[..., -1:], right=True)[..., 0]
    return ids.clamp(max=probabilities.shape[-1] - 1)
