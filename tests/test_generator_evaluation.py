"""Measuring generators: figures against their definitions, samples that go on, references of every kind, one protocol."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import tiny_model
from PIL import Image
from safetensors.torch import load_file, save_file
from test_processes import launch
from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_kid import kernel_mmd

from argenzoo.errors import ArgenzooError
from argenzoo.evaluation import metrics, samples
from argenzoo.evaluation.command import evaluate, table
from argenzoo.evaluation.gaussian import Gaussian, Moments
from argenzoo.evaluation.inception import load_inception
from argenzoo.evaluation.protocol import PROTOCOLS, balanced, protocol, resized, truncated
from argenzoo.evaluation.reference import Reference, of_file
from argenzoo.evaluation.settings import Settings
from argenzoo.evaluation.stats import stats
from argenzoo.grids import to_uint8
from argenzoo.model import ARModel

NUM, CHUNK, MOST = 12, 5, 10_000
CELLS = ["fruit_raster", "fruit_var", "fruit_mar", "fruit_var_diffusion"]


@pytest.fixture
def settings(inception_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setattr(samples, "CHUNK", CHUNK)
    return Settings(num=NUM, out=tmp_path / "out", inception=str(inception_weights), cache=tmp_path / "cache", batch=4, reference_num=8)


@pytest.fixture
def data(pictures: Path) -> dict[str, Any]:
    return {"data.name": "folder", "data.path": str(pictures)}


def figures_of(made: dict[str, Any]) -> dict[str, float]:
    plain = {key: value for key, value in made["figures"].items() if value is not None}
    low, high = plain.pop("kid_interval")
    return {**plain, "low": low, "high": high}


@pytest.mark.parametrize("name", CELLS)
def test_one_command_measures_every_paradigm(name: str, settings: Settings, data: dict[str, Any], tmp_path: Path):
    tiny_model(name).save_pretrained(tmp_path / "model")
    made = evaluate(tmp_path / "model", data, settings)
    out = Path(settings.out)
    assert json.loads((out / "evaluation.json").read_text()) == json.loads(json.dumps(made))
    figures = made["figures"]
    assert figures["fid"] > 0
    assert figures["sfid"] > 0
    assert figures["kid_interval"][0] <= figures["kid"] <= figures["kid_interval"][1]
    assert 0 <= figures["precision"] <= 1
    assert figures["inception_score"] is None
    assert "no final layer" in made["reasons"]["inception_score"]
    assert (made["kind"], made["num"], made["protocol"]["rounding"]) == ("gFID", NUM, "round(255 x)")
    assert made["protocol"]["reference"]["count"] == 8
    assert made["protocol"]["reference"]["data"]["part"] == "all"
    assert all(len(made[key]) == 64 for key in ("weights_sha256", "tokenizer_sha256", "samples"))
    assert made["seconds_an_image"] > 0
    assert made["hardware"]
    assert f"{NUM} samples" in table(made)
    with Image.open(out / "grid.png") as picture:
        assert picture.size == (2 * 18 - 2, 6 * 18 - 2)  # two classes, six rows of 16 px
        assert picture.text["weights_sha256"] == made["weights_sha256"]


def test_the_same_command_gives_the_same_numbers(generator_run: Path, settings: Settings, data: dict[str, Any], tmp_path: Path):
    first = evaluate(generator_run, data, replace(settings, keep=True))
    again = evaluate(generator_run, data, replace(settings, out=tmp_path / "again", batch=NUM, keep=True))
    assert first["samples"] == again["samples"]
    assert figures_of(first) == pytest.approx(figures_of(again), rel=1e-5, abs=1e-6)
    kept = sorted((tmp_path / "again" / "pictures").glob("*.png"))
    assert [path.stem for path in kept] == [f"{i:07d}_class{i % 2:04d}" for i in range(NUM)]
    for path in kept:
        assert np.array_equal(np.asarray(Image.open(path)), np.asarray(Image.open(Path(settings.out) / "pictures" / path.name)))
    other = evaluate(generator_run, data, replace(settings, out=tmp_path / "other", seed=1))
    assert other["samples"] != first["samples"]


@pytest.mark.usefixtures("quick_distance")
def test_sampling_goes_on_after_a_kill_and_for_more(
    generator_run: Path, settings: Settings, data: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    whole = evaluate(generator_run, data, replace(settings, out=tmp_path / "whole"))
    sampled: list[int] = []
    generate = ARModel.generate

    def killed(self: ARModel, labels: list[int], seed: int, indices: list[int]) -> torch.Tensor:
        if len(sampled) >= CHUNK + 2:
            raise KeyboardInterrupt
        sampled.extend(indices)
        return generate(self, labels, seed=seed, indices=indices)

    monkeypatch.setattr(ARModel, "generate", killed)
    with pytest.raises(KeyboardInterrupt):
        evaluate(generator_run, data, settings)

    def counted(self: ARModel, labels: list[int], seed: int, indices: list[int]) -> torch.Tensor:
        sampled.extend(indices)
        return generate(self, labels, seed=seed, indices=indices)

    monkeypatch.setattr(ARModel, "generate", counted)
    sampled.clear()
    resumed = evaluate(generator_run, data, settings)
    assert sampled == list(range(CHUNK, NUM))  # of what was killed, a chunk was there
    assert resumed["samples"] == whole["samples"]
    assert figures_of(resumed) == pytest.approx(figures_of(whole), rel=1e-6)  # another batch, another rounding
    sampled.clear()
    more = evaluate(generator_run, data, replace(settings, num=17))
    assert sampled == list(range(10, 17))  # the last chunk was not whole
    assert more["num"] == 17
    (Path(settings.out) / "samples" / "0000005.safetensors").write_bytes(b"damaged")
    sampled.clear()
    assert figures_of(evaluate(generator_run, data, replace(settings, num=17))) == pytest.approx(figures_of(more), rel=1e-6)
    assert sampled == list(range(5, 10))


@pytest.mark.usefixtures("quick_distance")
def test_samples_of_something_else_are_not_mixed(generator_run: Path, settings: Settings, data: dict[str, Any]):
    evaluate(generator_run, data, settings)
    with pytest.raises(ArgenzooError, match=r"holds other samples or results .seed: 0, now 1.: choose another --out, or --overwrite"):
        evaluate(generator_run, data, replace(settings, seed=1))
    with pytest.raises(ArgenzooError, match=r"holds other samples or results .sampling"):
        evaluate(generator_run, {**data, "guidance": 3.0}, settings)
    made = evaluate(generator_run, {**data, "guidance": 3.0}, replace(settings, overwrite=True))
    assert made["sampling"]["guidance"] == 3.0


@pytest.mark.usefixtures("quick_distance")
def test_results_of_something_else_are_not_lost(
    generator_run: Path, tokenizer_runs: dict[str, Path], settings: Settings, data: dict[str, Any], pictures: Path
):
    evaluate(generator_run, data, settings)
    with pytest.raises(ArgenzooError, match=r"holds other samples or results .reference: "):
        evaluate(generator_run, data, replace(settings, reference_num=9))
    with pytest.raises(ArgenzooError, match=r"holds other samples or results .num: 12, now 5"):
        evaluate(generator_run, data, replace(settings, num=5))
    with pytest.raises(ArgenzooError, match=r"holds evaluation.json already"):
        evaluate(tokenizer_runs["vq"], data, Settings(num=4, out=settings.out, inception=settings.inception, cache=settings.cache))
    (Path(settings.out) / "plan.json").write_text("{")
    with pytest.raises(ArgenzooError, match=r"plan.json is damaged"):
        evaluate(generator_run, data, settings)


@pytest.mark.usefixtures("quick_distance")
def test_kept_pictures_are_of_this_plan(generator_run: Path, settings: Settings, data: dict[str, Any]):
    """Not of one before, whose pictures lay in the same folder, nor half of one that was killed."""
    folder = Path(settings.out) / "pictures"
    evaluate(generator_run, data, replace(settings, keep=True))
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    evaluate(generator_run, data, replace(settings, seed=1, overwrite=True))
    assert not list(folder.iterdir())
    evaluate(generator_run, data, replace(settings, seed=1, keep=True))
    assert sorted(path.name for path in folder.iterdir()) == sorted(before)
    assert all(path.read_bytes() != before[path.name] for path in folder.iterdir())


@pytest.mark.usefixtures("quick_distance")
def test_a_final_layer_that_comes_and_goes(
    generator_run: Path, settings: Settings, data: dict[str, Any], inception_weights: Path, tmp_path: Path
):
    """The Inception Score where there is one; samples of an Inception without it are sampled again, and the other way round they do."""
    generator = torch.Generator().manual_seed(0)
    layer = {"fc.weight": torch.randn(1008, 2048, generator=generator), "fc.bias": torch.randn(1008, generator=generator)}
    save_file({**load_file(inception_weights), **layer}, tmp_path / "whole.safetensors")
    evaluate(generator_run, data, settings)
    whole = evaluate(generator_run, data, replace(settings, inception=str(tmp_path / "whole.safetensors")))
    assert whole["figures"]["inception_score"] >= 1
    assert whole["figures"]["inception_score_std"] >= 0
    again = evaluate(generator_run, data, settings)
    assert again["figures"]["inception_score"] is None


def test_processes_share_the_work(generator_run: Path, settings: Settings, data: dict[str, Any], tmp_path: Path, pictures: Path):
    """Two processes, batches of other sizes, the figures of one."""
    one = evaluate(generator_run, data, replace(settings, num=52))
    words = ["evaluate", str(generator_run), f"data.path={pictures}", "data.name=folder", "--num", "52", "--reference-num", "8"]
    words += ["--out", str(tmp_path / "two"), "--cache", str(settings.cache), "--inception", str(settings.inception), "--batch", "7"]
    (tmp_path / "words.json").write_text(json.dumps(words))
    launch(2, [tmp_path / "words.json"], "argenzoo_main.py")
    two = json.loads((tmp_path / "two" / "evaluation.json").read_text())
    assert figures_of(two) == pytest.approx(figures_of(one), rel=1e-4, abs=1e-5)
    assert sorted(path.name for path in (tmp_path / "two" / "samples").glob("*")) == ["0000000.safetensors", "0000050.safetensors"]


def test_thinning_knows_no_period(monkeypatch: pytest.MonkeyPatch):
    """Labels come in turn: every fifth of ten classes would be two of them."""
    monkeypatch.setattr(metrics, "MOST", 400)
    kept = metrics.thinned(torch.arange(2000)[:, None])[:, 0]
    assert len(kept) == len(set(kept.tolist())) == 400
    assert torch.equal(kept, metrics.thinned(torch.arange(2000)[:, None])[:, 0])
    assert int(torch.bincount(kept % 10).min()) > 25
    assert int(torch.bincount(kept // 200).min()) > 25  # nor a beginning
    assert torch.equal(metrics.thinned(rows_of(0, 400)), rows_of(0, 400))


def rows_of(seed: int, count: int, shift: float = 0.0, width: int = 16) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed)) + shift


def against(rows: torch.Tensor | None, pool: torch.Tensor) -> Reference:
    moments = Moments()
    moments.add(pool)
    return Reference(moments.gaussian(), None, None if rows is None else (lambda most: rows[:most]), {})


def test_figures_are_torch_fidelitys():
    ours, theirs = rows_of(0, 400), rows_of(1, 300, 0.3)
    figures, reasons = metrics.measured(lambda name: [ours] if name == "pool" else [], against(theirs, theirs))
    whole = fid_statistics_to_metric(*(fid_features_to_statistics(rows) for rows in (ours, theirs)), verbose=False)
    assert figures["fid"] == pytest.approx(whole[KEY_METRIC_FID], rel=1e-6)
    assert figures["kid_interval"][0] < figures["kid"] < figures["kid_interval"][1]
    assert set(reasons) == {"sfid", "inception_score"}
    figures, reasons = metrics.measured(lambda name: [ours] if name in ("pool", "logits") else [], against(None, theirs))
    assert figures["inception_score"] > 1
    assert "holds no pictures" in reasons["kid"] == reasons["kid_interval"] == reasons["precision"] == reasons["recall"]
    same, _ = metrics.measured(lambda name: [ours] if name == "pool" else [], against(ours, ours))
    assert (same["precision"], same["recall"]) == (1.0, 1.0)
    assert same["fid"] == pytest.approx(0, abs=1e-6)


def test_kid_interval_covers_the_truth():
    """The exact squared MMD of two Gaussians under the cubic kernel lies in about 95 of 100 intervals."""
    width, shift = 8, 0.5
    big_x, big_y = rows_of(100, 20_000, width=width).numpy(), rows_of(101, 20_000, shift, width).numpy()
    settings = {"kid_kernel": "poly", "kid_kernel_poly_degree": 3, "kid_kernel_poly_gamma": None, "kid_kernel_poly_coef0": 1}
    parts = [kernel_mmd(x, y, **settings) for x, y in zip(np.split(big_x, 10), np.split(big_y, 10), strict=True)]
    truth, covered = float(np.mean(parts)), 0
    for seed in range(60):
        made = metrics.kid(rows_of(2 * seed, 120, width=width), rows_of(2 * seed + 1, 90, shift, width))
        low, high = made["kid_interval"]
        covered += low < truth < high
    assert 51 <= covered <= 60


def test_spatial_features_are_the_seven_channels_of_mixed_6(inception_weights: Path):
    inception = load_inception(inception_weights)
    pictures = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    made = inception.features(pictures)
    assert {name: tuple(rows.shape) for name, rows in made.items()} == {"pool": (2, 2048), "spatial": (2, 17 * 17 * 7)}
    assert torch.equal(made["pool"], inception(pictures)[0])
    seen: list[torch.Tensor] = []
    for block in (inception.Mixed_6c, inception.Mixed_6d, inception.Mixed_6e):
        block.branch1x1.register_forward_hook(lambda module, inputs, out: seen.append(out))
    with torch.no_grad():
        inception(pictures)
    spatial = made["spatial"].view(2, 17, 17, 7)
    for row, column, channel in ((0, 0, 0), (3, 5, 6), (16, 16, 2)):  # after the ReLU, in ADM's order
        assert torch.equal(spatial[:, row, column, channel], seen[1][:, channel, row, column])
    assert not torch.equal(seen[1], seen[0])


def test_labels_and_bytes_of_the_papers():
    assert [balanced(i, 10, 0) for i in range(20)] == [*range(10)] * 2
    drawn = np.array([PROTOCOLS["llamagen"].labels(i, 10, 0) for i in range(2000)])
    assert np.bincount(drawn, minlength=10).min() > 140
    assert drawn[7] == PROTOCOLS["llamagen"].labels(7, 10, 0)
    assert drawn.tolist() != [PROTOCOLS["llamagen"].labels(i, 10, 1) for i in range(2000)]
    pictures = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    llamagen = (127.5 * (2 * pictures.double() - 1) + 128).clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()
    np.testing.assert_array_equal(PROTOCOLS["llamagen"].bytes(pictures), llamagen)
    np.testing.assert_array_equal(PROTOCOLS["var"].bytes(pictures), np.floor(pictures.numpy() * 255).transpose(0, 2, 3, 1))
    assert (to_uint8(pictures).astype(int) - truncated(pictures)).mean() == pytest.approx(0.5, abs=0.02)
    assert set(PROTOCOLS["var"].facts()) == {"labels", "rounding"}
    assert resized(pictures, 16).shape[-1] == 16
    with pytest.raises(ArgenzooError, match="did you mean 'llamagen'"):
        protocol("llamegen")


def npz(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


def test_references_of_every_kind(settings: Settings, data: dict[str, Any], tmp_path: Path, inception_weights: Path):
    inception, cache = load_inception(inception_weights), Path(settings.cache)
    pictures = np.random.default_rng(0).integers(0, 256, (7, 16, 16, 3), dtype=np.uint8)
    moments = Gaussian(np.zeros(2048), np.eye(2048))
    adm = npz(tmp_path / "adm.npz", arr_0=pictures, mu=moments.mu, sigma=moments.sigma, mu_s=np.zeros(2023), sigma_s=np.eye(2023))
    found = of_file(adm, 16, inception, cache)
    assert found.facts["statistics"] == "of the file"
    assert found.facts["count"] == 7
    assert found.rows is not None
    assert found.rows(MOST).shape == (7, 2048)
    np.testing.assert_array_equal(found.pool.mu, moments.mu)
    assert found.spatial is not None
    own = of_file(npz(tmp_path / "batch.npz", arr_0=pictures), 16, inception, cache)
    assert own.facts["statistics"] == "of its pictures"
    np.testing.assert_allclose(own.pool.mu, found.rows(MOST).double().mean(0))
    with pytest.warns(UserWarning, match=r"is not ADM's file of that name \(SHA-256 .*theirs b32732719497e426"):
        of_file(npz(tmp_path / "VIRTUAL_imagenet256_labeled.npz", mu=moments.mu, sigma=moments.sigma), 256, inception, cache)
    bare = of_file(npz(tmp_path / "fid.npz", mu=moments.mu, sigma=moments.sigma), 16, inception, cache)
    assert (bare.rows, bare.spatial) == (None, None)
    kept, path = stats(data, 16, replace(settings, out=tmp_path / "s.safetensors"))
    ours = of_file(path, 16, inception, cache)
    assert ours.rows is not None
    assert len(ours.rows(MOST)) == kept.count
    assert of_file(path, 16, inception, tmp_path / "empty").rows is None
    for file in (adm, path):
        with pytest.raises(ArgenzooError, match="of pictures of 16 px, the samples have 32: --resize 16"):
            of_file(file, 32, inception, cache)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.zeros(3)}, "has neither pictures .arr_0. nor statistics"),
        ({"arr_0": np.zeros((2, 4, 4, 3))}, "expected uint8 pictures"),
        ({"mu": np.array([{}], dtype=object), "sigma": np.eye(2)}, "can't be read as .npz"),
        ({"mu": np.zeros(768), "sigma": np.eye(768)}, "768"),
        ({"mu": np.zeros(2048), "sigma": np.eye(768)}, "mu .D,. and sigma .D, D., not .2048,. and .768, 768."),
        ({"mu": np.full(2048, np.nan), "sigma": np.eye(2048)}, "not finite"),
        ({"mu": np.zeros(2048, np.int64), "sigma": np.eye(2048)}, "mu is int64"),
        ({"mu": np.zeros(9000), "sigma": np.eye(2)}, "mu is float64 .9000,."),
        ({"arr_0": np.zeros((1, 1, 4096, 3), np.uint8)}, "expected uint8 pictures"),
    ],
)
def test_wrong_references_are_told(arrays: dict[str, Any], message: str, inception_weights: Path, tmp_path: Path):
    inception = load_inception(inception_weights)
    with pytest.raises(ArgenzooError, match=message):
        of_file(npz(tmp_path / "x.npz", **arrays), 16, inception, tmp_path).pool.distance(Gaussian(np.zeros(2048), np.eye(2048)))


def test_statistics_of_another_inception_are_refused(settings: Settings, data: dict[str, Any], tmp_path: Path, inception_weights: Path):
    _, path = stats(data, 16, replace(settings, out=tmp_path / "s.safetensors"))
    inception = load_inception(inception_weights)
    inception.sha256 = "0" * 64
    with pytest.raises(ArgenzooError, match="another Inception"):
        of_file(path, 16, inception, tmp_path)
    (tmp_path / "bad.npz").write_bytes(b"no archive")
    with pytest.raises(ArgenzooError, match=r"can't be read as .npz"):
        of_file(tmp_path / "bad.npz", 16, inception, tmp_path)


def test_resized_samples_meet_a_resized_reference(generator_run: Path, settings: Settings, data: dict[str, Any]):
    made = evaluate(generator_run, data, replace(settings, num=3, resize=12))
    assert made["protocol"]["resize"] == 12
    with Image.open(Path(settings.out) / "grid.png") as picture:
        assert picture.width == 2 * 14 - 2
