"""Conditioning as a part of its own: class labels, or text features with a mask."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn

from argenzoo.errors import ArgenzooError
from argenzoo.protocols import Condition
from argenzoo.registry import Config as PartConfig
from argenzoo.rng import Draws, GlobalRng


def dropped(batch: int, rate: float, rng: Draws | None, device: torch.device) -> Tensor:
    """(B,) bool: the samples whose condition becomes the null one."""
    return (rng or GlobalRng(batch, device)).uniform() < rate


class ClassLabels(nn.Module):
    """(B,) labels in 0..num_classes-1 -> one token and one vector; the null class is one more row of the table."""

    class Config(PartConfig):
        num_classes: int = Field(1000, ge=1)
        dropout: float = Field(0.1, ge=0, le=1, description="label drop in training, for guidance")
        init_std: float = Field(0.02, gt=0)
        names: tuple[str, ...] | None = Field(None, description="the classes' names, in order; training writes them")

    num_tokens = 1

    def __init__(self, config: Config, dim: int) -> None:
        super().__init__()
        if config.names is not None and len(config.names) != config.num_classes:
            raise ArgenzooError(f"conditioner.names lists {len(config.names)} classes, conditioner.num_classes is {config.num_classes}")
        self.config = config
        self.table = nn.Embedding(config.num_classes + 1, dim)
        nn.init.normal_(self.table.weight, std=config.init_std)

    def forward(self, labels: Tensor, rng: Draws | None = None) -> Condition:
        if self.training and self.config.dropout:
            drop = dropped(len(labels), self.config.dropout, rng, labels.device)
            labels = torch.where(drop, self.config.num_classes, labels)
        vector = self.table(labels)  # (B, D)
        return Condition(vector[:, None], vector)

    def null(self, batch: int, mask: Tensor | None = None) -> Condition:
        vector = self.table.weight[-1].expand(batch, -1)  # (B, D)
        return Condition(vector[:, None], vector)

    @staticmethod
    def named(config: Config, classes: tuple[str, ...]) -> Config:
        """The configuration with the data's class names. Raises ArgenzooError where the data have another number of classes."""
        if len(classes) != config.num_classes:
            raise ArgenzooError(
                f"the data have {len(classes)} classes, the recipe has conditioner.num_classes {config.num_classes}: "
                f"set conditioner.num_classes={len(classes)}"
            )
        return config.model_copy(update={"names": tuple(classes)})

    def check(self, labels: list[int] | Tensor) -> Tensor:
        """Labels as a (B,) tensor. Raises ArgenzooError on a label out of range."""
        try:
            checked = torch.as_tensor(labels)
        except (TypeError, ValueError, RuntimeError):
            raise ArgenzooError(f"labels must be whole numbers in one list, got {labels!s:.60}") from None
        if checked.dim() != 1 or checked.is_floating_point():
            raise ArgenzooError(f"labels must be whole numbers in one list, got {tuple(checked.shape)} of {checked.dtype}")
        wrong = [int(label) for label in checked if not 0 <= label < self.config.num_classes]
        if wrong:
            raise ArgenzooError(
                f"label {wrong[0]} is out of range: this model has {self.config.num_classes} classes, 0 to {self.config.num_classes - 1}"
            )
        return checked.long()


class TextFeatures(nn.Module):
    """(features (B, T, F), mask (B, T)) from a text encoder, padded on the left -> T projected tokens and their masked mean.

    The null caption is a fixed random feature sequence under the text's own mask (LlamaGen).
    """

    class Config(PartConfig):
        feature_dim: int = Field(2048, ge=1, description="width of the text encoder (2048: T5-XL)")
        num_tokens: int = Field(120, ge=1)
        dropout: float = Field(0.1, ge=0, le=1)

    null_features: Tensor

    def __init__(self, config: Config, dim: int) -> None:
        super().__init__()
        self.config, self.num_tokens = config, config.num_tokens
        self.project = nn.Sequential(
            nn.Linear(config.feature_dim, dim, bias=False), nn.GELU(approximate="tanh"), nn.Linear(dim, dim, bias=False)
        )
        for module in self.project:
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
        self.register_buffer("null_features", torch.randn(config.num_tokens, config.feature_dim) / config.feature_dim**0.5)

    def forward(self, text: tuple[Tensor, Tensor], rng: Draws | None = None) -> Condition:
        features, mask = text
        if self.training and self.config.dropout:
            drop = dropped(len(features), self.config.dropout, rng, features.device)
            features = torch.where(drop[:, None, None], self.null_features, features)
        return self._condition(features, mask.bool())

    def null(self, batch: int, mask: Tensor | None = None) -> Condition:
        if mask is None:
            mask = torch.ones(batch, self.config.num_tokens, dtype=torch.bool, device=self.null_features.device)
        return self._condition(self.null_features.expand(batch, -1, -1), mask)

    @staticmethod
    def named(config: Config, classes: tuple[str, ...]) -> Config:
        """Raises ArgenzooError: a set of classes has no captions."""
        raise ArgenzooError("conditioner 'text_features' needs captions, these data have class labels: use conditioner.name=class_labels")

    def check(self, text: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Raises ArgenzooError unless features are (B, T, F) and the mask is (B, T) and padded on the left."""
        if not isinstance(text, tuple) or len(text) != 2:
            raise ArgenzooError(f"this model is conditioned on text: give (features, mask), got {text!s:.60}")
        features, mask = text
        expected = (self.config.num_tokens, self.config.feature_dim)
        if features.dim() != 3 or features.shape[1:] != expected or mask.shape != features.shape[:2]:
            raise ArgenzooError(
                f"text needs features (B, {expected[0]}, {expected[1]}) and a mask (B, {expected[0]}), "
                f"got {tuple(features.shape)} and {tuple(mask.shape)}"
            )
        if (mask.int().diff(dim=1) < 0).any():
            raise ArgenzooError("the text mask must be padded on the left: 0 ... 0 1 ... 1")
        return features, mask

    def _condition(self, features: Tensor, mask: Tensor) -> Condition:
        tokens = self.project(features)  # (B, T, D)
        weight = mask.to(tokens.dtype)[..., None]
        vector = (tokens * weight).sum(1) / weight.sum(1).clamp(min=1)  # (B, D)
        return Condition(tokens, vector, mask)
