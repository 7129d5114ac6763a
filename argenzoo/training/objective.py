"""What a tokenizer minimises: its own terms, pixels, and the registered losses, weighted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from argenzoo.errors import ArgenzooError, suggestion
from argenzoo.registry import Config, losses
from argenzoo.rng import Draws

PIXELS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"l1": F.l1_loss, "l2": F.mse_loss}


class LossParts:
    """The registered losses of a recipe. Copies share them: they are not averaged, saved or wrapped with the tokenizer."""

    def __init__(self, section: dict[str, float | Config]) -> None:
        self.parts: dict[str, Any] = {term: losses.get(term)(value) for term, value in section.items() if isinstance(value, Config)}

    def __deepcopy__(self, memo: dict) -> LossParts:
        return self

    def to(self, device: torch.device) -> None:
        for part in self.parts.values():
            part.to(device)

    @property
    def opponents(self) -> dict[str, Any]:
        """The parts that play against the tokenizer."""
        return {term: part for term, part in self.parts.items() if hasattr(part, "opponent")}


class TokenizerObjective(nn.Module):
    """A tokenizer with its losses: what its player trains.

    Losses of the reconstruction are differentiated down to its pixels first, each once; what comes out is their gradient there, with the
    adaptive weights in it, and goes on through the decoder with the tokenizer's own terms. VQGAN's way to the same gradient takes the
    frozen networks' backward pass twice.

    Raises:
        ArgenzooError: an adaptive weight for a tokenizer that does not say which its last layer is.
    """

    def __init__(self, tokenizer: Any, section: dict[str, float | Config]) -> None:
        super().__init__()
        self.tokenizer, self.section, self.losses = tokenizer, section, LossParts(section)
        for term, part in self.losses.opponents.items():
            if part.config.adaptive and not hasattr(tokenizer, "last_layer"):
                raise ArgenzooError(f"loss.{term}.adaptive needs a tokenizer with last_layer: set it to false")

    def forward(self, pictures: Tensor, rng: Draws | None = None, step: int | None = None) -> dict[str, Tensor]:
        """``loss`` and its terms without their weights, each (); ``reconstruction``; ``ids`` and ``vectors`` where there is a codebook.

        Args:
            pictures: (B, 3, H, W) in [-1, 1].
            step: of training; None, in evaluation, leaves the opponents out.
        """
        made = self.tokenizer.reconstruct(pictures, rng)
        self._check(made.terms)
        own = {term: made.terms[term]() for term in self.section if term in made.terms}
        seen, of_pictures = self._of_pictures(made.pictures, pictures, step)
        total = of_pictures + self._weighted(own)
        looked_up = {} if made.ids is None or made.vectors is None else {"ids": made.ids, "vectors": made.vectors}
        return {"loss": total, **own, **seen, "reconstruction": made.pictures.detach(), **looked_up}

    def _of_pictures(self, made: Tensor, pictures: Tensor, step: int | None) -> tuple[dict[str, Tensor], Tensor]:
        """(every term of the reconstruction, their weighted sum with its gradient)."""
        leaf = made.detach().float().requires_grad_(made.requires_grad)
        terms = {**PIXELS, **{term: part for term, part in self.losses.parts.items() if term not in self.losses.opponents}}
        seen = {term: terms[term](leaf, pictures) for term in self.section if term in terms}
        total = self._weighted(seen).to(leaf.device)
        gradient = gradient_of(total, leaf)
        for term, part in self.losses.opponents.items():
            if step is not None and step >= part.config.start:
                seen[term] = part(leaf, pictures)
                theirs, factor = gradient_of(seen[term], leaf), torch.ones_like(total)
                if part.config.adaptive and made.requires_grad:
                    factor = seen[f"{term}_factor"] = part.factor(
                        *(at_last_layer(made, self.tokenizer.last_layer, g) for g in (gradient, theirs))
                    )
                total = total + part.config.weight * factor * seen[term]
                gradient = gradient + part.config.weight * factor * theirs
        return seen, with_gradient(total.detach(), made, gradient)

    def _weighted(self, values: dict[str, Tensor]) -> Tensor:
        weights = {term: value.weight if isinstance(value, Config) else value for term, value in self.section.items()}  # type: ignore[attr-defined]
        return torch.stack([weights[term] * value for term, value in values.items()]).sum() if values else torch.zeros(())

    def _check(self, own: dict[str, Any]) -> None:
        known = {**own, **PIXELS, **self.losses.parts}
        wrong = next((term for term in self.section if term not in known), None)
        if wrong is not None:
            raise ArgenzooError(f"unknown term 'loss.{wrong}' for this tokenizer{suggestion(wrong, known)}")


def gradient_of(loss: Tensor, leaf: Tensor) -> Tensor:
    """d loss / d leaf, in the leaf's precision; zero where nothing is differentiated."""
    if not loss.requires_grad:
        return torch.zeros_like(leaf)
    size = leaf[0].numel()  # a mean over pixels has tiny gradients, which float16 would lose on the way
    return torch.autograd.grad(loss * size, leaf)[0] / size


def at_last_layer(made: Tensor, weight: Tensor, gradient: Tensor) -> Tensor:
    """A gradient at the pixels -> at the decoder's last weight, times the number of pixels, lest float16 lose it."""
    return torch.autograd.grad(made, weight, (gradient * gradient.numel()).to(made.dtype), retain_graph=True)[0]


def with_gradient(value: Tensor, made: Tensor, gradient: Tensor) -> Tensor:
    """A number whose gradient at ``made`` is ``gradient``."""
    carrier = (made.float() * gradient).sum()
    return carrier - carrier.detach() + value
