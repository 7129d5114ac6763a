"""Over HTTP: published files, our own format, and everything that can go wrong on the way."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import official
import pytest
import torch
import yaml
from conftest import CELLS, recipe_for, tiny_model
from hub_server import Hub
from huggingface_hub import ModelCard, constants
from official import SCALES, state

from argenzoo import ArgenzooError, ARModel, build_model, build_tokenizer
from argenzoo.cli import main
from argenzoo.hub import import_official
from argenzoo.recipe import load_recipe
from argenzoo.weights import read_about, sha256


def pickled(weights: dict[str, torch.Tensor], path: Path) -> bytes:
    return official.saved(path, weights).read_bytes()


@pytest.fixture
def published(hub: Hub, tmp_path: Path) -> tuple[Path, str]:
    """A recipe of small weights that their authors have put on the Hub, and their repository, new for every test."""
    repo = f"authors/{tmp_path.name.replace('_', '-')}"
    files = {f"{kind}.pth": pickled(state("var", kind), tmp_path / kind) for kind in ("generator", "tokenizer")}
    commit = hub.add(repo, files)
    values = load_recipe("var_d16").dump()
    values["tokenizer"] |= {"image_size": 16, "channels": 32, "multipliers": [1, 1, 2], "vocab_size": 64, "dim": 8, "scales": list(SCALES)}
    values["conditioner"]["num_classes"] = 10
    values["generator"] |= {"dim": 128, "depth": 2, "num_heads": 2}
    values["sampling"]["head"] = {}
    values["pretrained"] = {
        "family": "var",
        **{
            kind: {"repo": repo, "file": f"{kind}.pth", "revision": commit, "sha256": sha256(tmp_path / kind)}
            for kind in ("generator", "tokenizer")
        },
        "license": "mit",
    }
    path = tmp_path / "small_var.yaml"
    path.write_text(yaml.safe_dump(values))
    return path, repo


def changed(recipe: Path, kind: str, **settings: Any) -> Path:
    """The recipe, with other settings of one published file."""
    values = yaml.safe_load(recipe.read_text())
    values["pretrained"][kind] |= settings
    values["pretrained"][kind] = {key: value for key, value in values["pretrained"][kind].items() if value is not None}
    recipe.write_text(yaml.safe_dump(values))
    return recipe


def same(ours: ARModel, theirs: ARModel) -> None:
    """Bit for bit the weights; the pictures to rounding, since mapped tensors lie at other addresses."""
    for (key, a), b in zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True):
        assert torch.equal(a, b), key
    assert torch.allclose(ours.generate([1, 0], seed=1), theirs.generate([1, 0], seed=1), atol=1e-4)


def downloads(hub: Hub, name: str) -> list[str | None]:
    """The ranges that were asked for of a file, one a request."""
    return [asked for method, path, asked in hub.requests if method == "GET" and path.endswith(f"/{name}")]


def test_published_weights_compute_what_imported_ones_do(published: tuple[Path, str], tmp_path: Path):
    model = build_model(published[0], pretrained=True)
    imported = import_official("var", tmp_path / "generator", tmp_path / "tokenizer", scales=SCALES)
    imported.sampling = model.sampling
    same(model, imported)
    assert model.recipe == load_recipe(published[0])
    assert not any(tensor.is_meta for tensor in [*model.parameters(), *model.buffers()])


def test_a_file_is_downloaded_and_converted_once(published: tuple[Path, str], hub: Hub, capsys: pytest.CaptureFixture[str]):
    first = build_model(published[0], pretrained=True)
    assert capsys.readouterr().err.count("converting") == 2
    assert len(downloads(hub, "generator.pth")) == 1
    hub.requests.clear()
    again = build_model(published[0], pretrained=True)
    assert not hub.requests  # the commit is known, so the Hub need not even be asked
    assert "converting" not in capsys.readouterr().err
    assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), again.state_dict().values(), strict=True))
    about = read_about(again.sources["network"])
    assert about["source"].endswith("generator.pth@" + load_recipe(published[0]).pretrained.generator.revision)
    assert about["source_sha256"] == load_recipe(published[0]).pretrained.generator.sha256


def test_scales_that_are_not_the_recipes_are_told_from_the_conversion_too(published: tuple[Path, str], hub: Hub, tmp_path: Path):
    recipe, repo = published
    weights = {**state("var", "generator"), "lvl_1L": torch.tensor([[0] + [1] * 25 + [2] * 4])}  # as many tokens, other sides
    commit = hub.add(repo, {"generator.pth": pickled(weights, tmp_path / "other")})
    changed(recipe, "generator", revision=commit, sha256=None)
    for _ in range(2):
        with pytest.raises(ArgenzooError, match=r"was trained with scales \[1, 5, 2\], not with \[1, 2, 3, 4\]"):
            build_model(recipe, pretrained=True)


def test_the_tokenizer_alone_and_as_weights_of_a_training(published: tuple[Path, str], hub: Hub, pictures: Path, tmp_path: Path):
    tokenizer = build_tokenizer(published[0], {"tokenizer.weights": "pretrained"})
    image = torch.rand(1, 3, 16, 16) * 2 - 1
    assert torch.equal(tokenizer.encode(image), build_model(published[0], pretrained=True).tokenizer.encode(image))
    small = ["conditioner.num_classes=2", "generator.drop_path=0", "train.epochs=null", "train.steps=1", "train.batch_size=4"]
    quiet = ["train.eval_every=null", "train.sample_every=null", "train.save_every=null", "train.precision=fp32", "train.workers=0"]
    data = ["data.name=folder", f"data.path={pictures}", "data.held_out=0"]
    arguments = ["train", f"recipe={published[0]}", "tokenizer.weights=pretrained", *small, *quiet, *data, f"train.out={tmp_path / 'run'}"]
    assert main(arguments) == 0
    trained = build_model(tmp_path / "run")
    assert torch.equal(trained.tokenizer.encode(image), tokenizer.encode(image))
    assert trained.recipe.pretrained is None  # its weights are no longer those


def test_fine_tuning_the_published_tokenizer(published: tuple[Path, str], pictures: Path, tmp_path: Path):
    """It starts where its authors stopped, and leaves the converted file in the cache as it is."""
    values = yaml.safe_load(published[0].read_text())
    tuned = {key: values[key] for key in ("tokenizer", "pretrained", "train")} | {"loss": {"l2": 1.0, "codebook": 1.0}}
    tuned["pretrained"].pop("generator")
    tuned["train"] |= {
        "epochs": None,
        "steps": 2,
        "batch_size": 4,
        "precision": "fp32",
        "workers": 0,
        "lr": 1e-2,
        "warmup": 0.0,
        "no_decay": [],
    }
    tuned["data"] = {"name": "folder", "path": str(pictures), "held_out": 0.2}
    path = tmp_path / "tuned.yaml"
    path.write_text(yaml.safe_dump(tuned))
    before = {key: tensor.clone() for key, tensor in build_tokenizer(path, {"tokenizer.weights": "pretrained"}).state_dict().items()}
    assert main(["train", f"recipe={path}", "tokenizer.weights=pretrained", f"train.out={tmp_path / 'run'}"]) == 0
    after = build_tokenizer(tmp_path / "run").state_dict()
    moved = [key for key in before if key.startswith("autoencoder") and not torch.equal(before[key], after[key])]
    assert len(moved) > 50
    assert all((after[key] - before[key]).abs().max() < 0.1 for key in moved)
    again = build_tokenizer(path, {"tokenizer.weights": "pretrained"}).state_dict()
    assert all(torch.equal(tensor, again[key]) for key, tensor in before.items())


def test_the_command_samples_published_weights(published: tuple[Path, str], tmp_path: Path):
    out = tmp_path / "samples"
    assert main(["sample", str(published[0]), "--classes", "1", "--num", "1", "--out", str(out)]) == 0
    made = json.loads((out / "samples.json").read_text())
    files = load_recipe(published[0]).pretrained
    assert (made["weights"], made["weights_sha256"]) == (files.generator.address, files.generator.sha256)  # the same on every machine
    assert made["tokenizer_sha256"] == files.tokenizer.sha256
    assert made["sampling"]["guidance"] == 2.5


def test_an_interrupted_download_resumes(published: tuple[Path, str], hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1 << 16)  # what is written at a time
    whole = (tmp_path / "generator").read_bytes()
    hub.cut["generator.pth"] = len(whole) // 2
    model = build_model(published[0], pretrained=True)
    asked = downloads(hub, "generator.pth")
    assert asked[0] is None
    assert asked[1] is not None  # the rest alone
    assert 0 < int(asked[1].removeprefix("bytes=").rstrip("-")) <= len(whole) // 2
    assert torch.equal(model.network.state_dict()["generator.embed.weight"], state("var", "generator")["word_embed.weight"])


def test_a_wrong_hash_never_loads(published: tuple[Path, str]):
    recipe = changed(published[0], "generator", sha256="0" * 64)
    for _ in range(2):
        with pytest.raises(ArgenzooError, match=r"is not authors/.*generator.pth@.* as published: its SHA-256 is .*, the recipe says 0000"):
            build_model(recipe, pretrained=True)


def test_what_to_do_after_a_damaged_download_works(published: tuple[Path, str], hub: Hub, tmp_path: Path):
    recipe, repo = published
    settings = yaml.safe_load(recipe.read_text())["pretrained"]["generator"]
    good = hub.commits[repo][-1]["generator.pth"]
    hub.commits[repo][-1]["generator.pth"] = good[:-1] + b"?"
    with pytest.raises(ArgenzooError) as error:
        build_model(recipe, pretrained=True)
    hub.commits[repo][-1]["generator.pth"] = good
    Path(str(error.value).split("delete ")[1].split(" and try again")[0]).unlink()
    build_model(recipe, pretrained=True)
    assert settings["sha256"] == sha256(tmp_path / "generator")


def test_a_hash_that_becomes_known_is_checked_on_the_converted_file(published: tuple[Path, str]):
    build_model(changed(published[0], "generator", sha256=None), pretrained=True)
    with pytest.raises(ArgenzooError, match="as published: its SHA-256 is"):
        build_model(changed(published[0], "generator", sha256="0" * 64), pretrained=True)


def test_a_broken_conversion_is_made_again(published: tuple[Path, str], capsys: pytest.CaptureFixture[str]):
    source = build_model(published[0], pretrained=True).sources["network"]
    whole = source.read_bytes()
    source.write_bytes(whole[:-100])
    capsys.readouterr()
    build_model(published[0], pretrained=True)
    assert capsys.readouterr().err.count("converting") == 1
    assert len(source.read_bytes()) == len(whole)


def test_several_processes_convert_once(published: tuple[Path, str], tmp_path: Path):
    code = f"from argenzoo import build_model; build_model({str(published[0])!r}, pretrained=True)"
    started = [subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=120)[1] for process in started]
    assert [process.returncode for process in started] == [0, 0]
    assert sum(text.count("converting") for text in said) == 2  # generator and tokenizer


def test_files_in_folders_follow_a_moving_revision(published: tuple[Path, str], hub: Hub, tmp_path: Path):
    recipe, repo = published
    hub.add(repo, {"weights/generator.pth": (tmp_path / "generator").read_bytes()})
    changed(recipe, "generator", file="weights/generator.pth", revision=None, sha256=None)
    first = build_model(recipe, pretrained=True).network.state_dict()["head.linear.bias"]
    doubled = {key: 2 * value for key, value in state("var", "generator").items()}
    hub.add(repo, {"weights/generator.pth": pickled(doubled, tmp_path / "doubled")})
    assert torch.equal(build_model(recipe, pretrained=True).network.state_dict()["head.linear.bias"], 2 * first)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("file", "has no file generatr.pth; did you mean 'generator.pth'?"),
        ("revision", "has no revision " + "f" * 40),
        ("repo", "no repository authors/nobody on the Hub, or a private one"),
        ("private", "or log in ('hf auth login', or HF_TOKEN)"),
        ("gated", "is gated: accept its conditions on its page"),
        ("down", "could not be downloaded (Server disconnected without sending a response.): try again"),
        ("ill", "is not in the cache, and the Hub did not give it (Client error '410 Gone'"),
    ],
)
def test_what_a_failed_download_says(fault: str, words: str, published: tuple[Path, str], hub: Hub, monkeypatch: pytest.MonkeyPatch):
    recipe, repo = published
    settings = {"file": {"file": "generatr.pth"}, "revision": {"revision": "f" * 40}, "repo": {"repo": "authors/nobody"}}
    changed(recipe, "generator", **settings.get(fault, {}))
    if fault == "private":
        monkeypatch.delenv("HF_TOKEN")
        hub.private.add(repo)
    if fault == "gated":
        hub.gated.add(repo)
    if fault in ("down", "ill"):
        hub.ill["generator.pth"] = {"down": 0, "ill": 410}[fault]
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # huggingface_hub tries again, later and later
    with pytest.raises(ArgenzooError) as error:
        build_model(recipe, pretrained=True)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_a_private_repository_opens_with_a_token(published: tuple[Path, str], hub: Hub):
    hub.private.add(published[1])
    assert build_model(published[0], pretrained=True).tokenizer is not None


def command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own, since huggingface_hub reads its environment once."""
    return subprocess.run(
        [sys.executable, "-m", "argenzoo", *arguments], capture_output=True, text=True, env={**os.environ, **environment}, check=False
    )


def test_offline(published: tuple[Path, str], tmp_path: Path):
    sample = ["sample", str(published[0]), "--classes", "1", "--num", "1", "--out", str(tmp_path / "a")]
    failed = command(*sample, HF_HUB_OFFLINE="1")
    assert failed.returncode == 2
    assert "is not in the cache, and HF_HUB_OFFLINE is set" in failed.stderr
    assert "Traceback" not in failed.stderr
    build_model(published[0], pretrained=True)
    assert command(*sample, HF_HUB_OFFLINE="1").returncode == 0


def test_cautions_are_warnings_and_no_weights_are_an_error(published: tuple[Path, str]):
    values = yaml.safe_load(published[0].read_text())
    published[0].write_text(yaml.safe_dump({**values, "pretrained": {**values["pretrained"], "caution": "made up"}}))
    with pytest.warns(UserWarning, match="made up"):
        build_model(published[0], pretrained=True)
    with pytest.raises(ArgenzooError, match="fruit_var has no published weights"):
        build_model("fruit_var", pretrained=True)
    with pytest.raises(ArgenzooError, match="mar_table1_raster_ce has no published generator, only a tokenizer"):
        build_model("mar_table1_raster_ce", pretrained=True)
    with pytest.raises(ArgenzooError, match=r"leave out tokenizer\.weights"):
        build_model(published[0], {"tokenizer.weights": "somewhere"}, pretrained=True)
    with pytest.raises(ArgenzooError, match=r"unknown key 'pretrained\.generator\.fil'"):
        load_recipe("var_d16", {"pretrained.generator.fil": "x"})


# --- our own format -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CELLS)
def test_every_cell_goes_to_the_hub_and_back(name: str, hub: Hub, tmp_path: Path):
    model = tiny_model(name)
    address = model.push_to_hub(f"tester/{name.replace('_', '-')}", license="apache-2.0")
    assert address.startswith(hub.url)
    again = build_model(f"tester/{name.replace('_', '-')}")
    same(again, model)
    assert again.sampling == model.sampling
    same(ARModel.from_pretrained(f"tester/{name.replace('_', '-')}", cache_dir=tmp_path), model)


def test_a_trained_run_is_shared_with_its_card(tokenizer_runs: dict[str, Path], pictures: Path, tmp_path: Path, hub: Hub):
    from argenzoo.training.trainer import train

    settings = {"eval_every": 2, "sample_every": 2, "save_every": 2, "steps": 2}
    out = train(recipe_for("fruit_var", tokenizer_runs, tmp_path / "run", pictures, **settings))
    model = build_model(out)
    (model.sources["network"].parent / "metrics.json").write_text('{"FID (1,000 samples)": 12.5}')
    own = {"kind": "gFID", "num": 10, "figures": {"fid": 3.25, "kid": None}, "protocol": {"reference": {"count": 20}}}
    (model.sources["network"].parent / "evaluation").mkdir()
    (model.sources["network"].parent / "evaluation" / "evaluation.json").write_text(
        json.dumps({**own, "weights_sha256": sha256(model.sources["network"])})
    )
    (model.sources["network"].parent / "evaluation.json").write_text(json.dumps({**own, "num": 11, "weights_sha256": "of other weights"}))
    model.push_to_hub("tester/shared", private=True)
    assert "tester/shared" in hub.private
    files = hub.commits["tester/shared"][-1]
    assert {"README.md", "recipe.yaml", "model.safetensors", "tokenizer.safetensors", "samples.png"} <= files.keys()
    card = ModelCard(files["README.md"].decode())
    assert card.data.library_name == "argenzoo"
    assert "(11 samples" not in card.text
    for words in (
        "held_out_loss (step 2)",
        "FID (1,000 samples)",
        "| fid (10 samples against 20 pictures) | 3.25 |",
        "![samples](samples.png)",
        "parameters of the network",
        "build_model(",
    ):
        assert words in card.text
    text = files["recipe.yaml"].decode()
    assert str(tmp_path) not in text  # nothing of this machine
    assert str(pictures) not in text
    assert ARModel.from_pretrained("tester/shared").recipe.train.steps == 2


def test_revisions_of_a_repository(hub: Hub, tmp_path: Path):
    first = tiny_model("fruit_raster", seed=1)
    first.push_to_hub("tester/revised")
    commit = hub.revision("tester/revised", len(hub.commits["tester/revised"]) - 1)
    second = tiny_model("fruit_raster", seed=2)
    second.push_to_hub("tester/revised")
    same(ARModel.from_pretrained("tester/revised", revision=commit), first)
    same(ARModel.from_pretrained("tester/revised"), second)
    with pytest.raises(ArgenzooError, match="repository tester/revised has no revision v9"):
        ARModel.from_pretrained("tester/revised", revision="v9")


def test_repositories_that_are_not_ours(hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    hub.add("someone/else", {"config.json": b"{}"})
    with pytest.raises(ArgenzooError, match=r"repository someone/else has no file recipe.yaml and is not in this zoo's format"):
        build_model("someone/else")
    with pytest.raises(ArgenzooError, match="no folder someone/nothing here, and no repository someone/nothing"):
        build_model("someone/nothing")
    with pytest.raises(ArgenzooError, match="'var_d16' is no folder here, and no repository's name"):
        ARModel.from_pretrained("var_d16")
    (tmp_path / "runs" / "fruit").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ArgenzooError, match="no such folder runs/fruits; did you mean 'fruit'"):
        build_model("runs/fruits")


@pytest.mark.parametrize("token", ["hf_wrong", None])
def test_an_upload_needs_a_token_that_may_write(token: str | None, hub: Hub, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("HF_TOKEN")
    if token is not None:
        monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(ArgenzooError, match=r"tester/refused could not be uploaded: log in \(.*\), with a token that may write there"):
        tiny_model("fruit_raster").push_to_hub("tester/refused")
    assert "tester/refused" not in hub.commits


def test_a_second_upload_leaves_no_old_shards(hub: Hub):
    from argenzoo.hub.hosting import Upload, push, save

    model = tiny_model("fruit_var")
    push(lambda folder: save(model, folder, shard_size="50KB"), "tester/again", Upload())
    assert any("model-" in name for name in hub.commits["tester/again"][-1])
    hub.add("tester/again", {"notes.txt": b"kept"})
    model.push_to_hub("tester/again")
    assert not any("model-" in name or "index" in name for name in hub.commits["tester/again"][-1])
    assert "notes.txt" in hub.commits["tester/again"][-1]
    same(build_model("tester/again"), model)


def test_a_saved_model_takes_the_place_of_averaged_weights_too(tmp_path: Path, hub: Hub):
    first, second = tiny_model("fruit_raster", seed=1), tiny_model("fruit_raster", seed=2)
    first.save_pretrained(tmp_path / "out")
    (tmp_path / "out" / "model.safetensors").rename(tmp_path / "out" / "ema.safetensors")
    same(build_model(tmp_path / "out"), first)
    hub.add("tester/averaged", {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()})
    second.save_pretrained(tmp_path / "out", overwrite=True)
    same(build_model(tmp_path / "out"), second)
    second.push_to_hub("tester/averaged")
    same(build_model("tester/averaged"), second)


def test_nothing_else_in_the_folder_is_touched(tmp_path: Path):
    model = tiny_model("fruit_raster")
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk")
    model.save_pretrained(tmp_path / "out")
    mine = {"model_backup.safetensors": b"1", "tokenizer.safetensors.bak": b"2", "notes.txt": b"3"}
    for name, content in mine.items():
        (tmp_path / "out" / name).write_bytes(content)
    (tmp_path / "out" / "model-00001-of-00002.safetensors").mkdir()  # a folder of such a name
    model.save_pretrained(tmp_path / "out", overwrite=True)
    assert {name: (tmp_path / "disk" / name).read_bytes() for name in mine} == mine
    assert (tmp_path / "out").is_symlink()
    same(build_model(tmp_path / "out"), model)
    assert not list((tmp_path / "disk").glob(".saving-*"))


def test_a_training_is_never_overwritten(tokenizer_runs: dict[str, Path], tmp_path: Path):
    model = tiny_model("fruit_raster")
    for folder in (tokenizer_runs["vq"], tokenizer_runs["vq"] / "step_0000003"):
        with pytest.raises(ArgenzooError, match="holds a training: choose another folder"):
            model.save_pretrained(folder, overwrite=True)
    for folder in ("", " "):
        with pytest.raises(ArgenzooError, match="is empty: name a folder"):
            model.save_pretrained(folder)
        with pytest.raises(ArgenzooError, match="an empty name"):
            build_model(folder)


def test_force_download_says_what_is_wrong_too(hub: Hub):
    with pytest.raises(ArgenzooError, match="no repository someone/nothing on the Hub"):
        ARModel.from_pretrained("someone/nothing", force_download=True)
    tiny_model("fruit_raster").push_to_hub("tester/forced")
    assert ARModel.from_pretrained("tester/forced", force_download=True).tokenizer is not None


def test_metrics_that_are_none_and_metrics_that_would_break_the_table(tmp_path: Path):
    tiny_model("fruit_raster").save_pretrained(tmp_path / "a")
    for text in ("[1, 2]", "no json", '"x"'):
        (tmp_path / "a" / "metrics.json").write_text(text)
        with pytest.raises(ArgenzooError, match=r"metrics.json is no JSON object of metrics"):
            build_model(tmp_path / "a").save_pretrained(tmp_path / "b")
    (tmp_path / "a" / "metrics.json").write_text(json.dumps({"FID": "a|b\nc"}))
    build_model(tmp_path / "a").save_pretrained(tmp_path / "b")
    build_model(tmp_path / "b").save_pretrained(tmp_path / "c")  # they go with the weights
    assert "| FID | a\\|b c |" in (tmp_path / "c" / "README.md").read_text()


@pytest.mark.parametrize("error", [errno.EACCES, errno.EROFS])
def test_a_cache_that_is_another_users(
    error: int, published: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    from argenzoo.hub import pretrained

    class Refused:
        def __init__(self, path: Path) -> None:
            raise OSError(error, os.strerror(error), str(path))

    converted = build_model(published[0], pretrained=True)
    monkeypatch.setattr(pretrained, "WeakFileLock", Refused)
    same(build_model(published[0], pretrained=True), converted)  # what is converted needs no writing
    for path in converted.sources.values():
        path.unlink()
    capsys.readouterr()
    same(build_model(published[0], pretrained=True), converted)
    assert capsys.readouterr().err.count("reading the download itself") == 2
    assert main(["sample", str(published[0]), "--classes=1", "--num=1", f"--out={tmp_path / 'out'}"]) == 0
    made = json.loads((tmp_path / "out" / "samples.json").read_text())
    assert made["weights_sha256"] == load_recipe(published[0]).pretrained.generator.sha256
    changed(published[0], "generator", sha256="0" * 64)
    with pytest.raises(ArgenzooError, match="as published"):
        build_model(published[0], pretrained=True)


def test_what_a_killed_conversion_left_goes_with_the_next(published: tuple[Path, str]):
    source = build_model(published[0], pretrained=True).sources["network"]
    source.unlink()
    left = source.with_suffix(".converting")
    left.mkdir()
    (left / ".tmp123").write_bytes(b"half")
    build_model(published[0], pretrained=True)
    assert not left.exists()


@pytest.mark.parametrize(
    "arguments", [["--classes", "10"], ["--classes", "goldfish"], ["--num", "0"], ["head.topk=5"], ["--guidance", "-1"]]
)
def test_what_the_recipe_decides_is_told_before_a_download(arguments: list[str], published: tuple[Path, str], hub: Hub, tmp_path: Path):
    assert main(["sample", str(published[0]), *arguments, "--out", str(tmp_path / "out")]) == 2
    assert not hub.requests


def test_a_full_disk_is_one_line(published: tuple[Path, str], tmp_path: Path):
    build_model(published[0], pretrained=True)
    limit = (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (10**5,) * 2)"
    )
    files = ["--generator", str(tmp_path / "generator"), "--tokenizer", str(tmp_path / "tokenizer")]
    arguments = ["import", "var", *files, "--scales", "1,2,3,4", "--out", str(tmp_path / "full")]
    code = f"{limit}; from argenzoo.cli import main; raise SystemExit(main({arguments!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "can't be written" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "full").exists()
    assert not list(tmp_path.glob(".full*"))


def test_a_failed_save_leaves_the_old_checkpoint(tmp_path: Path):
    model = tiny_model("fruit_var")
    model.save_pretrained(tmp_path / "out")
    (tmp_path / "out" / "notes.txt").write_text("mine")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    by_hand = ARModel(model.tokenizer, model.network, model.sampling)
    headless = ARModel(None, model.network, model.sampling, model.recipe)
    unwritable = tiny_model("fruit_var")
    unwritable.network.register_buffer("sparse", torch.eye(3).to_sparse())
    for broken, error in ((by_hand, ArgenzooError), (headless, ArgenzooError), (unwritable, Exception)):
        with pytest.raises(error):
            broken.save_pretrained(tmp_path / "out", overwrite=True)
        assert before == {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    model.save_pretrained(tmp_path / "out", overwrite=True)
    assert (tmp_path / "out" / "notes.txt").read_text() == "mine"


def test_cards_claim_what_is_so(published: tuple[Path, str], tmp_path: Path):
    build_model(published[0], pretrained=True).save_pretrained(tmp_path / "theirs")
    card = (tmp_path / "theirs" / "README.md").read_text()
    assert "license: mit" in card
    assert load_recipe(published[0]).pretrained.generator.address in card
    build_model(published[0]).save_pretrained(tmp_path / "random")
    card = (tmp_path / "random" / "README.md").read_text()
    assert "license" not in card
    assert "authors/" not in card
    for folder in ("theirs", "random"):
        assert "pretrained" not in yaml.safe_load((tmp_path / folder / "recipe.yaml").read_text())


def test_a_card_shows_pictures_of_its_own_weights_alone(tmp_path: Path, published: tuple[Path, str]):
    tiny_model("fruit_var").save_pretrained(tmp_path / "a")
    assert main(["sample", str(tmp_path / "a"), "--num", "2", "--out", str(tmp_path / "a" / "samples")]) == 0
    build_model(tmp_path / "a").save_pretrained(tmp_path / "b")
    assert (tmp_path / "b" / "samples.png").read_bytes() == (tmp_path / "a" / "samples" / "grid.png").read_bytes()
    tiny_model("fruit_var", seed=1).save_pretrained(tmp_path / "a", overwrite=True)
    build_model(tmp_path / "a").save_pretrained(tmp_path / "c")
    assert not (tmp_path / "c" / "samples.png").exists()
    (tmp_path / "grid.png").write_bytes(b"something else")  # beside the authors' files
    import_official("var", tmp_path / "generator", tmp_path / "tokenizer", scales=SCALES).save_pretrained(tmp_path / "d")
    assert not (tmp_path / "d" / "samples.png").exists()


def test_a_damaged_tokenizer_of_a_repository_never_loads(hub: Hub):
    tiny_model("fruit_mar").push_to_hub("tester/damaged")
    files = dict(hub.commits["tester/damaged"][-1])
    damaged = bytearray(files["tokenizer.safetensors"])
    damaged[-1] ^= 1
    hub.add("tester/damaged", {"tokenizer.safetensors": bytes(damaged)})
    with pytest.raises(ArgenzooError, match="is another tokenizer than this checkpoint was trained with"):
        build_model("tester/damaged")


def test_large_weights_are_sharded(tmp_path: Path):
    from argenzoo.hub.hosting import save

    model = tiny_model("fruit_var")
    save(model, tmp_path / "out", shard_size="50KB")
    shards = sorted(path.name for path in (tmp_path / "out").glob("model-*.safetensors"))
    assert len(shards) > 2
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert sorted(set(index["weight_map"].values())) == shards
    same(build_model(tmp_path / "out"), model)
    save(model, tmp_path / "out", overwrite=True)
    assert not list((tmp_path / "out").glob("model-*"))
    save(model, tmp_path / "shards", shard_size="50KB")
    (tmp_path / "shards" / shards[1]).unlink()
    with pytest.raises(ArgenzooError, match=f"no weights file .*{shards[1]}"):
        build_model(tmp_path / "shards")
    index["weight_map"] = dict.fromkeys(index["weight_map"], "../elsewhere.safetensors")
    for wrong, words in (
        (index, "names files outside its folder"),
        ({"weight_map": {}}, "is no index of shards"),
        ([], "is no index of shards"),
    ):
        (tmp_path / "shards" / "model.safetensors.index.json").write_text(json.dumps(wrong))
        with pytest.raises(ArgenzooError, match=words):
            build_model(tmp_path / "shards")
