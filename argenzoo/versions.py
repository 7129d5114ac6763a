"""Which software made a file."""

from __future__ import annotations

import platform

import torch

__version__ = "0.1.0"


def about() -> dict[str, str]:
    """For the metadata of everything that is written."""
    return {"argenzoo": __version__, "torch": torch.__version__, "python": platform.python_version()}
