"""How to sample: guidance, the generator's own options and the head's, typed, in one object."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from argenzoo.errors import ArgenzooError, suggestion
from argenzoo.guidance import Guidance
from argenzoo.registry import Config


@dataclass(frozen=True)
class SamplingOptions:
    """``guidance, ramp, interval`` at the top; ``order.*`` are the generator's ``Sampling``, ``head.*`` the head's."""

    guidance: Guidance
    order: Config
    head: Config

    @staticmethod
    def parse(values: dict[str, Any], generator: Any, head: Any, where: str = "sampling") -> SamplingOptions:
        """``values``: nested, as in a recipe. ``generator`` and ``head`` are the parts' classes."""
        if not isinstance(values, dict):
            raise ArgenzooError(f"{where}: expected a section of key: value, got {values!r}")
        values = dict(values)
        order, head_options = values.pop("order", None) or {}, values.pop("head", None) or {}
        unknown = next((key for key in values if key not in Guidance.model_fields), None)
        if unknown is not None:
            raise ArgenzooError(f"unknown key '{where}.{unknown}'{suggestion(str(unknown), [*Guidance.model_fields, 'order', 'head'])}")
        return SamplingOptions(
            Guidance.parse(values, where),
            generator.Sampling.parse(order, f"{where}.order"),
            head.Sampling.parse(head_options, f"{where}.head"),
        )

    def dump(self) -> dict[str, Any]:
        """Nested, as in a recipe."""
        return {**self.guidance.model_dump(), "order": self.order.model_dump(), "head": self.head.model_dump()}

    def dotted(self) -> dict[str, Any]:
        """As ``override`` takes it."""
        values = self.dump()
        parts = {f"{name}.{key}": value for name in ("order", "head") for key, value in values.pop(name).items()}
        return {**values, **parts}

    def override(self, changes: dict[str, Any] | None) -> SamplingOptions:
        """With dotted ``changes``, e.g. ``{"head.temperature": 0.9, "order.num_steps": 16, "guidance": 3}``."""
        values = self.dump()
        for key, value in (changes or {}).items():
            section, dot, name = key.partition(".")
            target = values.get(section) if dot else values
            if not isinstance(target, dict):
                raise ArgenzooError(f"unknown sampling key '{key}'{suggestion(section, values)}")
            target[name if dot else key] = value
        owners = (_Owner(type(self.order)), _Owner(type(self.head)))
        return SamplingOptions.parse(values, *owners)


@dataclass(frozen=True)
class _Owner:
    """Stands for a part whose Sampling class is known already."""

    Sampling: type[Config]
