"""The demo at test size: what it writes, and that it goes on where it stopped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import tiny, tiny_training
from PIL import Image

import argenzoo.demo
from argenzoo.demo import nearest
from argenzoo.errors import ArgenzooError


def test_nearest_finds_a_mirrored_copy():
    training = torch.rand(10, 3, 8, 8)
    made = torch.stack([training[4].flip(-1), training[7]])
    torch.testing.assert_close(nearest(made + 0.01, training), made)


def test_demo(tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch):
    def small(name: str | Path, overrides: dict[str, Any] | None = None):
        if not isinstance(name, str):
            return original(name)
        return tiny(name, {**tiny_training(tmp_path / "unused", pictures), **(overrides or {})})

    original = argenzoo.demo.load_recipe
    monkeypatch.setattr(argenzoo.demo, "load_recipe", small)
    said: list[str] = []
    table = argenzoo.demo.demo(tmp_path / "demo", say=said.append)
    assert [line.split(":")[0] for line in said] == ["fruit_vq", "fruit_msvq", "fruit_kl", "fruit_raster", "fruit_var", "fruit_mar"]
    for cell in ("raster + cross_entropy", "var + cross_entropy", "mar + diffusion"):
        assert cell in table
    picture = Image.open(tmp_path / "demo" / "comparison.png")
    assert picture.text["argenzoo"]
    assert picture.size == (92 + 2 * (2 * 16 + 2), 28 + 3 * (18 + 4 * (2 * 16 + 2)))
    cells = json.loads((tmp_path / "demo" / "comparison.json").read_text())["cells"]
    assert set(cells) == {"fruit_raster", "fruit_var", "fruit_mar"}
    assert cells["fruit_mar"]["accuracy"] == "-"

    said.clear()
    assert argenzoo.demo.demo(tmp_path / "demo", say=said.append).count("|") == table.count("|")
    assert all(line.endswith("trained already") for line in said)

    monkeypatch.setattr(argenzoo.demo, "load_recipe", lambda name, overrides=None: small(name, {**(overrides or {}), "tokenizer.dim": 4}))
    with pytest.raises(ArgenzooError, match="earlier version of recipe 'fruit_vq'"):
        argenzoo.demo.demo(tmp_path / "demo")
