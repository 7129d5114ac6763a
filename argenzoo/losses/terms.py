"""Plain terms: pixels, codebook, entropy, divergence."""

from __future__ import annotations

from torch import Tensor


def entropy_loss(affinity: Tensor, temperature: float = 0.01) -> Tensor:
    """Mean entropy a token minus the entropy of the mean, of softmax(affinity / temperature) (MaskGIT's tokenizer, as in LlamaGen).

    Args:
        affinity: (..., V).
    """
    flat = affinity.flatten(0, -2) / temperature
    probabilities, log_probabilities = flat.softmax(-1), (flat + 1e-5).log_softmax(-1)
    mean = probabilities.mean(0)
    each = -(probabilities * log_probabilities).sum(-1).mean()
    return each + (mean * (mean + 1e-5).log()).sum()


def kl_divergence(mean: Tensor, logvar: Tensor) -> Tensor:
    """KL(N(mean, var) || N(0, 1)), summed over each sample: (B, C, h, w) -> (B,)."""
    return 0.5 * (mean.square() + logvar.exp() - 1 - logvar).flatten(1).sum(1)
