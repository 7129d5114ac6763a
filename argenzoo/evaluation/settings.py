"""What the commands that measure have in common: where things are, and which tokenizer is meant."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from argenzoo.build import PRETRAINED, find, weights_in
from argenzoo.errors import ArgenzooError
from argenzoo.evaluation.features import default_cache
from argenzoo.evaluation.pictures import named_by_user
from argenzoo.evaluation.protocol import protocol
from argenzoo.recipe import Recipe
from argenzoo.weights import write_file

GENERATORS = ("seed", "protocol", "reference", "reference_num", "resize", "precision", "keep")  # settings that tokenizers do not have
TOKENIZERS = ("lpips",)  # and that generators do not have
FEATURES = 2048


@dataclass
class Settings:
    """Where pictures, weights and results are.

    Args:
        num: pictures; None: all of a set, 50,000 samples.
        batch: pictures at a time; changes nothing but memory and speed.
        inception, lpips: files of weights; None: what the packages bring or download.
        cache: folder of features and statistics.
        seed: of the samples.
        protocol: of labels and rounding: argenzoo, or a paper's.
        reference: what samples are compared with: a folder, a set, a file of statistics; None: the recipe's training pictures.
        reference_num: so many of its pictures; None: all.
        resize: pixels a side of the pictures that are compared; None: as they are sampled.
        precision: of sampling: fp32 or bf16.
        keep: write every sample as PNG.
    """

    num: int | None = None
    out: str | Path | None = None
    batch: int = 32
    inception: str | None = None
    lpips: str | None = None
    cache: str | Path = field(default_factory=default_cache)
    device: str | None = None
    overwrite: bool = False
    seed: int = 0
    protocol: str = "argenzoo"
    reference: str | None = None
    reference_num: int | None = None
    resize: int | None = None
    precision: str = "fp32"
    keep: bool = False

    def check(self) -> None:
        """Raises ArgenzooError on a value that can't be, before anything is loaded."""
        protocol(self.protocol)
        for name, least in (("num", 2), ("resize", 1), ("reference_num", 2), ("seed", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ArgenzooError(f"--{name.replace('_', '-')} {value}: at least {least}")
        if self.precision not in ("fp32", "bf16"):
            raise ArgenzooError(f"--precision {self.precision}: fp32 or bf16")

    def refuse(self, names: Sequence[str], why: str) -> None:
        """Raises ArgenzooError where one of these is not at its default: it would have no effect."""
        defaults = {entry.name: entry.default for entry in fields(self)}
        wrong = next((name for name in names if getattr(self, name) != defaults[name]), None)
        if wrong is not None:
            raise ArgenzooError(f"--{wrong.replace('_', '-')} has no effect here: {why}")


def free(settings: Settings, results: Sequence[str]) -> Path:
    """The folder for the results, made and tried. Raises ArgenzooError where it holds results already, or can't be written to."""
    if settings.batch < 1:
        raise ArgenzooError(f"--batch {settings.batch}: at least 1")
    if settings.out is not None and not str(settings.out).strip():
        raise ArgenzooError("--out is empty: name a folder")
    out = Path(settings.out or "evaluation")
    there = next((name for name in results if (out / name).exists()), None)
    if there and not settings.overwrite:
        raise ArgenzooError(f"{out} holds {there} already: choose another --out, or --overwrite")
    try:
        write_file(out / ".tried", lambda temporary: temporary.touch())
        (out / ".tried").unlink(missing_ok=True)  # another process may have been faster
    except OSError as error:
        raise ArgenzooError(f"--out {out} can't be written to ({error.strerror}): name a folder") from None
    return out


def warn_of_few(name: str, count: int) -> None:
    """Few pictures have a covariance of low rank, and a distance that is too large."""
    if count < FEATURES:
        text = f"warning: {name} of {count:,} pictures, fewer than its {FEATURES:,} features: compare it at this number only"
        tqdm.write(text, file=sys.stderr)


def with_weights(source: str | Path, overrides: dict[str, Any]) -> Recipe:
    """A tokenizer's recipe that names its weights, and the data that the user named."""
    wrong = next((key for key in overrides if key.partition(".")[0] not in ("data", "tokenizer")), None)
    if wrong is not None:
        raise ArgenzooError(f"'{wrong}' has no effect here: only data.* and tokenizer.* do")
    recipe, folder = find(source, overrides)
    if folder is not None and recipe.generator is not None:
        raise ArgenzooError(f"{folder} is a generator's checkpoint: this is for tokenizers, name the tokenizer's run folder")
    if folder is not None:
        recipe = replace(recipe, tokenizer=replace(recipe.tokenizer, weights=str(weights_in(folder)), sha256=None))
    if recipe.tokenizer.weights is None:
        hint = f", or to {PRETRAINED}" if recipe.pretrained is not None else ""
        raise ArgenzooError(f"recipe '{recipe.name}' has no weights to measure: set tokenizer.weights to a run folder or file{hint}")
    return replace(recipe, data=named_by_user(recipe.data, overrides))
