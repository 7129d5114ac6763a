"""Published weights and the Hub: importing the authors' files, our own format, a diffusers pipeline."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from argenzoo.hub.official.importing import import_official
    from argenzoo.hub.pipeline import ARPipeline

__all__ = ["ARPipeline", "import_official"]
_WHERE = {"ARPipeline": "argenzoo.hub.pipeline", "import_official": "argenzoo.hub.official.importing"}  # diffusers loads when asked for


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'argenzoo.hub' has no attribute '{name}'")
    return getattr(import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
