"""Recipe -> parts -> model; checkpoint folder -> model."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from argenzoo.checkpoint import BEST, EMA, MODEL, RECIPE, TOKENIZER, resolve
from argenzoo.errors import ArgenzooError, suggestion
from argenzoo.model import ARModel, ARNetwork, evaluating
from argenzoo.recipe import Part, Recipe, list_models, load_recipe, recipe_folder
from argenzoo.registry import conditioners, generators, heads, tokenizers
from argenzoo.rng import Rng
from argenzoo.weights import load_strict, read_about, read_weights, sha256, there


def build_model(
    source: str | Path | Recipe, overrides: dict[str, Any] | None = None, device: str | torch.device = "cpu", pretrained: bool = False
) -> ARModel:
    """A model in evaluation mode.

    From a checkpoint, its weights; from a recipe, random ones, or with ``pretrained`` the published ones, downloaded from the Hub.

    Args:
        source: a recipe's name, a YAML file, a checkpoint or run folder, RUN/best, a repository OWNER/NAME of the Hub in our
            format, or a Recipe.
        overrides: dotted keys, e.g. ``{"head.depth": 3}``.
        device: where the model is put.

    Raises:
        ArgenzooError: unknown name, parts that do not fit each other, a checkpoint that does not fit, a download that fails.
    """
    recipe, folder = find(source, overrides)
    if recipe.generator is None:
        raise ArgenzooError(f"recipe '{recipe.name}' is a tokenizer's: use build_tokenizer")
    if folder is not None:
        if pretrained:
            raise ArgenzooError(f"{folder} is a checkpoint with weights of its own: leave out pretrained")
        return from_folder(recipe, folder).to(device).eval()
    if pretrained:
        from argenzoo.hub.pretrained import published

        return published(recipe).to(device).eval()
    return assemble(recipe, build_tokenizer(recipe)).to(device).eval()


def from_folder(recipe: Recipe, folder: Path) -> ARModel:
    """A checkpoint's model, on the meta device until its weights are mapped in."""
    with torch.device("meta"):
        model = assemble(recipe, make_tokenizer(recipe.tokenizer))
    load_tokenizer(model.tokenizer, recipe.tokenizer)
    model.sources = {"network": weights_in(folder), "tokenizer": folder / TOKENIZER}
    load_strict(model.network, read_weights(model.sources["network"]), str(folder))
    return model


def build_tokenizer(source: str | Path | Recipe, overrides: dict[str, Any] | None = None, device: str | torch.device = "cpu") -> Any:
    """The tokenizer alone; ``source`` as for ``build_model``. ``tokenizer.weights=pretrained`` is the recipe's published one."""
    recipe, folder = find(source, overrides)
    part = recipe.tokenizer
    if folder is not None and recipe.generator is None:
        part = replace(part, weights=str(weights_in(folder)), sha256=None)
    if part.weights == PRETRAINED:
        if Path(PRETRAINED).exists():
            raise ArgenzooError(f"tokenizer.weights={PRETRAINED} is the published tokenizer; for the folder here write ./{PRETRAINED}")
        from argenzoo.hub.pretrained import published_tokenizer

        return published_tokenizer(recipe).to(device).eval()
    tokenizer = make_tokenizer(part)
    if part.weights is not None:
        load_tokenizer(tokenizer, part)
    return tokenizer.to(device).eval()


def find(source: str | Path | Recipe, overrides: dict[str, Any] | None = None) -> tuple[Recipe, Path | None]:
    """(recipe, its checkpoint folder or None) of whatever names a model."""
    if isinstance(source, Recipe):
        if overrides:
            raise ArgenzooError("overrides go to load_recipe when a Recipe is given")
        return source, None
    if not str(source).strip():
        raise ArgenzooError("an empty name: expected a recipe, a folder, or OWNER/NAME on the Hub")
    if Path(source).is_dir() or Path(source).name == BEST:
        folder = resolve(source)
        if "tokenizer.weights" in (overrides or {}):
            raise ArgenzooError(f"tokenizer.weights can't be overridden: {folder} holds the tokenizer that it was trained with")
        recipe = load_recipe(folder / RECIPE, overrides)
        if recipe.generator is not None:  # its tokenizer lies beside it
            recipe = replace(recipe, tokenizer=replace(recipe.tokenizer, weights=str(folder / TOKENIZER)))
        return recipe, folder
    if Path(source).suffix in (".yaml", ".yml") or (recipe_folder() / f"{source}.yaml").is_file():
        return load_recipe(source, overrides), None
    if re.fullmatch(r"[\w.-]+/[\w.-]+", str(source)):
        from argenzoo.hub.download import repository

        if (beside := Path(source).parent).is_dir():  # a folder's name, mistyped: no need to ask the Hub
            raise ArgenzooError(f"no such folder {source}{suggestion(Path(source).name, [path.name for path in beside.iterdir()])}")
        return find(repository(str(source)), overrides)
    raise ArgenzooError(f"'{source}' is neither a folder nor a recipe{suggestion(str(source), list_models())}")


def assemble(recipe: Recipe, tokenizer: Any) -> ARModel:
    """Conditioner, generator and head around a tokenizer. Parts that do not fit raise in their constructors."""
    if recipe.generator is None or recipe.head is None or recipe.conditioner is None or recipe.sampling is None:
        raise ArgenzooError(f"recipe '{recipe.name}' has no generator")
    generator = generators.get(recipe.generator.name)(recipe.generator.config, tokenizer.space)
    head = heads.get(recipe.head.name)(recipe.head.config, tokenizer.space, generator.dim)
    conditioner = conditioners.get(recipe.conditioner.name)(recipe.conditioner.config, generator.dim)
    return ARModel(tokenizer, ARNetwork(conditioner, generator, head), recipe.sampling, recipe)


def make_tokenizer(part: Part) -> Any:
    """With random weights, on the current default device."""
    return tokenizers.get(part.name)(part.config)


def load_tokenizer(tokenizer: nn.Module, part: Part) -> None:
    """Fill from the part's weights: a safetensors file, or the checkpoint or run folder of a tokenizer's training.

    Raises:
        ArgenzooError: missing or truncated file, another SHA-256 than the part says, another architecture.
    """
    if part.weights is None:
        raise ArgenzooError("this tokenizer has no weights: set tokenizer.weights to a checkpoint folder or .safetensors file")
    path = tokenizer_file(part.weights)
    state = read_weights(path)
    if part.sha256 is not None and sha256(path) != part.sha256:
        raise ArgenzooError(
            f"{path} is another tokenizer than this checkpoint was trained with: "
            f"its SHA-256 is {sha256(path)}, the recipe says {part.sha256}"
        )
    check_trained_as(part, path)
    load_strict(tokenizer, state, f"tokenizer {path}")
    check_scale(part, tokenizer, path)


def tokenizer_file(weights: str) -> Path:
    """What ``tokenizer.weights`` names: a file, or a run's or checkpoint's."""
    path = Path(weights)
    return weights_in(resolve(path)) if path.is_dir() or path.suffix != ".safetensors" else path


PRETRAINED = "pretrained"  # as tokenizer.weights: the recipe's published tokenizer
FREE = {"quantize", "patch_size", "latent_scale", "image_size"}  # what a generator's recipe may choose over the same weights


def check_trained_as(part: Part, path: Path) -> None:
    """Raises ArgenzooError where the file says that it was trained under other settings: not all of them change a shape."""
    try:
        trained = dict(json.loads(read_about(path).get("tokenizer", "{}")))
    except ValueError:  # somebody else's metadata under our key
        trained = {}
    ours = part.dump()
    for key, value in trained.items():
        if key not in FREE and ours.get(key, value) != value:
            raise ArgenzooError(
                f"tokenizer {path} does not fit this recipe: it was trained with tokenizer.{key} {value}, the recipe says {ours[key]}"
            )


def check_scale(part: Part, tokenizer: Any, path: Path) -> None:
    """Raises ArgenzooError where the recipe fixes another latent scale than the one that was measured with the weights."""
    fixed, measured = getattr(part.config, "latent_scale", None), tokenizer.scale.factors.detach().cpu()
    if fixed is not None and not torch.allclose(torch.tensor(fixed, device="cpu"), measured, rtol=1e-3):
        raise ArgenzooError(
            f"tokenizer.latent_scale {fixed} is not the one that {path} was saved with, {measured.tolist()}: leave it out, or null"
        )


@torch.no_grad()
def measure_scale(tokenizer: Any, batches: Iterable[Tensor]) -> None:
    """Set a tokenizer's latent scale to 1/std of its vectors on pictures (B, 3, H, W) in [-1, 1]. Raises as its ``measure`` does."""
    seen = 0

    def vectors() -> Iterator[Tensor]:
        nonlocal seen
        for part in batches:
            yield tokenizer.vectors(part, Rng(0, range(seen, seen + len(part)), "scale", part.device))
            seen += len(part)

    with evaluating(tokenizer):
        tokenizer.scale.measure(vectors())


ENCODED_AT_ONCE = 32  # pictures: bounds the memory of the tokenizer's first level


@torch.no_grad()
def encoded(tokenizer: Any, pictures: Tensor) -> Tensor:
    """(B, 3, H, W) in [-1, 1] -> what a cache keeps, a few pictures at a time."""
    return torch.cat([tokenizer.encode(part) for part in pictures.split(ENCODED_AT_ONCE)])


def weights_in(folder: Path) -> Path:
    """The averaged weights of a checkpoint where there are any, else the raw ones."""
    return folder / EMA if there(folder / EMA) else folder / MODEL
