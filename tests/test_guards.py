"""What stops a run early, and what it says."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from conftest import recipe_for, tiny
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from argenzoo.checkpoint import EMA, MODEL, checkpoints, resolve
from argenzoo.errors import ArgenzooError
from argenzoo.heads.cross_entropy import CrossEntropy
from argenzoo.protocols import TokenSpace
from argenzoo.sampling.command import sample
from argenzoo.train_options import TrainConfig
from argenzoo.training.guards import Skips, check_pictures, check_tokens, ema_share, ema_warning
from argenzoo.training.logs import read_log
from argenzoo.training.memory import advice
from argenzoo.training.trainer import Trainer, train


def broken_at(monkeypatch: pytest.MonkeyPatch, steps: set[int], value: float = float("nan")) -> None:
    """Losses of these steps (from 1) become ``value``."""
    step, loss = Trainer._step, CrossEntropy.loss
    now = [0]

    def counted(self: Trainer, number: int, stream: object):
        now[0] = number + 1
        return step(self, number, stream)

    def spoiled(self: CrossEntropy, z: torch.Tensor, tokens: torch.Tensor, rng: object = None) -> torch.Tensor:
        return loss(self, z, tokens) * (value if self.training and now[0] in steps else 1.0)

    monkeypatch.setattr(Trainer, "_step", counted)
    monkeypatch.setattr(CrossEntropy, "loss", spoiled)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_steps_that_are_not_finite_change_nothing_and_are_counted(
    value: float, tokenizer_runs: dict[str, Path], pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    broken_at(monkeypatch, {2, 4}, value)
    out = train(recipe_for("fruit_raster", tokenizer_runs, tmp_path / "run", pictures, steps=5, save_every=1, keep=None, weight_decay=0.1))
    weights = [{**load_file(path / MODEL), **{f"ema.{key}": v for key, v in load_file(path / EMA).items()}} for path in checkpoints(out)]
    same = [all(torch.equal(one[key], other[key]) for key in one) for one, other in pairwise(weights)]
    assert same == [True, False, True, False]  # steps 2 and 4
    assert all(tensor.isfinite().all() for tensor in weights[-1].values())
    entries = read_log(out)
    assert [entry["skipped"] for entry in entries if entry["event"] == "train"] == [0, 1, 1, 2, 2]
    assert entries[-1]["skipped"] == 2
    assert "steps skipped | 2" in (out / "summary.md").read_text()


def test_too_many_of_them_stop_the_run(tokenizer_runs: dict[str, Path], pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    broken_at(monkeypatch, set(range(4, 99)))
    recipe = recipe_for("fruit_raster", tokenizer_runs, tmp_path / "run", pictures, steps=50, save_every=2, max_skipped=3)
    with pytest.raises(ArgenzooError, match=r"step 7: .* not finite in 4 of the last 7 steps.*last good checkpoint is .*step_0000006"):
        train(recipe)
    assert all(tensor.isfinite().all() for tensor in load_file(resolve(tmp_path / "run") / MODEL).values())


def test_the_count_goes_on_with_the_run(tokenizer_runs: dict[str, Path], pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    broken_at(monkeypatch, {2})
    recipe = recipe_for("fruit_raster", tokenizer_runs, tmp_path / "run", pictures)
    train(recipe)
    assert read_log(train(recipe.with_train(steps=5, resume=True)))[-1]["skipped"] == 1


def test_old_skips_are_forgotten():
    skips = Skips(1)
    for step in range(1000):
        skips.note(step, step % 300 == 0, str)
    assert skips.total == 4
    with pytest.raises(ArgenzooError, match=r"more than train.max_skipped 1"):
        skips.note(1000, True, str) or skips.note(1001, True, str)


def test_averages_that_are_not_warm_are_said(
    tokenizer_runs: dict[str, Path], pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    recipe = recipe_for("fruit_raster", tokenizer_runs, tmp_path / "run", pictures, ema=0.9999, ema_warmup=False)
    out = train(recipe)
    assert (
        "the averaged weights (train.ema 0.9999, no warm-up) are 100% those of step 1; warm from step 46,051 on" in capsys.readouterr().err
    )
    with safe_open(resolve(out) / EMA, "pt") as file:
        assert float(file.metadata()["ema_share"]) > 0.99
    sample(out, tmp_path / "samples", num=1)
    assert "averaged weights" in capsys.readouterr().err
    train(recipe_for("fruit_raster", tokenizer_runs, tmp_path / "warm", pictures, ema=0.9999))
    sample(tmp_path / "warm", tmp_path / "more", num=1)
    assert "averaged weights" not in capsys.readouterr().err


def test_how_cold_an_average_is():
    config = TrainConfig(steps=1, ema=0.99, ema_warmup=False)
    assert ema_share(config, 1) == 1
    assert ema_share(config, 101) == pytest.approx(0.99**100)
    assert ema_warning(config, 1000) is None
    assert ema_share(TrainConfig(steps=1, ema=0.99), 1) == 0


def test_pictures_and_tokens_that_can_not_be_right():
    good = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8)
    check_pictures(good)
    for wrong, message in (
        (good.float() / 255, "pictures of torch.float32"),
        (torch.full_like(good, 7), "of one flat colour"),
        (good % 2, "scaled to"),
    ):
        with pytest.raises(ArgenzooError, match=message):
            check_pictures(wrong)
    ids, vectors = TokenSpace(((4, 4),), 8, 32), TokenSpace(((4, 4),), 8)
    assert check_tokens(torch.randint(0, 32, (2, 16)), ids) is None
    assert check_tokens(torch.randn(8, 16, 8), vectors) is None
    assert "standard deviation of 3." in (check_tokens(3 * torch.randn(64, 16, 8), vectors) or "")
    for tokens, space, message in (
        (torch.tensor([[0, 32]]), ids, "ids from 0 to 32, its codebook has 32"),
        (torch.full((2, 16), 5), ids, "its codebook has collapsed"),
        (torch.full((2, 16, 8), torch.nan), vectors, "standard deviation of nan"),
        (torch.randn(2, 16, 8) / 0.02, vectors, "not about 1"),
    ):
        with pytest.raises(ArgenzooError, match=message):
            check_tokens(tokens, space)


def test_a_set_of_flat_pictures_is_refused(tokenizer_runs: dict[str, Path], tmp_path: Path):
    for name in ("a", "b"):
        (tmp_path / "set" / name).mkdir(parents=True)
        for i in range(8):
            Image.new("RGB", (20, 20), "black").save(tmp_path / "set" / name / f"{i}.png")
    with pytest.raises(ArgenzooError, match=r"of one flat colour \(0 of 255\)"):
        train(recipe_for("fruit_raster", tokenizer_runs, tmp_path / "run", tmp_path / "set"))
    assert not (tmp_path / "run").exists()


def test_a_label_out_of_range_is_refused(tokenizer_runs: dict[str, Path], pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from argenzoo.data.folder import Folder

    monkeypatch.setattr(Folder, "label", lambda self, index: 2)
    with pytest.raises(ArgenzooError, match="label 2 is out of range: this model has 2 classes, 0 to 1"):
        train(recipe_for("fruit_raster", tokenizer_runs, tmp_path / "run", pictures))


def test_out_of_memory_says_what_fits(tokenizer_runs: dict[str, Path], pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(Trainer, "_step", full)
    with pytest.raises(ArgenzooError, match=r"out of memory: .*train.accumulate=2, 2 images at a time and the same result"):
        train(recipe_for("fruit_mar", tokenizer_runs, tmp_path / "run", pictures))


def test_memory_advice_follows_the_device():
    recipe = tiny("fruit_mar", {"train.batch_size": 64})
    from argenzoo.summary import memory

    need = memory(recipe)
    room = int((need.total(0) + 9 * need.activations) / 0.9)
    assert "train.accumulate=8, 8 images at a time" in advice(recipe, room)
    assert "train.accumulate=4, 8 images at a time" in advice(recipe, room, processes=2)
    assert "Even one image at a time needs more" in advice(recipe, int(need.total(0)))
