"""A recipe's published weights: downloaded, checked, converted once, and mapped from the cache afterwards."""

from __future__ import annotations

import errno
import shutil
import sys
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import cached_assets_path
from huggingface_hub.utils import WeakFileLock
from tqdm import tqdm

from argenzoo.build import PRETRAINED, make_tokenizer
from argenzoo.errors import ArgenzooError, suggestion
from argenzoo.hub.download import commit_of, file_of
from argenzoo.hub.official.families import family_of
from argenzoo.hub.official.importing import fill_tokenizer, filled
from argenzoo.hub.official.layouts import IGNORED, JOINED, LLAMAGEN, MAR, RESHAPED, TRUNK, VAR
from argenzoo.hub.official.reading import Weights
from argenzoo.hub.official.resolve import check_scales
from argenzoo.model import ARModel
from argenzoo.published import HubFile, Pretrained
from argenzoo.recipe import Recipe, list_models
from argenzoo.versions import about
from argenzoo.weights import read_about, save_weights, sha256


def published(recipe: Recipe) -> ARModel:
    """The model with its authors' weights. Raises ArgenzooError where none are published, the download fails or a hash is wrong."""
    section = section_of(recipe)
    if section.generator is None:
        raise ArgenzooError(
            f"{recipe.name} has no published generator, only a tokenizer{suggestion(recipe.name, list_models(pretrained=True))}"
        )
    if recipe.tokenizer.weights not in (None, PRETRAINED):
        raise ArgenzooError("published weights bring their own tokenizer: leave out tokenizer.weights")
    if section.caution is not None:
        warnings.warn(f"{recipe.name}: {section.caution}", stacklevel=3)
    network, codes = converted(section.generator, section.family, "generator"), converted(section.tokenizer, section.family, "tokenizer")
    check_scales(recipe, network, codes)
    return filled(recipe, network, codes)


def published_tokenizer(recipe: Recipe) -> Any:
    """The recipe's tokenizer with its authors' weights. Raises as ``published`` does."""
    section = section_of(recipe)
    with torch.device("meta"):
        tokenizer = make_tokenizer(recipe.tokenizer)
    codes = converted(section.tokenizer, section.family, "tokenizer")
    check_scales(recipe, None, codes)
    fill_tokenizer(tokenizer, recipe.tokenizer, codes, section.latent_scale)
    return tokenizer


def section_of(recipe: Recipe) -> Pretrained:
    if recipe.pretrained is None:
        raise ArgenzooError(f"{recipe.name} has no published weights{suggestion(recipe.name, list_models(pretrained=True))}")
    return recipe.pretrained


def converted(file: HubFile, family: str, kind: str) -> Weights:
    """One published file under our keys, mapped from the cache, where it is put the first time.

    Raises:
        ArgenzooError: the download fails, another SHA-256 than the recipe says, or see ``import_official``.
    """
    try:
        target = place(file, family, kind)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        tqdm.write(f"the cache can't be written to ({error}): reading the download itself", file=sys.stderr)
        return Weights.read(family_of(family), kind, right(file, file_of(file))[0])
    made_from = read_about(target)["source_sha256"]
    if file.sha256 is not None and made_from != file.sha256:
        raise ArgenzooError(f"{wrong(file, made_from)}; {target} was made from it: delete that")
    return Weights.converted(target, file.address)


def place(file: HubFile, family: str, kind: str) -> Path:
    """Where the conversion is; it is made by one process, and the others wait. Raises OSError where it can't be written."""
    pinned = file.model_copy(update={"revision": commit_of(file)})  # so that what arrives is of the commit that names the folder
    folder = cached_assets_path("argenzoo", file.repo.replace("/", "--"), pinned.revision)
    target = folder / f"{file.file.replace('/', '--')}.{layout()}.safetensors"
    if not whole(target):
        with WeakFileLock(target.with_suffix(".lock")):
            if not whole(target):
                convert(file, file_of(pinned), family, kind, target)
    return target


def layout() -> str:
    """Changes when a table of renames does, so that older conversions are made again."""
    return f"{zlib.crc32(repr((TRUNK, LLAMAGEN, VAR, MAR, IGNORED, JOINED, RESHAPED)).encode()):08x}"


def whole(target: Path) -> bool:
    """Whether a conversion is there and can be read; a broken one is made again."""
    try:
        return "source_sha256" in read_about(target)
    except ArgenzooError:
        return False


def convert(file: HubFile, path: Path, family: str, kind: str, target: Path) -> None:
    """Check the hash, rename, and write in one piece: what has the final name is whole."""
    path, digest = right(file, path)
    tqdm.write(f"converting {file.address} ({path.stat().st_size / 1e9:.2f} GB), once", file=sys.stderr)
    weights = Weights.read(family_of(family), kind, path)
    with emptied(target.with_suffix(".converting")) as folder:
        save_weights(folder / target.name, weights.state, {**about(), **weights.about, "source": file.address, "source_sha256": digest})
        (folder / target.name).replace(target)


@contextmanager
def emptied(folder: Path) -> Iterator[Path]:
    """A temporary folder of a fixed name, so that what a killed process left in it goes with the next one."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def right(file: HubFile, path: Path) -> tuple[Path, str]:
    """The download and its SHA-256. Raises ArgenzooError where it is not what the recipe says."""
    digest = sha256(path)
    if file.sha256 is not None and digest != file.sha256:
        raise ArgenzooError(f"{wrong(file, digest)}; delete {path.resolve()} and try again")
    return path, digest


def wrong(file: HubFile, digest: str) -> str:
    return f"what arrived is not {file.address} as published: its SHA-256 is {digest}, the recipe says {file.sha256}; it is not loaded"
