"""Saving a run and going on with it."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from argenzoo.checkpoint import EMA, MODEL, RECIPE, STATE, TOKENIZER, write_atomically
from argenzoo.data.cache import UNSEEN
from argenzoo.errors import ArgenzooError
from argenzoo.recipe import Recipe, load_recipe
from argenzoo.registry import Config
from argenzoo.training.guards import ema_share
from argenzoo.training.player import Player
from argenzoo.training.tasks import Task
from argenzoo.versions import about
from argenzoo.weights import load_strict, read_weights, save_weights, sha256


def save(folder: Path, recipe: Recipe, task: Task, players: list[Player], state: dict[str, Any]) -> None:
    """Write a checkpoint under a temporary name, then rename. ``state``: ``step`` and what else the weights do not say."""
    main, *others = players

    def write(path: Path) -> None:
        kind = {"tokenizer": json.dumps(replace(recipe.tokenizer, weights=None, sha256=None).dump())}
        facts = {**about(), "recipe": recipe.name, "step": str(state["step"]), **(kind if recipe.generator is None else {})}
        save_weights(path / MODEL, weights_of(main, averaged=False), facts)
        if main.ema is not None:
            share = {"ema_share": f"{ema_share(main.config, state['step']):.4f}"}
            save_weights(path / EMA, weights_of(main, averaged=True), {**facts, **share})
        saved = replace(recipe, pretrained=None, tokenizer=replace(recipe.tokenizer, weights=None, sha256=None))  # not the published ones
        if recipe.generator is not None:
            save_weights(path / TOKENIZER, task.tokenizer.state_dict(), {**about(), **kind})
            saved = with_tokenizer(saved, path / TOKENIZER)
        (path / RECIPE).write_text(saved.yaml(), encoding="utf-8")
        (path / STATE).mkdir()
        for player in others:
            save_weights(path / STATE / f"{player.name}.safetensors", weights_of(player, averaged=False), facts)
        # data position and randomness are functions of the step; readable with weights_only=True
        optimizers = {player.name: player.optimizer.state_dict() for player in players}
        torch.save({**state, "optimizers": optimizers}, path / STATE / "run.pt")

    write_atomically(folder, write)


def weights_of(player: Player, averaged: bool) -> dict[str, torch.Tensor]:
    """A tokenizer's keys carry no ``tokenizer.`` prefix, a network's are its own."""
    module: Any = player.averaged if averaged else player.module
    return getattr(module, "tokenizer", module).state_dict()


def with_tokenizer(recipe: Recipe, path: Path) -> Recipe:
    """The recipe, naming the tokenizer that lies beside it and its hash."""
    return replace(recipe, tokenizer=replace(recipe.tokenizer, weights=path.name, sha256=sha256(path)))


def resume(folder: Path, recipe: Recipe, task: Task, players: list[Player], scaler: Any = None) -> dict[str, Any]:
    """Load a checkpoint into a task and its players; returns the state that was saved.

    Raises:
        ArgenzooError: the checkpoint is another recipe's, truncated, or does not fit.
    """
    refuse_others(folder, recipe)
    if recipe.generator is not None:
        same_tokenizer(folder / TOKENIZER, task)
    main, *others = players
    load_into(getattr(main.module, "tokenizer", main.module), folder / MODEL)
    if main.ema is not None:
        load_into(getattr(main.ema.module, "tokenizer", main.ema.module), folder / EMA)
    for player in others:
        load_into(player.module, folder / STATE / f"{player.name}.safetensors")
    state = read_state(folder / STATE / "run.pt")
    for player in players:
        load_optimizer(player, state["optimizers"][player.name], folder)
    if scaler is not None and state["scaler"] is not None:
        scaler.load_state_dict(state["scaler"])
    return state


def read_state(path: Path) -> dict[str, Any]:
    """Raises ArgenzooError where it is missing or truncated."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise ArgenzooError(f"{path} is missing or truncated ({' '.join(str(error).split())[:120]})") from None


def refuse_others(folder: Path, recipe: Recipe) -> None:
    """Raises ArgenzooError where a checkpoint is of another recipe than the one that is to go on."""
    saved = load_recipe(folder / RECIPE)
    for kind in ("tokenizer", "conditioner", "generator", "head", "data"):
        ours, theirs = getattr(recipe, kind), getattr(saved, kind)
        if not same_part(ours, theirs):
            raise ArgenzooError(f"{folder} is a checkpoint of recipe '{saved.name}' with another {kind}: use another train.out")
    for section in ("loss", "codebook"):
        if without_files(getattr(saved, section)) != without_files(getattr(recipe, section)):
            raise ArgenzooError(f"{folder} is a checkpoint of recipe '{saved.name}' with another {section} section: use another train.out")
    if saved.train is not None and recipe.train is not None:
        for key in ("seed", "batch_size"):
            if getattr(saved.train, key) != getattr(recipe.train, key):
                raise ArgenzooError(f"{folder} was trained with train.{key} {getattr(saved.train, key)}: the data's order depends on it")


def without_files(section: Any) -> Any:
    """A loss or codebook section as plain values; where a frozen network's weights lie does not count."""
    if isinstance(section, dict):
        return {term: without_files(value) for term, value in section.items()}
    return section.model_dump(exclude={"weights"}) if isinstance(section, Config) else section


def same_part(ours: Any, theirs: Any) -> bool:
    """Whether two parts are the same but for what training writes into them."""
    written = {"names", *UNSEEN}  # names: by training; the others change no sample that is read
    if ours is None or theirs is None:
        return ours is theirs
    return ours.name == theirs.name and ours.config.model_dump(exclude=written) == theirs.config.model_dump(exclude=written)


def same_tokenizer(path: Path, task: Task) -> None:
    """Raises ArgenzooError where the run goes on with another tokenizer than it began with."""
    theirs, ours = read_weights(path), task.tokenizer.state_dict()
    if theirs.keys() != ours.keys() or any(not torch.equal(tensor, ours[key].cpu()) for key, tensor in theirs.items()):
        raise ArgenzooError(f"tokenizer.weights is another tokenizer than {path.parent} was trained with: set it to {path}")


def load_optimizer(player: Player, state: dict[str, Any], folder: Path) -> None:
    """The moments; the settings are the recipe's. Raises ArgenzooError where the parameter groups differ."""
    settings = [{key: group[key] for key in ("betas", "fused", "foreach")} for group in player.optimizer.param_groups]
    try:
        player.optimizer.load_state_dict(state)
    except ValueError as error:
        raise ArgenzooError(
            f"{folder} was trained with other optimizer groups, see train.no_decay ({' '.join(str(error).split())})"
        ) from None
    for group, ours in zip(player.optimizer.param_groups, settings, strict=True):
        group.update(ours)  # of a checkpoint of 0.1, whose optimizer was not fused, too


def load_into(module: torch.nn.Module, path: Path) -> None:
    """In place: the optimizer and Accelerate hold these very parameters."""
    load_strict(module, read_weights(path), str(path), assign=False)
