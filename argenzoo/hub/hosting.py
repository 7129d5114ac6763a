"""Our own format, in a folder or on the Hub: recipe.yaml, model and tokenizer weights, a model card. huggingface_hub's conventions."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi

from argenzoo.build import build_model
from argenzoo.checkpoint import MODEL, RECIPE, SHARD, TOKENIZER, read_about, replace_text, save_sharded, sha256, there
from argenzoo.errors import ArgenzooError
from argenzoo.hub.card import write_card
from argenzoo.hub.download import Access, explained, repository
from argenzoo.model import ARModel
from argenzoo.recipe import Recipe
from argenzoo.versions import about

OF_THIS_MACHINE = ("path", "held_out_path", "cache")  # of the data section; a recipe that is shared says nothing of them


@dataclass(frozen=True)
class Upload:
    """How to put a repository up, as ``ModelHubMixin.push_to_hub`` names it."""

    private: bool | None = None
    token: str | None = None
    branch: str | None = None
    commit_message: str = "Upload a model of argenzoo"
    create_pr: bool | None = None


def save(model: ARModel, folder: str | Path, license: str | None = None, overwrite: bool = False, shard_size: str = SHARD) -> Path:  # noqa: A002
    """Write a checkpoint folder that ``build_model`` reads, with a model card; the recipe comes last, so that half a folder is none.

    Args:
        license: of the weights, as the Hub names it (``mit``); None: that of the published weights, where they are.
        overwrite: replace a checkpoint that is there.

    Raises:
        ArgenzooError: ``folder`` holds a checkpoint, or the model has no tokenizer.
    """
    target = Path(folder)
    if target.exists() and not target.is_dir():
        raise ArgenzooError(f"{target} is a file: name a folder")
    if any(target.glob("*.safetensors*")) or (target / RECIPE).exists():
        if not overwrite:
            raise ArgenzooError(f"{target} holds a checkpoint already: choose another folder, or overwrite")
        clear(target)
    model.require("tokenizer")
    target.mkdir(parents=True, exist_ok=True)
    recipe = write_weights(model, target, shard_size)
    write_card(model, target, license)
    replace_text(target / RECIPE, recipe.yaml())
    return target


def clear(folder: Path) -> None:
    """Remove what an earlier ``save`` wrote, the recipe first."""
    for pattern in (RECIPE, "model*.safetensors*", "ema*.safetensors*", "tokenizer*.safetensors*", "README.md"):
        for file in folder.glob(pattern):
            file.unlink()


def write_weights(model: ARModel, target: Path, shard_size: str) -> Recipe:
    """The tensors; returns the recipe, naming the tokenizer beside it and its hash."""
    recipe, facts = shareable(model.recipe), {**about(), "recipe": model.recipe.name}
    codes, kind = model.tokenizer.state_dict(), {"tokenizer": json.dumps(recipe.tokenizer.dump())}
    if model.network is None:
        save_sharded(target / MODEL, codes, {**facts, **kind, **origin(model, "tokenizer")}, shard_size)
        return recipe
    save_sharded(target / MODEL, model.network.state_dict(), {**facts, **origin(model, "network")}, shard_size)
    save_sharded(target / TOKENIZER, codes, {**facts, **kind, **origin(model, "tokenizer")}, shard_size)
    tokenizer = replace(recipe.tokenizer, weights=TOKENIZER, sha256=sha256(target / TOKENIZER))
    return replace(recipe, tokenizer=tokenizer, sampling=model.sampling)


def origin(model: ARModel, part: str) -> dict[str, str]:
    """For the metadata: the file that a part's weights came from, and its hash. A converted file says where it is from itself."""
    path = model.sources.get(part)
    if path is None or not there(path):
        return {}
    known = read_about(path) if path.suffix == ".safetensors" else {}
    if "source_sha256" in known:
        return {key: known[key] for key in ("source", "source_sha256")}
    return {"source": "/".join(path.parts[-2:]), "source_sha256": sha256(path)}


def shareable(recipe: Recipe) -> Recipe:
    """Without the paths of the machine that it was trained on."""
    clean = replace(recipe, tokenizer=replace(recipe.tokenizer, weights=None, sha256=None))
    if clean.data is not None:
        fields = type(clean.data.config).model_fields
        clean = clean.with_part("data", **{key: None for key in OF_THIS_MACHINE if key in fields})
    return clean if clean.train is None else clean.with_train(out=None, resume=False)


def push(write: Callable[[str], Any], repo: str, upload: Upload) -> str:
    """Create the repository where there is none, and upload in one commit what ``write`` puts into a folder; returns the commit's address.

    Raises:
        ArgenzooError: no token, no right to write, a name that can't be.
    """
    api = HfApi(token=upload.token)
    with tempfile.TemporaryDirectory() as folder, explained(repo, upload.branch or "main", RECIPE):
        write(folder)
        name = api.create_repo(repo, private=upload.private, exist_ok=True).repo_id
        return str(
            api.upload_folder(
                repo_id=name, folder_path=folder, commit_message=upload.commit_message, revision=upload.branch, create_pr=upload.create_pr
            )
        )


def load(source: str | Path, overrides: dict[str, Any] | None, device: Any, access: Access) -> ARModel:
    """From a folder or a repository. Raises ArgenzooError as ``build_model`` does."""
    folder = Path(source)
    return build_model(folder if folder.is_dir() else repository(str(source), access), overrides, device)
