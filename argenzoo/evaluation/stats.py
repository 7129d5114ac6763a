"""``argenzoo stats``: reference statistics of a set."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from argenzoo.device import checked_device
from argenzoo.errors import ArgenzooError, suggestion
from argenzoo.evaluation.features import Pixels
from argenzoo.evaluation.inception import load_inception
from argenzoo.evaluation.pictures import HOW, chosen, named_by_user
from argenzoo.evaluation.settings import Settings
from argenzoo.evaluation.statistics import Statistics, reference, statistics_file
from argenzoo.recipe import Part, data_part
from argenzoo.registry import datasets


def stats(pairs: dict[str, Any], size: int, settings: Settings) -> tuple[Statistics, Path]:
    """Reference statistics of a set at ``size`` px, computed where the cache has none of its hash; a copy goes to ``settings.out``.

    Args:
        pairs: dotted keys of the data alone, ``{"data.name": "folder", "data.path": ...}``.

    Raises:
        ArgenzooError: no such set, a key of something else, a file that is there.
    """
    out = None if settings.out is None else new_file(Path(settings.out), settings.overwrite)
    pictures = chosen(data_of(pairs), size, settings.num)
    inception, cache = load_inception(settings.inception, checked_device(settings.device)), Path(settings.cache)
    pixels = Pixels()
    for batch in pictures.batches(settings.batch, "reading"):
        pixels.add(batch)
    found, _ = reference(pixels.finish(), lambda: pictures.batches(settings.batch, "features"), inception, cache)
    if out is not None:
        found.save(out, {"data": json.dumps(pictures.facts()), "size": str(size), "pictures": HOW})
    return found, out or statistics_file(cache, inception, found.pixels)


def data_of(pairs: dict[str, Any]) -> Part | None:
    """A data section from the command line alone: all of a set, unless ``data.held_out`` is given."""
    wrong = next((key for key in pairs if not key.startswith("data.")), None)
    if wrong is not None:
        raise ArgenzooError(f"'{wrong}': only the data matter here, data.name=... data.path=...")
    if "data.name" not in pairs:
        raise ArgenzooError(f"which set? A folder of pictures, or data.name={' | '.join(datasets.names())}")
    return named_by_user(data_part({key.removeprefix("data."): value for key, value in pairs.items()}), pairs)


def named_set(text: str) -> dict[str, Any]:
    """``cifar10`` or ``path/to/folder`` -> data keys."""
    if text in datasets.names():
        return {"data.name": text}
    if not Path(text).is_dir():
        raise ArgenzooError(f"'{text}' is neither a folder nor a set{suggestion(text, datasets.names())}")
    return {"data.name": "folder", "data.path": text}


def new_file(path: Path, overwrite: bool) -> Path:
    """Raises ArgenzooError where it is there already, or is no .safetensors."""
    if path.suffix != ".safetensors":
        raise ArgenzooError(f"--out {path} should end in .safetensors")
    if path.exists() and not overwrite:
        raise ArgenzooError(f"--out {path} is there already: choose another, or --overwrite")
    return path
