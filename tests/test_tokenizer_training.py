"""Tokenizers train: against a discriminator, with codes that come back to life, from weights that are there, or the decoder alone."""

from __future__ import annotations

import shutil
from pathlib import Path
from statistics import mean
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import TOKENIZERS, losses, recipe_for, tiny
from safetensors.torch import load_file
from test_processes import launch
from test_resume import STEPS, Killed, same_weights

from argenzoo import registry
from argenzoo.build import build_tokenizer, make_tokenizer
from argenzoo.checkpoint import MODEL, best_of, resolve
from argenzoo.errors import ArgenzooError
from argenzoo.recipe import Recipe, load_recipe
from argenzoo.registry import Config as PartConfig
from argenzoo.registry import losses as losses_registry
from argenzoo.rng import Rng
from argenzoo.training.logs import read_log
from argenzoo.training.objective import TokenizerObjective
from argenzoo.training.state import without_files
from argenzoo.training.tokenizer_task import TokenizerTask
from argenzoo.training.trainer import Trainer, train

AGAINST = {"weight": 0.5, "start": 2, "dim": 8, "layers": 1, "lr": 1e-3, "betas": [0.5, 0.9]}
DECODER = ["*.decoder.*", "*.post_quant_conv.*"]


def adversarial(name: str, out: Path, data: Path, against: dict[str, Any] | None = None, **settings: Any) -> Recipe:
    overrides: dict[str, Any] = {"loss.adversarial": {**AGAINST, **(against or {})}}
    if "kl" not in name:
        overrides |= {"codebook": {"restart": 2}}
    return recipe_for(name, {}, out, data, overrides=overrides, **settings)


def killed_and_resumed(recipe: Any, at: int, monkeypatch: pytest.MonkeyPatch) -> Path:
    step = Trainer._step

    def stopping(self: Trainer, number: int, stream: object):
        if number + 1 == at:
            raise Killed
        return step(self, number, stream)

    monkeypatch.setattr(Trainer, "_step", stopping)
    with pytest.raises(Killed):
        train(recipe)
    monkeypatch.setattr(Trainer, "_step", step)
    torch.manual_seed(at)
    return train(recipe)


@pytest.mark.parametrize("against", [{"norm": "batch"}, {"norm": "group", "adaptive": True, "lecam": 0.1, "kind": "non_saturating"}])
@pytest.mark.parametrize("name", TOKENIZERS)
def test_two_players_go_on_bit_for_bit(name: str, against: dict, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Killed in step 6, resumed from step 3: between two restarts of dead codes, the discriminator in the middle of its training."""

    def recipe(out: Path, **settings: bool) -> Recipe:
        return adversarial(name, out, pictures, against, steps=STEPS, save_every=3, schedule="cosine", accumulate=2, **settings)

    whole = train(recipe(tmp_path / "whole"))
    half = killed_and_resumed(recipe(tmp_path / "half", resume=True), 6, monkeypatch)
    logs = [{entry["step"]: entry for entry in read_log(run) if entry["event"] == "train"} for run in (whole, half)]
    for key in ("loss", "adversarial", "discriminator_loss", "discriminator_grad_norm", "codebook_usage", "codebook_window"):
        assert [entry.get(key) for entry in logs[0].values()] == [entry.get(key) for entry in logs[1].values()], key
    same_weights(half, whole)
    states = [torch.load(resolve(run) / "state" / "run.pt", weights_only=True) for run in (half, whole)]
    torch.testing.assert_close(states[0], states[1], rtol=0, atol=0)
    discriminators = [load_file(resolve(run) / "state" / "discriminator.safetensors") for run in (half, whole)]
    torch.testing.assert_close(*discriminators, rtol=0, atol=0)


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("name", TOKENIZERS)
def test_the_gradient_is_that_of_the_weighted_sum(name: str, adaptive: bool):
    """Differentiated at the pixels first, as one graph afterwards: the same gradient in every parameter, VQGAN's adaptive weight too."""
    recipe = tiny(name, {"loss.adversarial": {**AGAINST, "start": 0, "norm": "group", "adaptive": adaptive}})
    torch.manual_seed(0)
    objective = TokenizerObjective(make_tokenizer(recipe.tokenizer), recipe.loss)
    tokenizer, part = objective.tokenizer, objective.losses.parts["adversarial"]
    pictures = Rng(0, range(4)).uniform(3, 16, 16) * 2 - 1
    out = objective(pictures, Rng(1, range(4)), step=0)
    ours = torch.autograd.grad(out["loss"], [p for p in tokenizer.parameters() if p.requires_grad])

    made = tokenizer.reconstruct(pictures, Rng(1, range(4)))
    own = sum(weight * made.terms[term]() for term, weight in recipe.loss.items() if term in made.terms)
    others, adversarial = recipe.loss["l2"] * F.mse_loss(made.pictures, pictures), part(made.pictures, pictures)
    norms = [torch.autograd.grad(loss, tokenizer.last_layer, retain_graph=True)[0].norm() for loss in (others, adversarial)]
    factor = (norms[0] / norms[1]).detach() if adaptive else 1.0
    total = own + others + 0.5 * factor * adversarial
    theirs = torch.autograd.grad(total, [p for p in tokenizer.parameters() if p.requires_grad])
    torch.testing.assert_close(out["loss"], total, rtol=1e-4, atol=1e-5)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=2e-3, atol=1e-5)
    if adaptive:
        torch.testing.assert_close(out["adversarial_factor"], factor, rtol=1e-3, atol=1e-5)
    assert all(p.grad is None for p in part.opponent.parameters())


def test_the_discriminator_sets_in_at_its_step_and_learns(pictures: Path, tmp_path: Path):
    against = {"adaptive": True, "weight": 1e-3, "dim": 64, "lr": 3e-4}
    settings = {"steps": 60, "batch_size": 8, "lr": 1e-4, "schedule": "constant", "save_every": 1, "eval_every": 1, "keep": None}
    out = train(adversarial("fruit_vq", tmp_path / "run", pictures, against, **settings))
    log = [entry for entry in read_log(out) if entry["event"] == "train"]
    assert ["discriminator_loss" in entry for entry in log] == ["adversarial" in entry for entry in log] == [False] * 2 + [True] * 58
    assert all(0 <= entry["adversarial_factor"] < 1e4 for entry in log[2:])
    right = [entry["discriminator_accuracy"] for entry in log[2:]]
    assert mean(right[-20:]) > max(0.7, mean(right[:10]))
    held_out = next(entry for entry in read_log(out) if entry["event"] == "held_out")
    assert "held_out_adversarial" not in held_out  # a moving measure
    assert best_of(out) > 2  # of those that both players made


def test_an_opponent_that_never_plays_is_said(pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    train(adversarial("fruit_vq", tmp_path / "run", pictures, {"start": 50}, steps=3))
    assert "the discriminator would begin at step 50, the run ends at 3" in capsys.readouterr().err


@pytest.mark.parametrize("name", TOKENIZERS)
def test_adversarial_alone_reaches_the_decoder(name: str):
    recipe = tiny(name, {"loss": {"adversarial": {**AGAINST, "start": 0}}})
    objective = TokenizerObjective(make_tokenizer(recipe.tokenizer), recipe.loss)
    objective(Rng(0, range(4)).uniform(3, 16, 16) * 2 - 1, Rng(1, range(4)), step=0)["loss"].backward()
    assert objective.tokenizer.last_layer.grad.abs().sum() > 0


def test_a_step_that_is_skipped_touches_no_code(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A batch that is not finite in the very step of a restart: the codebook stays, and the run goes on."""
    forward = TokenizerObjective.forward

    def broken(self: TokenizerObjective, images: torch.Tensor, rng: Any = None, step: int | None = None) -> dict[str, torch.Tensor]:
        return forward(self, images * float("nan") if step == 1 else images, rng, step)

    monkeypatch.setattr(TokenizerObjective, "forward", broken)
    overrides = {"loss.adversarial": {**AGAINST, "start": 0, "lecam": 0.1}, "codebook": {"restart": 2}}
    run = train(recipe_for("fruit_vq", {}, tmp_path / "run", pictures, steps=6, overrides=overrides))
    skipped = [entry["skipped"] for entry in read_log(run) if entry["event"] == "train"]
    assert skipped == [0, 1, 1, 1, 1, 1]
    assert all(tensor.isfinite().all() for tensor in load_file(resolve(run) / MODEL).values())


def test_two_processes_go_on_where_two_stopped(pictures: Path, tmp_path: Path):
    """Adversarial, restarts, half precision; killed between two checkpoints' windows: the same losses, usage and codes."""
    for name in ("whole", "half"):
        overrides = {"loss.adversarial": {**AGAINST, "adaptive": True, "lecam": 0.1}, "codebook": {"restart": 4}}
        made = recipe_for(
            "fruit_msvq", {}, tmp_path / name, pictures, steps=6, save_every=3, log_every=2, precision="bf16", overrides=overrides
        )
        (tmp_path / f"{name}.yaml").write_text(made.yaml())
    launch(2, [tmp_path / "whole.yaml", tmp_path / "half.yaml"])
    shutil.rmtree(tmp_path / "half" / "step_0000006")
    (tmp_path / "half.yaml").write_text(load_recipe(tmp_path / "half.yaml", {"train.resume": True}).yaml())
    launch(2, [tmp_path / "half.yaml"])
    logs = [{entry["step"]: entry for entry in read_log(tmp_path / name) if entry["event"] == "train"} for name in ("whole", "half")]
    for key in ("loss", "discriminator_loss", "codebook_usage", "codebook_perplexity", "codebook_window"):
        assert [logs[0][step][key] for step in (4, 6)] == [logs[1][step][key] for step in (4, 6)], key
    assert logs[0][6]["codebook_window"] == 2 * 4 * 21  # of both processes
    same_weights(tmp_path / "half", tmp_path / "whole")


def test_accumulation_changes_nothing(pictures: Path, tmp_path: Path):
    """Every picture weighs the same for both players, where no norm mixes them."""
    runs = [
        train(
            recipe_for(
                "fruit_vq", {}, tmp_path / str(pieces), pictures, steps=6, batch_size=8, accumulate=pieces,
                overrides={"loss.adversarial": {**AGAINST, "norm": "group"}, "loss.entropy": None},
            )
        )
        for pieces in (1, 2)
    ]  # fmt: skip
    for key in ("loss", "discriminator_loss"):
        values = [[entry[key] for entry in read_log(run) if entry["event"] == "train" and entry["step"] > 2] for run in runs]
        assert values[0] == pytest.approx(values[1], abs=1e-4), key


@pytest.mark.parametrize("name", [name for name in TOKENIZERS if "kl" not in name])
def test_dead_codes_come_back(name: str, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A codebook of which one code is near the data: with restarts most are used, without, few."""
    built = TokenizerTask.__init__

    def collapsed(self: TokenizerTask, *arguments: Any) -> None:
        built(self, *arguments)
        with torch.no_grad():
            self.tokenizer.codebook.weight[1:] = -20 * torch.ones(8) if name == "fruit_msvq" else self.tokenizer.codebook.weight[:1]

    monkeypatch.setattr(TokenizerTask, "__init__", collapsed)
    used = {}
    for restart in (None, 2):
        overrides = {"codebook": {"restart": restart}, "loss.entropy": None}
        run = train(recipe_for(name, {}, tmp_path / str(restart), pictures, steps=12, batch_size=8, ema=None, overrides=overrides))
        used[restart] = [entry["codebook_usage"] for entry in read_log(run) if entry["event"] == "train"][-1]
    assert used[None] <= 0.2
    assert used[2] >= 0.5


def test_revived_codes_reach_the_averaged_weights_and_lose_their_moments(pictures: Path, tmp_path: Path):
    run = train(recipe_for("fruit_vq", {}, tmp_path / "run", pictures, steps=2, save_every=2, overrides={"codebook": {"restart": 2}}))
    state = torch.load(resolve(run) / "state" / "run.pt", weights_only=True)
    assert state["task"]["idle"].sum() == 0
    raw, averaged = (load_file(resolve(run) / file)["codebook.weight"] for file in (MODEL, "ema.safetensors"))
    same = (raw == averaged).all(dim=1)
    moments = [
        value for values in state["optimizers"]["tokenizer"]["state"].values() for value in values.values() if value.shape == raw.shape
    ]
    assert same.any()
    assert all(not moment[same].any() for moment in moments)


@pytest.mark.parametrize("start", ["data", "kmeans"])
@pytest.mark.parametrize("name", [name for name in TOKENIZERS if "kl" not in name])
def test_codes_from_the_data(name: str, start: str, pictures: Path, tmp_path: Path):
    """Before the first step the codes lie where the vectors are, nearer than random ones."""
    recipes = [
        recipe_for(name, {}, tmp_path / how, pictures, steps=1, lr=1e-9, overrides={"codebook": {"start": how}, "loss.entropy": None})
        for how in ("random", start)
    ]
    distances = [next(entry["codebook"] for entry in read_log(train(recipe)) if entry["event"] == "train") for recipe in recipes]
    assert distances[1] < distances[0]


@pytest.mark.parametrize("name", TOKENIZERS)
def test_the_decoder_alone(name: str, tokenizer_runs: dict[str, Path], pictures: Path, tmp_path: Path):
    """What was encoded before stays valid: encoder, codebook and latent scale are as they were."""
    base = tokenizer_runs[tiny(name).tokenizer.name]
    settings = {"steps": 3, "lr": 1e-2, "only": DECODER, "ema": None}
    run = train(recipe_for(name, {}, tmp_path / "run", pictures, overrides={"tokenizer.weights": str(base)}, **settings))
    before, after = (load_file(resolve(path) / MODEL) for path in (base, run))
    averaged = load_file(resolve(base) / "ema.safetensors")  # what a fine-tuning starts from
    changed = {key for key in after if not torch.equal(averaged[key], after[key])}
    assert before.keys() == after.keys()
    assert changed
    assert all(key.startswith(("autoencoder.decoder.", "autoencoder.post_quant_conv.")) for key in changed)
    assert build_tokenizer(run).config.image_size == 16


@pytest.mark.parametrize("name", TOKENIZERS)
def test_fine_tuning_starts_where_the_weights_are(name: str, tokenizer_runs: dict[str, Path], pictures: Path, tmp_path: Path):
    base = tokenizer_runs[tiny(name).tokenizer.name]
    overrides = {"tokenizer.weights": str(base)}
    run = train(recipe_for(name, {}, tmp_path / "run", pictures, steps=1, lr=1e-9, overrides=overrides))
    tuned, start = load_file(resolve(run) / MODEL), load_file(resolve(base) / "ema.safetensors")
    torch.testing.assert_close({k: v for k, v in tuned.items() if "scale" not in k}, {k: v for k, v in start.items() if "scale" not in k})
    assert load_recipe(resolve(run) / "recipe.yaml").tokenizer.weights is None  # its own are beside it
    assert losses(run)


class Contrast(torch.nn.Module):
    """Somebody's own loss."""

    class Config(PartConfig):
        weight: float = 1.0
        power: int = 2

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config

    def forward(self, reconstruction: torch.Tensor, pictures: torch.Tensor) -> torch.Tensor:
        return (reconstruction.std() - pictures.std()).abs() ** self.config.power


def test_a_registered_loss_trains(pictures: Path, tmp_path: Path):
    registry.losses.register("contrast")(Contrast)
    try:
        run = train(recipe_for("fruit_kl", {}, tmp_path / "run", pictures, overrides={"loss.contrast": {"weight": 0.5, "power": 1}}))
        assert all(entry["contrast"] > 0 for entry in read_log(run) if entry["event"] == "train")
        assert load_recipe(resolve(run) / "recipe.yaml").loss["contrast"].power == 1
        with pytest.raises(ArgenzooError, match=r"unknown key 'loss.contrast.pwer'; did you mean 'power'"):
            tiny("fruit_kl", {"loss.contrast": {"pwer": 1}})
    finally:
        del registry.losses._parts["contrast"]


MISTAKES: list[tuple[str, dict[str, Any], str]] = [
    ("fruit_kl", {"codebook": {"restart": 5}}, "codebook section has no effect: tokenizer 'kl' has no codebook"),
    ("fruit_vq", {"codebook": {"restart": 0}}, "codebook.restart.*greater than or equal to 1"),
    ("fruit_vq", {"codebook": {"restart": 5}, "train.only": ["*.decoder.*"]}, "codes that train.only keeps"),
    (
        "fruit_vq",
        {"train.only": ["*.encoder.*"], "loss.adversarial": {**AGAINST, "adaptive": True}},
        "which train.only keeps: set it to false",
    ),
    ("fruit_vq", {"train.only": ["*.decodr.*"]}, "train.only '\\*.decodr.\\*' names no parameter"),
    ("fruit_vq", {"loss.perceptual": {"weihgt": 1}}, "unknown key 'loss.perceptual.weihgt'; did you mean 'weight'"),
    ("fruit_vq", {"loss.adversarial": {"kind": "wasserstein"}}, "loss.adversarial.kind"),
    ("fruit_vq", {"loss.adversarial": "yes"}, "loss.adversarial.weight"),
    ("fruit_vq", {"loss.l2": "much"}, "loss.l2: expected a weight"),
    ("fruit_vq", {"loss.kl": 1.0}, "unknown term 'loss.kl' for this tokenizer"),
]


@pytest.mark.parametrize(("name", "overrides", "message"), MISTAKES)
def test_settings_that_can_not_be(name: str, overrides: dict[str, Any], message: str, pictures: Path, tmp_path: Path):
    with pytest.raises(ArgenzooError, match=message):
        train(recipe_for(name, {}, tmp_path / "run", pictures, overrides=overrides))


def test_a_generators_recipe_has_no_tokenizer_losses():
    for section in ({"loss": {"l2": 1.0}}, {"codebook": {"restart": 2}}):
        with pytest.raises(ArgenzooError, match="a generator's recipe has no"):
            tiny("fruit_var", section)


def test_a_run_goes_on_with_its_networks_elsewhere(pictures: Path, tmp_path: Path):
    """The same loss from another file is the same run; another weight is not."""
    train(adversarial("fruit_vq", tmp_path / "run", pictures, steps=2, save_every=2))
    recipe = adversarial("fruit_vq", tmp_path / "run", pictures, steps=3, resume=True)
    perceptual = {"perceptual": losses_registry.get("perceptual").Config(weights="a")}
    other = {"perceptual": losses_registry.get("perceptual").Config(weights="b")}
    assert without_files({**recipe.loss, **perceptual}) == without_files({**recipe.loss, **other})
    train(recipe)
    with pytest.raises(ArgenzooError, match="another loss section"):
        train(adversarial("fruit_vq", tmp_path / "run", pictures, {"weight": 0.7}, steps=4, resume=True))


def test_a_start_that_would_overwrite_weights(tokenizer_runs: dict[str, Path], pictures: Path, tmp_path: Path):
    overrides = {"tokenizer.weights": str(tokenizer_runs["vq"]), "codebook": {"start": "kmeans"}}
    with pytest.raises(ArgenzooError, match=r"would overwrite the codes of tokenizer.weights"):
        train(recipe_for("fruit_vq", {}, tmp_path / "run", pictures, overrides=overrides))


def test_usage_is_logged_scale_by_scale(pictures: Path, tmp_path: Path):
    run = train(recipe_for("fruit_msvq", {}, tmp_path / "run", pictures, steps=4, log_every=2))
    entries = [entry for entry in read_log(run) if entry["event"] == "train"]
    assert [entry["codebook_window"] for entry in entries] == [2 * 4 * 21] * 2
    for k, side in enumerate((1, 2, 4)):
        assert 0 < entries[0][f"codebook_usage/scale_{k}_{side}x{side}"] <= 1
    assert "codebook usage" in (run / "summary.md").read_text()
