"""The command line as a user types it: it works, and bad input is one clear line with a non-zero status and nothing overwritten."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY, TINY_OF, write_pictures
from PIL import Image

from argenzoo.checkpoint import EMA, MODEL, TOKENIZER, resolve
from argenzoo.cli import main
from argenzoo.recipe import list_models


def pairs(name: str, data: Path, out: Path, *more: str) -> list[str]:
    """A tiny training as the command line's key=value pairs."""
    tiny = {**TINY, **TINY_OF["vq"], **(TINY_OF["raster"] if name == "fruit_raster" else {})}
    tiny = {key: value for key, value in tiny.items() if not isinstance(value, dict)}
    data_pairs = ["data.name=folder", f"data.path={data}", "data.held_out=0.2"]
    train = [
        "train.steps=2",
        "train.batch_size=4",
        "train.eval_every=null",
        "train.sample_every=null",
        "train.eval_samples=4",
        f"train.out={out}",
    ]
    head = ["sampling.head.top_k=20", "conditioner.num_classes=2"] if name == "fruit_raster" else []
    return [f"recipe={name}", *(f"{key}={value}" for key, value in tiny.items()), *data_pairs, *train, *head, *more]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> Path:
    """A tokenizer, then a generator, trained by the command."""
    folder = tmp_path_factory.mktemp("cli")
    assert main(["train", *pairs("fruit_vq", pictures, folder / "vq")]) == 0
    assert main(["train", *pairs("fruit_raster", pictures, folder / "raster", f"tokenizer.weights={folder / 'vq'}")]) == 0
    return folder / "raster"


def fails(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that a failing command prints."""
    capsys.readouterr()
    assert main(argv) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[-1].startswith("argenzoo: error: ")
    assert not any("Traceback" in line for line in lines)
    return lines[-1]


def test_sample_writes_pictures_grid_and_json(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "out"
    argv = [
        "sample",
        str(run),
        "--classes",
        "1,green",
        "--num",
        "5",
        "--guidance",
        "2",
        "--seed",
        "3",
        "--out",
        str(out),
        "head.temperature=0.9",
    ]
    assert main(argv) == 0
    assert [path.name for path in sorted(out.glob("0*.png"))] == [
        "000000_class0001.png", "000001_class0000.png", "000002_class0001.png", "000003_class0000.png", "000004_class0001.png",
    ]  # fmt: skip
    assert Image.open(out / "grid.png").size == (2 * 16 + 2, 3 * 16 + 4)
    made = json.loads((out / "samples.json").read_text())
    assert made["labels"] == [1, 0, 1, 0, 1]
    assert made["sampling"]["guidance"] == 2
    assert made["sampling"]["head"]["temperature"] == 0.9
    assert {"weights_sha256", "tokenizer_sha256", "recipe", "argenzoo", "torch", "rounding", "seed"} <= made.keys()
    first = Image.open(out / "000000_class0001.png")
    assert first.text["weights_sha256"] == made["weights_sha256"]
    assert "holds samples already" in fails(argv, capsys)
    assert main([*argv[:4], "--num", "2", *argv[6:], "--overwrite", "--batch", "1"]) == 0
    assert len(list(out.glob("0*.png"))) == 2
    again = Image.open(out / "000000_class0001.png")
    assert np.abs(np.asarray(first, dtype=int) - np.asarray(again, dtype=int)).max() <= 1  # whatever the batch


def test_list_and_show(capsys: pytest.CaptureFixture[str]):
    assert main(["list"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list_models()
    assert main(["show", "recipe=var_d20", "train.lr=1e-4"]) == 0
    shown = capsys.readouterr().out
    assert "lr: 0.0001" in shown
    assert "709,865,491" in shown


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["show", "recipe=var_d21"], "did you mean 'var_d2"),
        (["show", "recipe=var_d20", "head.nme=3"], "unknown key 'head.nme'"),
        (["show", "var_d20"], "'var_d20' is no key=value"),
        (["show", "train.lr=1"], "name a recipe"),
        (["show", "recipe=mar_b", "head.width=[1"], "the value is no YAML"),
        (["show", "recipe=mar_b", "sampling=5"], "expected a section"),
        (["show", "recipe=mar_b", "train.out=2024-13-45"], "the value is no YAML"),
        (["show", "recipe=mar_b", "train.epochs=.inf"], "train.epochs"),
        (["show", "recipe=mar_b", "tokenizer.weights=5"], "expected text, got 5"),
        (["show", "recipe=mar_b", "tokenizer.patch_size=2"], "num_steps 256 is more than the 64 tokens"),
        (["train", "recipe=llamagen_b_256"], "data.path is not set"),
        (["train", "recipe=llamagen_b_256", "data.path=/nowhere"], "data.path /nowhere is no folder"),
        (["sample", "/nowhere"], "'/nowhere' is neither a folder nor a recipe"),
        (["sample", "fruit_var"], "is a recipe without published weights: train it first"),
        (["sample", "var_d20"], "no repository FoundationVision/var on the Hub"),
        (["sample", "someone/their-model"], "no folder someone/their-model here, and no repository"),
    ],
)
def test_bad_input(argv: list[str], words: str, capsys: pytest.CaptureFixture[str]):
    assert words in fails(argv, capsys)


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (["--classes", "7"], "label 7 is out of range: this model has 2 classes, 0 to 1"),
        (["--classes", "-1"], "label -1 is out of range"),
        (["--classes", "²"], "unknown class '²'"),
        (["--classes", "gren"], "unknown class 'gren'; did you mean 'green'"),
        (["--num", "0"], "--num must be at least 1"),
        (["--guidance", "-1"], "can't be negative"),
        (["head.top_k=999"], "top_k 999 is more than the vocabulary's 32"),
        (["--device", "cuda:99"], "--device cuda:99"),
        (["head.topk=3"], "did you mean 'top_k'"),
        (["hed.top_k=3"], "unknown sampling key 'hed.top_k'; did you mean 'head'"),
        (["order.num_steps=3"], "unknown key 'sampling.order.num_steps'"),
    ],
)
def test_bad_sampling(extra: list[str], words: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert words in fails(["sample", str(run), "--out", str(tmp_path / "out"), *extra], capsys)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("victim", [EMA, TOKENIZER])
def test_truncated_checkpoint(victim: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    shutil.copytree(resolve(run), tmp_path / "copy")
    target = tmp_path / "copy" / victim
    target.write_bytes(target.read_bytes()[:-100])
    line = fails(["sample", str(tmp_path / "copy"), "--out", str(tmp_path / "out")], capsys)
    assert "truncated" in line
    assert str(target) in line


def test_checkpoint_of_another_recipe(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    shutil.copytree(resolve(run), tmp_path / "copy")
    recipe = tmp_path / "copy" / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("dim: 32\n", "dim: 64\n", 1))
    line = fails(["sample", str(tmp_path / "copy"), "--out", str(tmp_path / "out")], capsys)
    assert "does not fit this recipe" in line
    assert "of another shape" in line


def test_checkpoint_without_weights(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    shutil.copytree(resolve(run), tmp_path / "copy")
    for name in (EMA, MODEL):
        (tmp_path / "copy" / name).unlink()
    assert "no weights file" in fails(["sample", str(tmp_path / "copy"), "--out", str(tmp_path / "out")], capsys)


def test_bad_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    data = write_pictures(tmp_path / "data", per_class=8)
    argv = ["train", *pairs("fruit_vq", data, tmp_path / "out")]
    whole = (data / "red" / "000.png").read_bytes()
    for bad in (whole[:200], b"", b"not a picture"):
        for path in (data / "red").iterdir():
            path.write_bytes(bad)
        line = fails(argv, capsys)
        assert "is empty, truncated or no picture" in line
        assert str(data / "red") in line
    for path in (data / "red").iterdir():
        path.unlink()
    assert "class folder 'red' holds no pictures" in fails(argv, capsys)
    (tmp_path / "nothing").mkdir()
    assert "has no sub-folders" in fails(["train", *pairs("fruit_vq", tmp_path / "nothing", tmp_path / "out")], capsys)


def test_training_again_overwrites_nothing(run: Path, pictures: Path, capsys: pytest.CaptureFixture[str]):
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    argv = ["train", *pairs("fruit_raster", pictures, run, f"tokenizer.weights={run.parent / 'vq'}")]
    assert "holds checkpoints already" in fails(argv, capsys)
    assert before == {path: path.stat().st_mtime_ns for path in run.rglob("*")}


def test_accelerate_launch(pictures: Path, tmp_path: Path):
    launch = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--cpu",
        "--num_processes",
        "1",
        "--mixed_precision",
        "no",
        "-m",
        "argenzoo",
    ]
    done = subprocess.run([*launch, "train", *pairs("fruit_vq", pictures, tmp_path / "vq")], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    assert resolve(tmp_path / "vq").name == "step_0000002"


def test_corrupt_picture_in_a_worker_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    data = write_pictures(tmp_path / "data", per_class=8)
    for path in data.rglob("*.png"):
        path.write_bytes(b"")
    line = fails(["train", *pairs("fruit_vq", data, tmp_path / "out", "train.workers=1")], capsys)
    assert "is empty, truncated or no picture" in line
    assert "Original" not in line


def test_files_in_the_way(run: Path, tmp_path: Path, pictures: Path, capsys: pytest.CaptureFixture[str]):
    file = tmp_path / "file"
    file.write_text("mine")
    assert "is a file: name a folder" in fails(["sample", str(run), "--out", str(file)], capsys)
    assert "is a file: name a folder" in fails(["train", *pairs("fruit_vq", pictures, file)], capsys)
    assert "file" in fails(["sample", str(run), "--out", str(file / "sub")], capsys)
    assert "file" in fails(["train", *pairs("fruit_vq", pictures, file / "sub")], capsys)
    assert file.read_text() == "mine"
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "000000_class0001.png").write_text("an interrupted sampling")
    assert "holds samples already" in fails(["sample", str(run), "--out", str(tmp_path / "half")], capsys)


def test_averaged_weights_alone_are_enough(run: Path, tmp_path: Path):
    shutil.copytree(resolve(run), tmp_path / "copy")
    (tmp_path / "copy" / MODEL).unlink()
    assert main(["sample", str(tmp_path / "copy"), "--num", "1", "--out", str(tmp_path / "out")]) == 0


def test_unknown_arguments_are_usage_errors(run: Path, capsys: pytest.CaptureFixture[str]):
    for argv in (["sample", str(run), "--nmu", "3"], ["list", "x=1"], ["sample", str(run), "--num", "3", "stray"]):
        with pytest.raises(SystemExit) as caught:
            main(argv)
        assert caught.value.code == 2
        assert "unrecognized arguments" in capsys.readouterr().err
