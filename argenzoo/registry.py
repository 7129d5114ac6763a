"""A registry per kind of part: name -> class -> typed configuration, one look-up.

Built-in parts are ``"module:Class"`` strings, loaded when first asked for, so that
``import argenzoo`` stays light. A part from elsewhere registers with the decorator
(a notebook) or through an entry point (a package).
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from argenzoo.errors import ArgenzooError, suggestion


class Config(BaseModel):
    """Base of every part's configuration: immutable, typed, unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @classmethod
    def parse(cls, values: dict[str, Any], where: str) -> Self:
        """Validate ``values``; what is wrong is said in one line, with ``where`` in front of the key."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(str(part) for part in first["loc"])
            if first["type"] == "extra_forbidden":
                raise ArgenzooError(f"unknown key '{where}.{key}'{suggestion(key, cls.model_fields)}") from None
            got = "" if first["type"] == "missing" else f", got {first['input']!r}"
            raise ArgenzooError(f"{where}.{key}: {first['msg']}{got}") from None


class Registry:
    """The parts of one kind.

    Args:
        kind: what the parts are, in the singular; it appears in messages.
        builtin: name -> ``"module:Class"``.
    """

    def __init__(self, kind: str, builtin: dict[str, str]) -> None:
        self.kind = kind
        self._parts: dict[str, str | type] = dict(builtin)

    def register(self, name: str) -> Callable[[type], type]:
        """Class decorator that adds a part. A name that is taken is an error."""

        def add(part: type) -> type:
            if name in self.names():
                raise ArgenzooError(f"{self.kind} '{name}' is already registered")
            self._check(name, part)
            self._parts[name] = part
            return part

        return add

    def names(self) -> list[str]:
        """Every known name, sorted."""
        return sorted({*self._parts, *(point.name for point in self._entry_points())})

    def get(self, name: str) -> Any:
        """The class called ``name``; an unknown name raises with the nearest one."""
        part = self._parts.get(name)
        if isinstance(part, type):
            return part
        if part is None:
            part = next((point.value for point in self._entry_points() if point.name == name), None)
        if part is None:
            raise ArgenzooError(f"unknown {self.kind} '{name}'{suggestion(name, self.names())}")
        module, _, attribute = part.partition(":")
        loaded = getattr(import_module(module), attribute)
        self._check(name, loaded)
        self._parts[name] = loaded
        return loaded

    def _entry_points(self) -> Any:
        return entry_points(group=f"argenzoo.{self.kind}{'es' if self.kind.endswith('s') else 's'}")

    def _check(self, name: str, part: type) -> None:
        for attribute in ("Config", "Sampling") if self.kind in ("generator", "head") else ("Config",):
            config = getattr(part, attribute, None)
            if not (isinstance(config, type) and issubclass(config, Config)):
                raise ArgenzooError(
                    f"{self.kind} '{name}' ({part.__name__}) needs a class attribute {attribute}, a subclass of argenzoo.registry.Config"
                )


tokenizers = Registry(
    "tokenizer",
    {
        "vq": "argenzoo.tokenizers.vq:VQ",
        "multiscale_vq": "argenzoo.tokenizers.multiscale_vq:MultiscaleVQ",
        "kl": "argenzoo.tokenizers.kl:KL",
    },
)
generators = Registry(
    "generator", {"raster": "argenzoo.generators.raster:Raster", "var": "argenzoo.generators.var:VAR", "mar": "argenzoo.generators.mar:MAR"}
)
heads = Registry(
    "head",
    {
        "cross_entropy": "argenzoo.heads.cross_entropy:CrossEntropy",
        "diffusion": "argenzoo.heads.diffusion:Diffusion",
        "flow": "argenzoo.heads.flow:Flow",
    },
)
conditioners = Registry(
    "conditioner", {"class_labels": "argenzoo.condition:ClassLabels", "text_features": "argenzoo.condition:TextFeatures"}
)
losses = Registry("loss", {"perceptual": "argenzoo.losses.perceptual:Perceptual", "adversarial": "argenzoo.losses.adversarial:Adversarial"})
datasets = Registry(
    "dataset",
    {
        "folder": "argenzoo.data.folder:Folder",
        "cifar10": "argenzoo.data.cifar10:CIFAR10",
        "fashion_mnist": "argenzoo.data.fashion_mnist:FashionMNIST",
        "huggingface": "argenzoo.data.huggingface:HuggingFace",
        "fruit": "argenzoo.data.fruit:Fruit",
    },
)
