"""Two and four processes give the losses of one at the same global batch."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from conftest import CELLS, cache_name, losses, recipe_for
from safetensors.torch import load_file

from argenzoo.checkpoint import MODEL, resolve
from argenzoo.recipe import Recipe
from argenzoo.training.logs import read_log
from argenzoo.training.trainer import train

STEPS = 20


def recipe(name: str, runs: dict[str, Path], caches: dict[str, Path], out: Path, data: Path) -> Recipe:
    """Dropout off, label drop, flips, warm-up, decay and averaged weights on; every other cell from its cache, two of them accumulating."""
    made = recipe_for(
        name,
        runs,
        out,
        data,
        steps=STEPS,
        batch_size=8,
        lr=1e-3,
        schedule="cosine",
        warmup=0.2,
        eval_every=10,
        overrides={"conditioner.dropout": 0.3},
    )
    made = made.with_train(accumulate=1 + (CELLS.index(name) in (0, 3)))
    return made.with_part("data", cache=str(caches[cache_name(made)])) if CELLS.index(name) % 2 else made


@pytest.fixture(scope="module")
def alone(
    tokenizer_runs: dict[str, Path], caches: dict[str, Path], pictures: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("alone")
    return {name: train(recipe(name, tokenizer_runs, caches, folder / name, pictures)) for name in CELLS}


def launch(world: int, arguments: Sequence[str | Path], script: str = "processes.py") -> None:
    """A script of the tests on ``world`` processes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(world)]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    program = str(Path(__file__).with_name(script))
    done = subprocess.run([*command, program, *map(str, arguments)], capture_output=True, text=True, timeout=900, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("world", [2, 4])
def test_any_number_of_processes(
    world: int, alone: dict[str, Path], tokenizer_runs: dict[str, Path], caches: dict[str, Path], pictures: Path, tmp_path: Path
):
    """gloo, started as torchrun and accelerate launch start them; all six cells in one launch."""
    paths = []
    for name in CELLS:
        paths.append(tmp_path / f"{name}.yaml")
        paths[-1].write_text(recipe(name, tokenizer_runs, caches, tmp_path / name, pictures).yaml())
    launch(world, paths)
    for name in CELLS:
        logs = [read_log(folder) for folder in (alone[name], tmp_path / name)]
        assert [log[0]["processes"] for log in logs] == [1, world]
        assert losses(tmp_path / name) == pytest.approx(losses(alone[name]), abs=1e-5), name
        held_out = [[entry["held_out_loss"] for entry in log if entry["event"] == "held_out"] for log in logs]
        assert held_out[0] == pytest.approx(held_out[1], abs=1e-5), name


def test_a_run_goes_on_with_more_processes(
    alone: dict[str, Path], tokenizer_runs: dict[str, Path], caches: dict[str, Path], pictures: Path, tmp_path: Path
):
    """Begun with one, killed after step 10, finished by two."""
    made = recipe("fruit_mar", tokenizer_runs, caches, tmp_path / "run", pictures).with_train(save_every=10)
    train(made)
    shutil.rmtree(tmp_path / "run" / "step_0000020")
    (tmp_path / "recipe.yaml").write_text(made.with_train(resume=True).yaml())
    launch(2, [tmp_path / "recipe.yaml"])
    assert losses(tmp_path / "run")[-10:] == pytest.approx(losses(alone["fruit_mar"])[-10:], abs=1e-5)
    weights = [load_file(resolve(folder) / MODEL) for folder in (tmp_path / "run", alone["fruit_mar"])]
    torch.testing.assert_close(*weights, rtol=0, atol=1e-4)
