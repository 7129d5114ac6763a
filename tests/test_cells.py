"""What must hold in all six cells, and in every cell that is added as a fruit_ recipe."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import CELLS, tiny, tiny_model

from argenzoo.build import assemble, build_model, make_tokenizer
from argenzoo.checkpoint import MODEL, RECIPE, TOKENIZER
from argenzoo.heads.schedule import noise_schedule
from argenzoo.model import ARModel
from argenzoo.rng import Rng
from argenzoo.weights import load_strict, save_weights, sha256


def images(batch: int = 4, seed: int = 0) -> torch.Tensor:
    return torch.rand(batch, 3, 16, 16, generator=torch.Generator().manual_seed(seed)) * 2 - 1


LABELS = torch.tensor([0, 1, 1, 0])


def test_six_cells():
    pairs = {(tiny(name).generator.name, tiny(name).head.name) for name in CELLS}
    assert pairs >= {(generator, head) for generator in ("raster", "var", "mar") for head in ("cross_entropy", "diffusion")}


TEXT = {"conditioner": {"name": "text_features", "feature_dim": 12, "num_tokens": 3, "dropout": 0.5}}
VARIANTS = [
    *((name, {"conditioner.dropout": 0.5}) for name in CELLS),
    *((name, TEXT) for name in CELLS),
    *((name, {"generator.order": "random"}) for name in CELLS if "raster" in name),
    *((name, {"generator.shared_adaln": True, "generator.qk_norm": False}) for name in CELLS if "var" in name),
]


@pytest.mark.parametrize(("name", "overrides"), VARIANTS)
def test_every_parameter_learns(name: str, overrides: dict):
    model = tiny_model(name, overrides).train()
    condition = (Rng(0, range(4)).normal(3, 12), torch.ones(4, 3)) if overrides is TEXT else LABELS
    for step in range(4):  # one draw of MAR's mask may hide everything
        model.loss(images(), condition, Rng(0, range(4), step=step)).backward()
    silent = [key for key, parameter in model.network.named_parameters() if parameter.grad is None or not parameter.grad.abs().sum()]
    assert not silent, f"no gradient for {silent}"
    assert not any(parameter.requires_grad for parameter in model.tokenizer.parameters())


@pytest.mark.parametrize("name", CELLS)
def test_loss_falls_on_one_batch(name: str):
    torch.manual_seed(0)
    recipe = tiny(name)
    model = assemble(recipe, make_tokenizer(recipe.tokenizer)).train()
    optimizer = torch.optim.Adam(model.network.parameters(), lr=1e-2)
    losses = []
    for _ in range(30):
        loss = model.loss(images(), LABELS, Rng(0, range(4)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0], losses


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_sample_depends_on_seed_and_index_alone(name: str, guidance: float):
    model = tiny_model(name)
    together = model.generate(LABELS, guidance, seed=3)
    assert together.shape == (4, 3, 16, 16)
    assert 0 <= together.min() <= together.max() <= 1
    alone = model.generate(LABELS[2:3], guidance, seed=3, indices=[2])
    torch.testing.assert_close(alone, together[2:3], atol=1e-4, rtol=0)
    assert not torch.allclose(alone, model.generate(LABELS[2:3], guidance, seed=4, indices=[2]), atol=1e-3)
    assert not model.training


@pytest.mark.parametrize("name", CELLS)
def test_what_is_sampled_may_be_trained_on(name: str):
    """Sampling runs in inference mode, whose tensors no gradient may pass through: what comes out must be others."""
    model = tiny_model(name)
    made = [model.generate([0, 1], guidance=2.0), model.sample_tokens(torch.tensor([0, 1]), Rng(0, range(2)), model.sampling)]
    assert not any(tensor.is_inference() or tensor.requires_grad for tensor in made)
    model.network(model.context(made[1]), made[1], torch.tensor([0, 1]), Rng(0, range(2)))["loss"].backward()
    assert any(parameter.grad is not None for parameter in model.network.parameters())


@pytest.mark.parametrize("name", CELLS)
def test_guidance_can_differ_by_sample(name: str):
    model = tiny_model(name)
    mixed = model.generate(LABELS, torch.tensor([1.0, 2.0, 3.0, 2.0]))
    for i, scale in ((1, 2.0), (2, 3.0)):
        torch.testing.assert_close(mixed[i : i + 1], model.generate(LABELS[i : i + 1], scale, indices=[i]), atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", CELLS)
def test_evaluation_figures(name: str):
    model = tiny_model(name)
    tokens = model.tokenizer.tokens(model.tokenizer.encode(images()))
    figures = model.network(model.tokenizer.context(tokens), tokens, LABELS, Rng(0, range(4)))
    mask = figures["mask"]
    torch.testing.assert_close((figures["token_loss"] * mask).sum() / mask.sum(), figures["loss"])
    again = model.network(model.tokenizer.context(tokens), tokens, LABELS, Rng(0, range(4)))
    torch.testing.assert_close(again["loss"], figures["loss"], rtol=0, atol=0)  # fixed draws, no label drop


@pytest.mark.parametrize("name", CELLS)
def test_editing_keeps_what_is_known(name: str):
    model = tiny_model(name)
    tokens = model.tokenizer.tokens(model.tokenizer.encode(images(2)))
    known = Rng(1, range(2)).permutation(tokens.shape[1]) < 7
    made = model.sample_tokens(LABELS[:2], Rng(0, range(2)), model.sampling, known=known, given=tokens)
    assert torch.equal(made[known], tokens[known])
    assert not torch.equal(made[~known], tokens[~known])


def save_folder(model: ARModel, folder: Path) -> Path:
    """A checkpoint without a training run."""
    save_weights(folder / MODEL, model.network.state_dict(), {})
    save_weights(folder / TOKENIZER, model.tokenizer.state_dict(), {})
    dump = model.recipe.yaml().replace("tokenizer:\n", f"tokenizer:\n  sha256: {sha256(folder / TOKENIZER)}\n  weights: {TOKENIZER}\n", 1)
    (folder / RECIPE).write_text(dump)
    return folder


@pytest.mark.parametrize("name", CELLS)
def test_save_and_load(name: str, tmp_path: Path):
    model = tiny_model(name)
    loaded = build_model(save_folder(model, tmp_path))
    torch.testing.assert_close(loaded.generate([0, 1], 2.0), model.generate([0, 1], 2.0), rtol=0, atol=0)


@pytest.mark.parametrize("name", CELLS)
def test_nothing_is_left_on_the_meta_device(name: str):
    source = tiny_model(name)
    with torch.device("meta"):
        model = assemble(source.recipe, make_tokenizer(source.recipe.tokenizer))
    load_strict(model.tokenizer, source.tokenizer.state_dict(), "tokenizer")
    load_strict(model.network, source.network.state_dict(), "network")
    left = [key for key, tensor in [*model.named_parameters(), *model.named_buffers()] if tensor.is_meta]
    assert not left
    torch.testing.assert_close(model.generate([1], 2.0), source.generate([1], 2.0), rtol=0, atol=0)


def test_a_table_made_while_sampling_may_be_trained_with():
    noise_schedule.cache_clear()
    with torch.inference_mode():
        table = noise_schedule(10).log_beta
    assert not table.is_inference()


@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")
def test_autocast_casts_a_weight_once():
    """Not in every step: a step that reads bfloat16 would take longer than one that reads float32."""
    model = tiny_model("fruit_raster")
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.profiler.profile(record_shapes=True) as profile:
        model.generate([0, 1], guidance=2.0)
    shape = list(model.generator.blocks[0].ffn.w2.weight.shape)
    casts = [event for event in profile.events() if event.name == "aten::_to_copy" and event.input_shapes[0] == shape]
    assert len(casts) == len(model.generator.blocks)


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")
def test_sampling_under_autocast(name: str):
    model = tiny_model(name)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        pictures = model.generate([0, 1])
    assert pictures.dtype == torch.float32
    assert pictures.isfinite().all()
    assert (pictures - model.generate([0, 1])).abs().mean() < 0.1
