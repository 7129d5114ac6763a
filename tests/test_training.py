"""One loop for generators and tokenizers: it runs, logs, resumes, and does what its settings say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from conftest import CELLS, TOKENIZERS, losses, recipe_for, tiny, tiny_training, write_pictures
from safetensors.torch import load_file

from argenzoo.build import build_model, build_tokenizer
from argenzoo.checkpoint import EMA, MODEL, TOKENIZER, resolve
from argenzoo.data.stream import Stream
from argenzoo.errors import ArgenzooError
from argenzoo.recipe import load_recipe
from argenzoo.train_options import TrainConfig
from argenzoo.training.logs import read_log
from argenzoo.training.player import make_optimizer
from argenzoo.training.schedule import lr_factor, weight_decay
from argenzoo.training.trainer import Trainer, train


@pytest.mark.parametrize("name", CELLS)
def test_train_sample_and_load(name: str, tokenizer_runs: dict[str, Path], pictures: Path, tmp_path: Path):
    out = train(recipe_for(name, tokenizer_runs, tmp_path / "run", pictures, eval_every=2))
    newest = resolve(out)
    assert newest.name == "step_0000003"
    model = build_model(out)
    assert model.recipe.conditioner.config.names == ("green", "red")
    assert model.generate([0, 1]).isfinite().all()
    averaged = load_file(newest / EMA)
    torch.testing.assert_close(model.network.state_dict(), averaged)
    assert any(not torch.equal(averaged[key], tensor) for key, tensor in load_file(newest / MODEL).items())
    log = read_log(out)
    assert log[0]["recipe"]["generator"]["name"] == model.recipe.generator.name
    held_out = [entry for entry in log if entry["event"] == "held_out"]
    assert [entry["step"] for entry in held_out] == [2, 3]
    if model.recipe.tokenizer.name == "multiscale_vq":
        assert "held_out_loss/scale_0_1x1" in held_out[0]
    assert len(list((out / "samples").glob("*.png"))) == 1
    assert list((out / "tensorboard").iterdir())
    tokenizer = build_tokenizer(tokenizer_runs[model.recipe.tokenizer.name])
    torch.testing.assert_close(model.tokenizer.state_dict(), tokenizer.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_trained_tokenizer_knows_its_scale(name: str, tokenizer_runs: dict[str, Path]):
    tokenizer = build_tokenizer(tokenizer_runs[tiny(name).tokenizer.name])
    assert (tokenizer.scale.factors != 1).all()
    assert tokenizer.config.latent_scale is None


def test_a_finished_run_is_not_overwritten(tokenizer_runs: dict[str, Path], pictures: Path):
    recipe = tiny("fruit_vq", tiny_training(tokenizer_runs["vq"], pictures))
    with pytest.raises(ArgenzooError, match=r"holds checkpoints already: set train.resume=true"):
        train(recipe)


def test_resume_refuses_another_recipe(tokenizer_runs: dict[str, Path], pictures: Path):
    recipe = tiny("fruit_vq", {**tiny_training(tokenizer_runs["vq"], pictures, resume=True), "tokenizer.vocab_size": 64})
    with pytest.raises(ArgenzooError, match="another tokenizer"):
        train(recipe)


@pytest.mark.parametrize("name", ["fruit_raster", "fruit_mar"])
def test_accumulation_changes_nothing(name: str, tokenizer_runs: dict[str, Path], pictures: Path, tmp_path: Path):
    runs = [train(recipe_for(name, tokenizer_runs, tmp_path / str(n), pictures, accumulate=n, warmup=0.0)) for n in (1, 2)]
    logs = [[(e["loss"], e["grad_norm"]) for e in read_log(run) if e["event"] == "train"] for run in runs]
    torch.testing.assert_close(torch.tensor(logs[0]), torch.tensor(logs[1]), atol=1e-3, rtol=1e-3)


def test_settings_reach_the_optimizer(tokenizer_runs: dict[str, Path], pictures: Path, tmp_path: Path):
    recipe = recipe_for(
        "fruit_raster", tokenizer_runs, tmp_path / "run", pictures, steps=4, warmup=0.5, warmup_start=0.1, save_every=1, keep=None
    )
    out = train(recipe)
    rates = [entry["lr"] for entry in read_log(out) if entry["event"] == "train"]
    assert rates == pytest.approx([recipe.train.lr * lr_factor(recipe.train, step, 4) for step in range(4)])
    first = out / "step_0000001"
    torch.testing.assert_close(load_file(first / EMA), load_file(first / MODEL), rtol=0, atol=0)  # the warm-up begins at decay 0
    newest = load_file(resolve(out) / EMA)
    assert any(not torch.equal(tensor, newest[key]) for key, tensor in load_file(resolve(out) / MODEL).items())
    plain = train(
        recipe_for("fruit_raster", tokenizer_runs, tmp_path / "plain", pictures, steps=4, warmup=0.5, warmup_start=0.1, weight_decay=0.0)
    )
    weights = [load_file(resolve(run) / MODEL) for run in (out, plain)]
    assert not torch.equal(weights[0]["generator.blocks.0.attention.qkv.weight"], weights[1]["generator.blocks.0.attention.qkv.weight"])


def test_fp16_needs_a_gpu(tokenizer_runs: dict[str, Path], pictures: Path, tmp_path: Path):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(ArgenzooError, match="fp16 needs a GPU"):
        train(recipe_for("fruit_raster", tokenizer_runs, tmp_path / "run", pictures, precision="fp16"))


def test_bf16_trains(tokenizer_runs: dict[str, Path], pictures: Path, tmp_path: Path):
    for name in ("fruit_var", "fruit_mar"):
        out = train(recipe_for(name, tokenizer_runs, tmp_path / name, pictures, precision="bf16"))
        assert all(loss == loss for loss in losses(out))
        assert next(iter(load_file(resolve(out) / MODEL).values())).dtype == torch.float32


def test_generator_needs_tokenizer_weights(pictures: Path, tmp_path: Path):
    with pytest.raises(ArgenzooError, match=r"needs its weights: set tokenizer.weights"):
        train(tiny("fruit_raster", tiny_training(tmp_path, pictures)))


def test_class_count_mismatch_says_both(tokenizer_runs: dict[str, Path], tmp_path: Path):
    data = write_pictures(tmp_path / "three", classes=("a", "b", "c"))
    with pytest.raises(ArgenzooError, match=r"3 classes.*num_classes 2: set conditioner.num_classes=3"):
        train(recipe_for("fruit_raster", tokenizer_runs, tmp_path / "run", data))


def test_another_tokenizer_than_the_recipe_says(tokenizer_runs: dict[str, Path], pictures: Path, tmp_path: Path):
    overrides = {**tiny_training(tmp_path / "run", pictures), "tokenizer.weights": str(tokenizer_runs["kl"])}
    with pytest.raises(ArgenzooError, match="does not fit this recipe"):
        train(tiny("fruit_raster", overrides))


def test_replaced_tokenizer_is_noticed(tokenizer_runs: dict[str, Path], pictures: Path, tmp_path: Path):
    out = train(recipe_for("fruit_raster", tokenizer_runs, tmp_path / "run", pictures))
    target = resolve(out) / TOKENIZER
    target.write_bytes((resolve(tokenizer_runs["vq"]) / MODEL).read_bytes())
    with pytest.raises(ArgenzooError, match="another tokenizer than this checkpoint was trained with"):
        build_model(out)


def test_a_tokenizer_trained_under_other_settings_is_refused(tokenizer_runs: dict[str, Path], pictures: Path, tmp_path: Path):
    """Settings that change no shape too."""
    overrides = {**tiny_training(tmp_path / "run", pictures), "tokenizer.weights": str(tokenizer_runs["vq"]), "tokenizer.groups": 8}
    with pytest.raises(ArgenzooError, match=r"trained with tokenizer.groups 4, the recipe says 8"):
        train(tiny("fruit_raster", overrides))
    overrides = {
        **tiny_training(tmp_path / "run", pictures),
        "tokenizer.weights": str(tokenizer_runs["kl"]),
        "tokenizer.latent_scale": 0.2325,
    }
    with pytest.raises(ArgenzooError, match=r"latent_scale 0.2325 is not the one"):
        train(tiny("fruit_mar", overrides))


def test_resume_refuses_another_tokenizer_and_another_data_order(tokenizer_runs: dict[str, Path], pictures: Path, tmp_path: Path):
    out = train(recipe_for("fruit_raster", tokenizer_runs, tmp_path / "run", pictures))
    other = train(tiny("fruit_vq", tiny_training(tmp_path / "other", pictures, seed=1)))
    with pytest.raises(ArgenzooError, match="another tokenizer than"):
        train(recipe_for("fruit_raster", {"vq": other}, out, pictures, steps=5, resume=True))
    with pytest.raises(ArgenzooError, match=r"trained with train.batch_size 4"):
        train(recipe_for("fruit_raster", tokenizer_runs, out, pictures, steps=5, resume=True, batch_size=8))


def test_unknown_loss_term(pictures: Path, tmp_path: Path):
    recipe = tiny("fruit_vq", {**tiny_training(tmp_path / "run", pictures), "loss.l3": 1.0})
    with pytest.raises(ArgenzooError, match=r"unknown term 'loss.l3' for this tokenizer; did you mean 'l"):
        train(recipe)


def test_stream_is_the_same_on_any_number_of_processes():
    def draws(accumulate: int, world: int) -> list[list]:
        streams = [iter(Stream(10, 8, 0, 0, 5, accumulate, rank, world)) for rank in range(world)]
        return [[key for _ in range(accumulate) for stream in streams for key in next(stream)] for _ in range(5)]

    alone = draws(1, 1)
    assert draws(2, 1) == draws(1, 4) == draws(2, 2) == alone
    flat = [position for batch in alone for position, _ in batch]
    assert sorted(flat[:10]) == sorted(flat[10:20]) == list(range(10))
    assert flat[:10] != flat[10:20]
    assert [key for key in Stream(10, 8, 0, 3, 5)] == alone[3:]  # noqa: C416
    with pytest.raises(ArgenzooError, match="no multiple of 3 processes"):
        Stream(10, 8, 0, 0, 5, 1, 0, 3)


def test_schedules():
    var = TrainConfig(steps=1, schedule="linear", warmup=0.02, warmup_start=0.005, hold=0.05, final_lr=0.1, weight_decay_end=0.08)
    assert lr_factor(var, 0, 1000) == 0.005
    assert lr_factor(var, 20, 1000) == lr_factor(var, 69, 1000) == 1
    assert lr_factor(var, 535, 1000) == pytest.approx(0.55)
    assert lr_factor(var, 1000, 1000) == pytest.approx(0.1)
    assert weight_decay(var, 0, 1000) == 0.05
    assert weight_decay(var, 1000, 1000) == 0.08
    assert lr_factor(TrainConfig(steps=1), 7, 10) == 1


def test_decay_groups():
    module = torch.nn.ModuleDict({"a": torch.nn.Linear(3, 3), "b": torch.nn.Linear(3, 3)})
    optimizer = make_optimizer(module, TrainConfig(steps=1, no_decay=("b.*",)))
    assert [(group["decays"], len(group["params"])) for group in optimizer.param_groups] == [(True, 1), (False, 3)]
    with pytest.raises(ArgenzooError, match="names no parameter"):
        make_optimizer(module, TrainConfig(steps=1, no_decay=("head.*",)))
    with pytest.raises(ArgenzooError, match="no effect with optimizer adam"):
        make_optimizer(module, TrainConfig(steps=1, optimizer="adam"))


def test_log_is_json_with_versions(tokenizer_runs: dict[str, Path]):
    first, *_, last = [json.loads(line) for line in (tokenizer_runs["kl"] / "log.jsonl").read_text().splitlines()]
    assert {"argenzoo", "torch", "recipe", "processes", "device"} <= first.keys()
    assert {"seconds", "steps", "parameters", "held_out_psnr"} <= last.keys()


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_checkpoints_recipe_trains_on(name: str, tokenizer_runs: dict[str, Path], pictures: Path, tmp_path: Path):
    """Fine-tuning from a checkpoint's own recipe measures the scale anew, at another picture size too where the weights allow it."""
    run = tokenizer_runs[tiny(name).tokenizer.name]
    overrides = {**tiny_training(tmp_path / "fine", pictures), "tokenizer.weights": str(run)}
    if "scales" not in tiny(name).tokenizer.config.model_dump():
        overrides["tokenizer.image_size"] = 32
    fine = build_tokenizer(train(load_recipe(resolve(run) / "recipe.yaml", overrides)))
    assert not torch.equal(fine.scale.factors, build_tokenizer(run).scale.factors)


def test_a_generator_trains_on_with_the_same_tokenizer(tokenizer_runs: dict[str, Path], pictures: Path, tmp_path: Path):
    """From a checkpoint's recipe.yaml, with the tokenizer beside it and with the one it came from."""
    out = train(recipe_for("fruit_raster", tokenizer_runs, tmp_path / "run", pictures))
    for i, more in enumerate(({}, {"tokenizer.weights": str(tokenizer_runs["vq"])})):
        recipe = load_recipe(resolve(out) / "recipe.yaml", {"train.out": str(tmp_path / str(i)), **more})
        build_model(train(recipe))


def test_resume_refuses_other_data(tokenizer_runs: dict[str, Path], pictures: Path, tmp_path: Path):
    out = train(recipe_for("fruit_raster", tokenizer_runs, tmp_path / "run", pictures))
    recipe = recipe_for("fruit_raster", tokenizer_runs, out, pictures, steps=5, resume=True)
    with pytest.raises(ArgenzooError, match="another data"):
        train(recipe.with_part("data", held_out=0.5))


def test_stopped_before_the_last_evaluation(
    tokenizer_runs: dict[str, Path], pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def stop(self: Trainer, step: int, saved: bool = True) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_evaluate", stop)
        with pytest.raises(KeyboardInterrupt):
            train(recipe_for("fruit_raster", tokenizer_runs, tmp_path / "run", pictures))
    assert [entry["event"] for entry in read_log(tmp_path / "run")][-1] == "stopped"
    for _ in range(2):  # the second finds nothing to do
        train(recipe_for("fruit_raster", tokenizer_runs, tmp_path / "run", pictures, resume=True))
        ends = [entry for entry in read_log(tmp_path / "run") if entry["event"] == "end"]
        assert len(ends) == 1
        assert "held_out_loss" in ends[0]
