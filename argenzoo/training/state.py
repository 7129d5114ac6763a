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
        torch.save({**state, "task": task.state(), "optimizers": optimizers}, path / STATE / "run.pt")

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
    saved = load_recipe(folder / RECIPE)
    for kind in ("tokenizer", "conditioner", "generator", "head", "data"):
        ours, theirs = getattr(recipe, kind), getattr(saved, kind)
        if not same_part(ours, theirs):
            raise ArgenzooError(f"{folder} is a checkpoint of recipe '{saved.name}' with another {kind}: use another train.out")
    for section in ("loss", "codebook"):
        if getattr(saved, section) != getattr(recipe, section):
            raise ArgenzooError(f"{folder} is a checkpoint of recipe '{saved.name}' with another {section} section: use another train.out")
    if saved.train is not None and recipe.train is not None:
        for key in ("seed", "batch_size"):
            if getattr(saved.train, key) != getattr(recipe.train, key):
                raise ArgenzooError(f"{folder} was trained with train.{key} {getattr(saved.train, key)}: the data's order depends on it")
    if recipe.generator is not None:
        same_tokenizer(folder / TOKENIZER, task)
    main, *others = players
    load_into(getattr(main.module, "tokenizer", main.module), folder / MODEL)
    if main.ema is not None:
        load_into(getattr(main.ema.module, "tokenizer", main.ema.module), folder / EMA)
    for player in others:
        load_into(player.module, folder / STATE / f"{player.name}.safetensors")
    try:
        state = torch.load(folder / STATE / "run.pt", map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise ArgenzooError(f"{folder / STATE / 'run.pt'} is missing or truncated ({' '.join(str(error).split())[:120]})") from None
    for player in players:
        load_optimizer(player, state["optimizers"][player.name], folder)
    task.restore(state.get("task", {}))  # absent in checkpoints of 0.1
    if scaler is not None and state["scaler"] is not None:
        scaler.load_state_dict(state["scaler"])
    return state


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
    betas = [group["betas"] for group in player.optimizer.param_groups]
    try:
        player.optimizer.load_state_dict(state)
    except ValueError as error:
        raise ArgenzooError(
            f"{folder} was trained with other optimizer groups, see train.no_decay ({' '.join(str(error).split())})"
        ) from None
    for group, ours in zip(player.optimizer.param_groups, betas, strict=True):
        group["betas"] = ours


def load_into(module: torch.nn.Module, path: Path) -> None:
    """In place: the optimizer and Accelerate hold these very parameters."""
    load_strict(module, read_weights(path), str(path), assign=False)
