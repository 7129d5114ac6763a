"""Runs that stop go on as if they had not, bit for bit; the last checkpoints and the best are kept; nothing good is lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import CELLS, TOKENIZERS, cache_name, losses, recipe_for
from safetensors.torch import load_file

from argenzoo.build import build_model
from argenzoo.checkpoint import EMA, MODEL, best_of, checkpoints, resolve
from argenzoo.errors import ArgenzooError
from argenzoo.recipe import Recipe
from argenzoo.training.logs import read_log
from argenzoo.training.trainer import Trainer, train

STEPS = 7


class Killed(BaseException):
    """Nothing catches it but the test."""


def with_dropout(recipe: Recipe) -> Recipe:
    """Where the generator has any: what it draws must be the same too."""
    if recipe.generator is None:
        return recipe
    key = "dropout" if hasattr(recipe.generator.config, "dropout") else "drop_path"
    return recipe.with_part("generator", **{key: 0.2})


def same_weights(one: Path, other: Path) -> None:
    for file in (MODEL, EMA):
        torch.testing.assert_close(load_file(resolve(one) / file), load_file(resolve(other) / file), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("name", "cached"), [(name, cached) for name in [*CELLS, *TOKENIZERS] for cached in (False, True)[: 1 + (name in CELLS)]]
)
def test_a_killed_run_goes_on_as_if_it_had_not_been(
    name: str, cached: bool, tokenizer_runs: dict[str, Path], caches: dict[str, Path], pictures: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
    """Stopped in step 2 (before any checkpoint), step 4 (just after one) and step 6; EMA, schedule, dropout and flips on."""

    def recipe(out: Path, **settings: bool) -> Recipe:
        made = recipe_for(
            name, tokenizer_runs, out, pictures, steps=STEPS, save_every=3, schedule="cosine", warmup=0.3, accumulate=2, **settings
        )
        made = made if not cached else made.with_part("data", cache=str(caches[cache_name(made)]))
        return with_dropout(made)

    whole = train(recipe(tmp_path / "whole"))
    step = Trainer._step

    def stopping(at: int):
        def _step(self: Trainer, number: int, stream: object):
            if number + 1 == at:
                raise Killed
            return step(self, number, stream)

        return _step

    for at in (2, 4, 6):
        monkeypatch.setattr(Trainer, "_step", stopping(at))
        with pytest.raises(Killed):
            train(recipe(tmp_path / "half", resume=True))
        torch.manual_seed(at)
    monkeypatch.setattr(Trainer, "_step", step)
    half = train(recipe(tmp_path / "half", resume=True))
    by_step = {entry["step"]: entry["loss"] for entry in read_log(half) if entry["event"] == "train"}
    assert [by_step[number] for number in sorted(by_step)] == losses(whole)
    same_weights(half, whole)
    states = [torch.load(resolve(run) / "state" / "run.pt", weights_only=True) for run in (half, whole)]
    torch.testing.assert_close(states[0], states[1], rtol=0, atol=0)


def test_killed_by_the_system(tokenizer_runs: dict[str, Path], caches: dict[str, Path], pictures: Path, tmp_path: Path):
    """SIGKILL at whatever moment, then the same command with train.resume=true."""

    def recipe(out: str) -> Recipe:
        made = recipe_for("fruit_mar", tokenizer_runs, tmp_path / out, pictures, steps=400, save_every=5, eval_every=40)
        return made.with_part("data", cache=str(caches["kl"]))

    (tmp_path / "recipe.yaml").write_text(recipe("half").yaml())
    command = [sys.executable, "-m", "argenzoo", "train", f"recipe={tmp_path / 'recipe.yaml'}", "train.resume=true"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env=environment) as running:
        while len(checkpoints(tmp_path / "half")) < 2 and running.poll() is None:
            time.sleep(0.02)
        running.send_signal(signal.SIGKILL)
    before = int(checkpoints(tmp_path / "half")[-1].name[-7:])
    assert 0 < before < 400
    subprocess.run(command, check=True, capture_output=True, env=environment)
    whole = train(recipe("whole"))
    by_step = {entry["step"]: entry["loss"] for entry in read_log(tmp_path / "half") if entry["event"] == "train"}
    assert list(by_step.values()) == losses(whole)
    same_weights(tmp_path / "half", whole)


def test_the_last_checkpoints_and_the_best_are_kept(
    tokenizer_runs: dict[str, Path], pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    held_out = iter([5.0, 3.0, 4.0, 6.0, 4.5, 4.2])
    evaluate = Trainer._evaluate

    def with_losses(self: Trainer, step: int, saved: bool = True) -> None:
        monkeypatch.setattr(self.task, "summary", lambda totals: {"loss": next(held_out)})
        evaluate(self, step, saved)

    monkeypatch.setattr(Trainer, "_evaluate", with_losses)
    out = train(recipe_for("fruit_raster", tokenizer_runs, tmp_path / "run", pictures, steps=6, save_every=1, eval_every=1, keep=2))
    assert [path.name[-1] for path in checkpoints(out)] == ["2", "5", "6"]
    assert best_of(out) == 2
    assert resolve(out / "best").name == "step_0000002"
    build_model(out / "best")
    assert "least held-out loss | 3.0000 at step 2" in (out / "summary.md").read_text()


@pytest.mark.parametrize("room", [20_000, 1_000_000])  # the weights do not fit; they do, and the optimizer's state does not
def test_a_full_disk_leaves_the_last_good_checkpoint(room: int, tokenizer_runs: dict[str, Path], pictures: Path, tmp_path: Path):
    """Writes really fail: the system bounds the size of a file."""
    out = train(recipe_for("fruit_raster", tokenizer_runs, tmp_path / "run", pictures))
    more = recipe_for("fruit_raster", tokenizer_runs, out, pictures, steps=5, resume=True)
    sizes = [path.stat().st_size for path in resolve(out).rglob("*") if path.is_file()]
    assert max(sizes) > room
    (tmp_path / "more.yaml").write_text(more.yaml())
    code = (
        "import resource, signal, sys; from argenzoo.cli import main; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({room}, {room})); sys.exit(main(['train', 'recipe={tmp_path / 'more.yaml'}']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 2
    last = done.stderr.strip().splitlines()[-1]
    assert "error: the checkpoint of step 5 can't be saved" in last
    assert last.endswith("The last good checkpoint is " + str(out / "step_0000003"))
    assert [path.name for path in out.glob("*step_*")] == ["step_0000003"]
    build_model(out)
    train(more)
    assert resolve(out).name == "step_0000005"


def test_killed_before_its_evaluation(tokenizer_runs: dict[str, Path], pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Between a checkpoint and its evaluation: nothing is missing from the curve, and the best is found."""

    def recipe(out: str, **settings: bool) -> Recipe:
        return recipe_for("fruit_raster", tokenizer_runs, tmp_path / out, pictures, steps=6, save_every=2, eval_every=2, **settings)

    def held_out(out: Path) -> list[float]:
        return [entry["held_out_loss"] for entry in read_log(out) if entry["event"] == "held_out"]

    whole = train(recipe("whole"))
    evaluate = Trainer._evaluate
    for at in (4, 6):

        def killed(self: Trainer, step: int, saved: bool = True, at: int = at) -> None:
            if step == at:
                raise Killed
            evaluate(self, step, saved)

        monkeypatch.setattr(Trainer, "_evaluate", killed)
        with pytest.raises(Killed):
            train(recipe("half", resume=True))
    monkeypatch.setattr(Trainer, "_evaluate", evaluate)
    half = train(recipe("half", resume=True))
    assert held_out(half) == held_out(whole)
    assert best_of(half) == best_of(whole)
    ends = [entry for entry in read_log(half) if entry["event"] == "end"]
    assert len(ends) == 1
    train(recipe("half", resume=True).with_train(steps=5))  # fewer than it has: nothing to do, nothing lost
    assert best_of(half) == best_of(whole)


def test_half_a_line_of_a_killed_log_is_dropped(tokenizer_runs: dict[str, Path], pictures: Path, tmp_path: Path):
    out = train(recipe_for("fruit_raster", tokenizer_runs, tmp_path / "run", pictures))
    with (out / "log.jsonl").open("a") as file:
        file.write('{"event": "tra')
    assert [entry["event"] for entry in read_log(out)][-1] == "end"
    train(recipe_for("fruit_raster", tokenizer_runs, out, pictures, steps=4, resume=True))
    assert [json.loads(line)["event"] for line in (out / "log.jsonl").read_text().splitlines()].count("end") == 2


def test_a_run_from_pictures_goes_on_from_a_cache(tokenizer_runs: dict[str, Path], caches: dict[str, Path], pictures: Path, tmp_path: Path):
    out = train(recipe_for("fruit_raster", tokenizer_runs, tmp_path / "run", pictures, schedule="constant", warmup=0.0))
    more = recipe_for("fruit_raster", tokenizer_runs, out, pictures, steps=5, resume=True, schedule="constant", warmup=0.0)
    train(more.with_part("data", cache=str(caches["vq"])))
    whole = train(recipe_for("fruit_raster", tokenizer_runs, tmp_path / "whole", pictures, steps=5, schedule="constant", warmup=0.0))
    assert losses(out) == pytest.approx(losses(whole), abs=2e-5)
    with pytest.raises(ArgenzooError, match="another data"):
        train(more.with_part("data", flip=False))


def test_other_loss_weights_are_another_run(tokenizer_runs: dict[str, Path], pictures: Path, tmp_path: Path):
    out = train(recipe_for("fruit_kl", tokenizer_runs, tmp_path / "run", pictures))
    with pytest.raises(ArgenzooError, match="another loss section"):
        train(recipe_for("fruit_kl", tokenizer_runs, out, pictures, steps=5, resume=True, overrides={"loss.kl": 1e-3}))
