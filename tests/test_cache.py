"""Caches: what is read back is what the tokenizer gives; they resume, notice damage, and do not grow a training's start."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import CELLS, losses, recipe_for, tiny, write_pictures

import argenzoo.caching
from argenzoo.build import build_tokenizer
from argenzoo.caching import cache
from argenzoo.data.cache import MANIFEST, Cached, Manifest, read_manifest, shard_path
from argenzoo.data.images import split, to_unit
from argenzoo.data.shards import open_shard, write_shard
from argenzoo.data.stream import Stream, batches
from argenzoo.data.views import Views
from argenzoo.errors import ArgenzooError
from argenzoo.registry import datasets
from argenzoo.training.trainer import train


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.safetensors"))}


@pytest.mark.parametrize("name", ["fruit_raster", "fruit_var", "fruit_mar", "fruit_var_diffusion"])
def test_it_holds_what_the_tokenizer_gives(name: str, tokenizer_runs: dict[str, Path], pictures: Path, tmp_path: Path):
    recipe = recipe_for(name, tokenizer_runs, tmp_path / "run", pictures).with_part("data", crop="ten", resize=(1.0, 1.25))
    manifest = cache(recipe, tmp_path / "cache", per_shard=7)
    assert (manifest.parts["train"].count, manifest.parts["train"].views) == (20, 20)  # 2 sizes x 5 corners x 2
    assert (manifest.parts["held_out"].count, manifest.parts["held_out"].views) == (4, 1)
    tokenizer = build_tokenizer(recipe)
    images = datasets.get("folder")(recipe.data.config)
    for part, indices, augment in zip(("train", "held_out"), split(images, recipe.data.config), (True, False), strict=True):
        views = Views(images, recipe.data.config, tokenizer.image_size, indices, seed=3, augment=augment)
        cached = Cached(tmp_path / "cache", manifest, part, seed=3, augment=augment)
        for key in [(0, 0), (3, 1), (len(views) - 1, 2), (1, 30)]:
            picture, label, _ = views[key]
            stored, same, _ = cached[key]
            torch.testing.assert_close(stored, tokenizer.encode(to_unit(picture[None]))[0], atol=1e-4, rtol=1e-4)
            assert (label, label) == (same, cached.label(key[0]))


@pytest.mark.parametrize("name", CELLS)
def test_training_reads_it_without_the_pictures(name: str, tokenizer_runs: dict[str, Path], tmp_path: Path):
    """The losses are those of training on the pictures, which may be gone by then."""
    data = write_pictures(tmp_path / "set")
    recipe = recipe_for(name, tokenizer_runs, tmp_path / "images", data, steps=6)
    cache(recipe, tmp_path / "cache")
    from_images = train(recipe)
    shutil.rmtree(data)
    cached = recipe_for(name, tokenizer_runs, tmp_path / "cached", data, steps=6).with_part("data", cache=str(tmp_path / "cache"))
    assert losses(train(cached)) == pytest.approx(losses(from_images), abs=2e-5)
    assert train(cached.with_train(resume=True)) == tmp_path / "cached"  # finished already


def test_posteriors_are_sampled_anew(tokenizer_runs: dict[str, Path], pictures: Path, tmp_path: Path):
    recipe = recipe_for("fruit_mar", tokenizer_runs, tmp_path / "run", pictures).with_part("data", flip=False)
    manifest = cache(recipe, tmp_path / "cache", dtype="float16")
    assert (manifest.dtype, manifest.shape) == ("float16", (16, 4, 4))
    stored = Cached(tmp_path / "cache", manifest, "train")[0, 5].stored
    assert stored.dtype == torch.float32
    tokenizer, rng = build_tokenizer(recipe), argenzoo.rng.Rng
    draws = [tokenizer.tokens(stored[None], rng(0, [draw])) for draw in (0, 1)]
    assert not torch.equal(*draws)
    with pytest.raises(ArgenzooError, match="--dtype has no effect: this tokenizer's tokens are ids"):
        cache(recipe_for("fruit_raster", tokenizer_runs, tmp_path / "run", pictures), tmp_path / "ids", dtype="float16")


def test_random_cuts_are_kept_in_copies(tokenizer_runs: dict[str, Path], pictures: Path, tmp_path: Path):
    recipe = recipe_for("fruit_mar", tokenizer_runs, tmp_path / "run", pictures).with_part("data", crop="random", resize=1.25, flip=False)
    with pytest.raises(ArgenzooError, match=r"say how many cuts of each picture to keep, e.g. --copies 4"):
        cache(recipe, tmp_path / "cache")
    assert cache(recipe, tmp_path / "cache", copies=3).parts["train"].views == 3
    shard = open_shard(shard_path(tmp_path / "cache", "train", 0))
    assert len({view.tobytes() for sample in shard.tokens for view in sample}) > len(shard.tokens)
    with pytest.raises(ArgenzooError, match=r"--copies has no effect with data.crop=center"):
        cache(recipe.with_part("data", crop="center"), tmp_path / "other", copies=3)


def test_it_goes_on_after_a_kill(tokenizer_runs: dict[str, Path], pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    recipe = recipe_for("fruit_mar", tokenizer_runs, tmp_path / "run", pictures)
    cache(recipe, tmp_path / "whole", per_shard=4)
    written = []

    def killed(path: Path, *arguments) -> None:
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(path)
        write_shard(path, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(argenzoo.caching, "write_shard", killed)
        with pytest.raises(KeyboardInterrupt):
            cache(recipe.with_part("data", corrupt="skip"), tmp_path / "half", per_shard=4)  # changes no token
    with pytest.raises(ArgenzooError, match="is not finished: run the same 'argenzoo cache' again"):
        read_manifest(tmp_path / "half")
    before = {path: path.stat().st_mtime_ns for path in written}
    written[1].write_bytes(written[1].read_bytes()[:-8])  # damaged since
    cache(recipe, tmp_path / "half", per_shard=4)
    assert files(tmp_path / "half") == files(tmp_path / "whole")
    assert [path.stat().st_mtime_ns == before[path] for path in written] == [True, False]


def test_damage_is_found_and_mended(tokenizer_runs: dict[str, Path], pictures: Path, tmp_path: Path):
    recipe = recipe_for("fruit_raster", tokenizer_runs, tmp_path / "run", pictures)
    manifest = cache(recipe, tmp_path / "cache", per_shard=8)
    good = files(tmp_path / "cache")
    path = shard_path(tmp_path / "cache", "train", 1)
    blob = bytearray(path.read_bytes())
    blob[-100] ^= 1
    path.write_bytes(blob)
    cache(recipe, tmp_path / "cache", per_shard=8)
    assert files(tmp_path / "cache") == good
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ArgenzooError, match=r"train_000001.safetensors is missing, truncated or no shard"):
        Cached(tmp_path / "cache", manifest, "train")[8, 0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data.flip": False}, "was made with data.flip True, the recipe says False"),
        ({"data.resize": 1.5}, "was made with data.resize 1.0, the recipe says 1.5"),
        ({"tokenizer.quantize": False, "head": {"name": "diffusion"}, "sampling.head": {}}, "was made with tokenizer.quantize True"),
        ({"data.cache": "nowhere"}, "nowhere is no cache: make it with 'argenzoo cache'"),
    ],
)
def test_another_recipes_cache_is_refused(
    changes: dict, message: str, tokenizer_runs: dict[str, Path], caches: dict[str, Path], pictures: Path, tmp_path: Path
):
    overrides = {"data.cache": str(caches["vq"]), **changes}
    with pytest.raises(ArgenzooError, match=message):
        train(recipe_for("fruit_raster", tokenizer_runs, tmp_path / "run", pictures, overrides=overrides))


def test_another_tokenizers_cache_is_refused(tokenizer_runs: dict[str, Path], caches: dict[str, Path], pictures: Path, tmp_path: Path):
    other = train(tiny("fruit_vq", conftest_training(tmp_path / "other", pictures)))
    overrides = {"data.cache": str(caches["vq"]), "tokenizer.weights": str(other)}
    with pytest.raises(ArgenzooError, match="was made with another tokenizer: its weights' hash"):
        train(recipe_for("fruit_raster", tokenizer_runs, tmp_path / "run", pictures, overrides=overrides))
    recipe = recipe_for("fruit_raster", tokenizer_runs, tmp_path / "run", pictures, overrides={"tokenizer.weights": str(other)})
    copy = tmp_path / "copy"
    shutil.copytree(caches["vq"], copy)
    with pytest.raises(ArgenzooError, match="was made with other data, settings or weights: choose another --out"):
        cache(recipe, copy)
    with pytest.raises(ArgenzooError, match="a tokenizer trains on pictures"):
        train(tiny("fruit_vq", {**conftest_training(tmp_path / "vq", pictures), "data.cache": str(copy)}))


def conftest_training(out: Path, data: Path) -> dict:
    from conftest import tiny_training

    return tiny_training(out, data, seed=1)


def test_an_id_outside_the_codebook_is_refused(tokenizer_runs: dict[str, Path], caches: dict[str, Path], pictures: Path, tmp_path: Path):
    copy = tmp_path / "copy"
    shutil.copytree(caches["vq"], copy)
    values = json.loads((copy / MANIFEST).read_text())
    (copy / MANIFEST).write_text(json.dumps({**values, "largest": 40.0}))
    with pytest.raises(ArgenzooError, match="holds the id 40, the codebook has 32"):
        train(recipe_for("fruit_raster", tokenizer_runs, tmp_path / "run", pictures, overrides={"data.cache": str(copy)}))


def test_corrupt_pictures_are_counted(tokenizer_runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    data = write_pictures(tmp_path / "set")
    for i in (3, 4):
        (data / "green" / f"{i:03d}.png").write_bytes(b"")
    recipe = recipe_for("fruit_raster", tokenizer_runs, tmp_path / "run", data).with_part("data", corrupt="skip", held_out=0.0)
    assert cache(recipe, tmp_path / "cache").parts["train"].corrupt == 2
    entries = [json.loads(line) for line in (train(recipe.with_train(steps=12)) / "log.jsonl").read_text().splitlines()]
    assert entries[-1]["corrupt"] == 2
    with pytest.raises(ArgenzooError, match=r"^[^\n]*data.corrupt=skip steps over such pictures$"):
        cache(recipe.with_part("data", corrupt="fail").with_train(workers=1), tmp_path / "strict")
    train(recipe.with_train(out=str(tmp_path / "cached")).with_part("data", cache=str(tmp_path / "cache")))
    assert "2 corrupt pictures were stepped over when the cache was made" in capsys.readouterr().err


def test_two_processes_write_what_one_writes(tokenizer_runs: dict[str, Path], pictures: Path, tmp_path: Path):
    recipe = recipe_for("fruit_raster", tokenizer_runs, tmp_path / "run", pictures)
    cache(recipe, tmp_path / "one", per_shard=3)
    (tmp_path / "recipe.yaml").write_text(recipe.yaml())
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "argenzoo", "cache"]
    arguments = [f"recipe={tmp_path / 'recipe.yaml'}", "--out", str(tmp_path / "two"), "--shard", "3"]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*launch, *arguments], capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    assert files(tmp_path / "two") == files(tmp_path / "one")
    assert done.stdout.count("train on it with") == 1
    assert read_manifest(tmp_path / "two").about["processes"] == "2"


def synthetic(folder: Path, count: int, per_shard: int = 4096) -> Manifest:
    """A cache of ``count`` samples whose files are holes: it takes no room on the disk."""
    folder.mkdir()
    values = {
        "tokenizer": {}, "tokenizer_sha256": "", "data": {}, "image_size": 32, "classes": ["a"], "dtype": "uint16", "shape": [64],
        "largest": 0, "per_shard": per_shard, "about": {}, "parts": {"train": {"count": count, "views": 2},
        "held_out": {"count": 0, "views": 1}},
    }  # fmt: skip
    for number in range(-(-count // per_shard)):
        size = min(per_shard, count - number * per_shard)
        header = {
            "__metadata__": {"argenzoo": "{}"},
            "tokens": {"dtype": "U16", "shape": [size, 2, 64], "data_offsets": [0, size * 256]},
            "labels": {"dtype": "I32", "shape": [size], "data_offsets": [size * 256, size * 260]},
        }
        text = json.dumps(header).encode()
        path = shard_path(folder, "train", number)
        path.write_bytes(struct.pack("<Q", len(text)) + text)
        os.truncate(path, 8 + len(text) + size * 260)
    return Manifest.parse(values, "synthetic")


def test_a_million_samples_start_as_fast_as_a_thousand(tmp_path: Path):
    """What is allocated and opened before the second batch does not depend on how many there are (times: benchmarks/data.py)."""
    used = {}
    for count in (1_000, 1_000_000):
        manifest = synthetic(tmp_path / str(count), count)
        tracemalloc.start()
        cached = Cached(tmp_path / str(count), manifest, "train")
        stream = batches(cached, Stream(len(cached), 64, 0, 10**6, 10**6 + 2), 0)
        assert next(stream).stored.shape == (64, 64)
        used[count] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert len(cached._shards) <= 64
    assert used[1_000_000] < used[1_000] + 400_000  # 64 mapped shards at most


def test_shards_are_plain_safetensors(caches: dict[str, Path]):
    from safetensors.numpy import load_file

    path = shard_path(caches["vq"], "train", 0)
    arrays, shard = load_file(path), open_shard(path)
    assert np.array_equal(arrays["tokens"], shard.tokens)
    assert np.array_equal(arrays["labels"], shard.labels)
    assert shard.about["sha256"] == shard.checksum()
