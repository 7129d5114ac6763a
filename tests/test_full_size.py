"""The published sizes on this machine (slow): one training step and one picture each, and one picture from files in the authors' layout."""

from __future__ import annotations

from pathlib import Path

import official
import pytest
import torch
from conftest import PUBLISHED_TOKENIZERS
from official import PUBLISHED, family_of

from argenzoo.build import build_model, make_tokenizer
from argenzoo.hub import import_official
from argenzoo.recipe import load_recipe
from argenzoo.rng import Rng
from argenzoo.training.objective import TokenizerObjective

QUICK = {"mar_b": {"order.num_steps": 4, "head.num_steps": 8}, "llamagen_b_256": {}, "var_d20": {}, "var_d16": {}}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mar_b", "llamagen_b_256", "var_d20"])
def test_one_step_and_one_picture(name: str):
    torch.manual_seed(0)
    model = build_model(name).train()
    images = Rng(0, [0]).uniform(3, 256, 256) * 2 - 1
    loss = model.loss(images, torch.tensor([207]), Rng(0, [0]))
    loss.backward()
    assert loss.isfinite()
    if name == "llamagen_b_256":
        torch.testing.assert_close(loss, torch.tensor(16384.0).log())
    model.zero_grad(set_to_none=True)
    picture = model.generate([207], sampling=QUICK[name])
    assert picture.shape == (1, 3, 256, 256)
    assert picture.isfinite().all()


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED_TOKENIZERS)
def test_one_step_of_both_players(name: str):
    """Without LPIPS, whose weights may be absent."""
    torch.manual_seed(0)
    recipe = load_recipe(name, {"loss.perceptual": None, "loss.adversarial.start": 0})
    tokenizer = make_tokenizer(recipe.tokenizer)
    objective = TokenizerObjective(tokenizer, recipe.loss)
    images = Rng(0, [0]).uniform(3, 256, 256) * 2 - 1
    out = objective(images, Rng(0, [0]), step=0)
    out["loss"].backward()
    assert out["loss"].isfinite()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in tokenizer.parameters() if p.requires_grad)
    opponent = objective.losses.parts["adversarial"].opponent
    against = opponent(images, out["reconstruction"])
    against["loss"].backward()
    assert against["loss"].isfinite()
    assert all(p.grad is not None for p in opponent.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["var_d16", "llamagen_b_256", "mar_b"])
def test_official_files_of_published_size_make_a_picture(name: str, tmp_path: Path):
    kinds = zip(("generator", "tokenizer"), PUBLISHED[name], strict=True)
    files = {kind: official.saved(tmp_path / f"{kind}.pth", {"model": official.seeded(layout)}) for kind, layout in kinds}
    model = import_official(family_of(name), **files, recipe=name)
    assert not any(tensor.is_meta for tensor in [*model.parameters(), *model.buffers()])
    picture = model.generate([207], sampling=QUICK[name])
    assert picture.shape == (1, 3, 256, 256)
    assert picture.isfinite().all()
    assert picture.std() > 0.01
    image = Rng(0, [0]).uniform(3, 256, 256) * 2 - 1
    again = model.tokenizer.decode(model.tokenizer.tokens(model.tokenizer.encode(image)))
    assert again.shape == image.shape
    assert again.isfinite().all()
