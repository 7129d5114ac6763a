"""The published sizes on this machine: one training step and one picture each (slow), and the layouts that only the meta device holds."""

from __future__ import annotations

import pytest
import torch

from argenzoo.build import build_model, make_tokenizer
from argenzoo.recipe import load_recipe
from argenzoo.rng import Rng

QUICK = {"mar_b": {"order.num_steps": 4, "head.num_steps": 8}, "llamagen_b_256": {}, "var_d20": {}}


@pytest.mark.slow
@pytest.mark.parametrize("name", QUICK)
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


def test_vq8():
    with torch.device("meta"):
        tokenizer = make_tokenizer(load_recipe("llamagen_b_256", {"tokenizer.multipliers": [1, 2, 2, 4]}).tokenizer)
    assert tokenizer.space.scales == ((32, 32),)
    assert sum(p.numel() for p in tokenizer.parameters()) / 1e6 == pytest.approx(70, abs=3)
