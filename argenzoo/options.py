"""How to sample: guidance, the generator's own options, the head's and the weights' form, typed, in one object."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from argenzoo.errors import ArgenzooError, suggestion
from argenzoo.guidance import Guidance
from argenzoo.layers.execution import Execution
from argenzoo.registry import Config

SECTIONS = ("order", "head", "execution")


@dataclass(frozen=True)
class SamplingOptions:
    """``guidance, ramp, interval`` at the top; ``order.*`` and ``head.*`` are the parts' ``Sampling``, ``execution.*`` is for all."""

    guidance: Guidance
    order: Config
    head: Config
    execution: Execution

    @staticmethod
    def parse(values: dict[str, Any], generator: Any, head: Any, where: str = "sampling") -> SamplingOptions:
        """``values``: nested, as in a recipe. ``generator`` and ``head`` are the parts' classes."""
        if not isinstance(values, dict):
            raise ArgenzooError(f"{where}: expected a section of key: value, got {values!r}")
        values = dict(values)
        order, head_options, execution = (values.pop(section, None) or {} for section in SECTIONS)
        unknown = next((key for key in values if key not in Guidance.model_fields), None)
        if unknown is not None:
            raise ArgenzooError(f"unknown key '{where}.{unknown}'{suggestion(str(unknown), [*Guidance.model_fields, *SECTIONS])}")
        return SamplingOptions(
            Guidance.parse(values, where),
            generator.Sampling.parse(order, f"{where}.order"),
            head.Sampling.parse(head_options, f"{where}.head"),
            Execution.parse(execution, f"{where}.execution"),
        )

    def dump(self) -> dict[str, Any]:
        """Nested, as in a recipe."""
        return {**self.guidance.model_dump(), **{section: getattr(self, section).model_dump() for section in SECTIONS}}

    def dotted(self) -> dict[str, Any]:
        """As ``override`` takes it."""
        values = self.dump()
        parts = {f"{name}.{key}": value for name in SECTIONS for key, value in values.pop(name).items()}
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
