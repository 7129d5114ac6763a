"""Our own format, in a folder or on the Hub: recipe.yaml, model and tokenizer weights, a model card. huggingface_hub's conventions."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi

from argenzoo.build import build_model
from argenzoo.checkpoint import MODEL, RECIPE, STATE, TOKENIZER, flush
from argenzoo.errors import ArgenzooError
from argenzoo.hub.card import METRICS, PICTURE, write_card
from argenzoo.hub.download import Access, refused, repository
from argenzoo.model import ARModel
from argenzoo.recipe import Recipe
from argenzoo.registry import Config
from argenzoo.versions import about
from argenzoo.weights import SHARD, origin, save_weights, sha256

PARTS = ("network", "tokenizer")
WEIGHTS = ("{}.safetensors", "{}-?????-of-?????.safetensors", "{}.safetensors.index.json")
# what ``save`` writes, and the averaged weights of a copied checkpoint, which would be read before the new ones
OURS = [RECIPE, "README.md", PICTURE, METRICS, *(name.format(part) for part in ("model", "ema", "tokenizer") for name in WEIGHTS)]
OF_THIS_MACHINE = ("path", "held_out_path", "cache")  # of the data section; a recipe that is shared says nothing of them


@dataclass(frozen=True)
class Upload:
    """How to put a repository up, as ``ModelHubMixin.push_to_hub`` names it."""

    private: bool | None = None
    token: str | None = None
    branch: str | None = None
    commit_message: str = "Upload a model of argenzoo"
    create_pr: bool | None = None


def save(
    model: ARModel,
    folder: str | Path,
    license: str | None = None,  # noqa: A002
    overwrite: bool = False,
    shard_size: str = SHARD,
    repo: str | None = None,
) -> Path:
    """Write a checkpoint folder that ``build_model`` reads, with a model card. A failure leaves what was there as it was.

    Args:
        license: of the weights, as the Hub names it (``mit``); None: that of the published weights, where they are.
        overwrite: replace a checkpoint that is there; other files stay.
        repo: OWNER/NAME, where it will be; the card's example says so.

    Raises:
        ArgenzooError: ``folder`` holds a checkpoint, or the model has no tokenizer or no recipe.
    """
    target = free(folder, overwrite)
    model.require("tokenizer")
    if model.recipe is None:
        raise ArgenzooError("this model has no recipe, which a checkpoint is built from: make it with build_model")
    created = not target.exists()
    target.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(prefix=".saving-", dir=target) as new:  # inside, since a neighbour may lie on another disk
            write(model, Path(new), license, shard_size, repo)
            exchange(Path(new), target)
    except BaseException:
        if created:
            shutil.rmtree(target, ignore_errors=True)
        raise
    return target


def free(folder: str | Path, overwrite: bool) -> Path:
    """A folder that may be written to. Raises ArgenzooError where it is none, or holds what must not be lost."""
    target = Path(folder).resolve()
    if not str(folder).strip() or (target.exists() and not target.is_dir()):
        raise ArgenzooError(f"'{folder}' is {'a file' if str(folder).strip() else 'empty'}: name a folder")
    if (target / STATE).exists() or any(target.glob(f"step_*/{RECIPE}")):
        raise ArgenzooError(f"{target} holds a training: choose another folder")
    if written_in(target) and not overwrite:
        raise ArgenzooError(f"{target} holds a checkpoint already, or files of its names: choose another folder, or overwrite")
    return target


def write(model: ARModel, folder: Path, license: str | None, shard_size: str, repo: str | None) -> None:  # noqa: A002
    """Weights, card and recipe into an empty folder."""
    origins = {part: origin(model.sources[part]) if part in model.sources else {} for part in PARTS}
    recipe = write_weights(model, folder, shard_size, origins)
    write_card(model, folder, license, origins, repo)
    (folder / RECIPE).write_text(recipe.yaml(), encoding="utf-8")


def exchange(new: Path, target: Path) -> None:
    """Put what was written in the place of what an earlier save wrote; the recipe goes first and comes last, so that half a
    checkpoint is none."""
    (target / RECIPE).unlink(missing_ok=True)
    fresh = sorted(new.iterdir(), key=lambda file: file.name == RECIPE)
    for file in written_in(target):
        if file.name not in {path.name for path in fresh}:
            file.unlink(missing_ok=True)
    for file in fresh:
        flush(file)
        file.replace(target / file.name)


def written_in(folder: Path) -> list[Path]:
    """What ``save`` wrote into a folder."""
    return [file for pattern in OURS for file in folder.glob(pattern) if file.is_file()]


def write_weights(model: ARModel, target: Path, shard_size: str, origins: dict[str, dict[str, str]]) -> Recipe:
    """The tensors; returns the recipe, naming the tokenizer beside it and its hash."""
    recipe, facts = shareable(model.recipe), {**about(), "recipe": model.recipe.name}
    kind = {"tokenizer": json.dumps(recipe.tokenizer.dump())}
    path = target / (MODEL if model.network is None else TOKENIZER)
    save_weights(path, model.tokenizer.state_dict(), {**facts, **kind, **origins["tokenizer"]}, shard_size)
    if model.network is None:
        return recipe
    save_weights(target / MODEL, model.network.state_dict(), {**facts, **origins["network"]}, shard_size)
    tokenizer = replace(recipe.tokenizer, weights=TOKENIZER, sha256=sha256(path))
    return replace(recipe, tokenizer=tokenizer, sampling=model.sampling)


def shareable(recipe: Recipe) -> Recipe:
    """Without the paths of the machine that it was trained on, and without a claim to be the published weights."""
    clean = replace(recipe, tokenizer=replace(recipe.tokenizer, weights=None, sha256=None), pretrained=None)
    if clean.data is not None:
        fields = type(clean.data.config).model_fields
        clean = clean.with_part("data", **{key: None for key in OF_THIS_MACHINE if key in fields})
    if clean.loss is not None:  # the files of frozen networks
        parts = {term: value for term, value in clean.loss.items() if isinstance(value, Config) and "weights" in type(value).model_fields}
        clean = replace(clean, loss={**clean.loss, **{term: value.model_copy(update={"weights": None}) for term, value in parts.items()}})
    return clean if clean.train is None else clean.with_train(out=None, resume=False)


def push(save_into: Callable[[str], Any], repo: str, upload: Upload) -> str:
    """Create the repository where there is none, and upload in one commit what ``save_into`` puts into a folder.

    Returns:
        The address of the commit, or of the pull request.

    Raises:
        ArgenzooError: no token, no right to write, a name that can't be.
    """
    api = HfApi(token=upload.token)
    with tempfile.TemporaryDirectory() as parent:
        folder = str(Path(parent) / "checkpoint")
        save_into(folder)
        with refused(repo):
            name = api.create_repo(repo, private=upload.private, exist_ok=True).repo_id
            commit: Any = api.upload_folder(
                repo_id=name,
                folder_path=folder,
                commit_message=upload.commit_message,
                revision=upload.branch,
                create_pr=upload.create_pr,
                delete_patterns=OURS,  # what an earlier push left, shards above all
            )
    return str(commit.pr_url or commit)


def load(source: str | Path, overrides: dict[str, Any] | None, device: Any, access: Access) -> ARModel:
    """From a folder or a repository. Raises ArgenzooError as ``build_model`` does."""
    folder = Path(source)
    return build_model(folder if folder.is_dir() else repository(str(source), access), overrides, device)
