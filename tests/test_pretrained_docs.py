"""docs/pretrained.md says what the recipes say."""

from __future__ import annotations

from pathlib import Path

import pytest

from argenzoo import list_models
from argenzoo.recipe import load_recipe
from argenzoo.summary import parameters_by_part

DOC = Path(__file__).parents[1] / "docs" / "pretrained.md"
ROWS = [line.split("|")[1:-1] for line in DOC.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
TABLE = {cells[0].strip(" `"): [cell.strip() for cell in cells] for cells in ROWS if len(cells) == 10}
RAMPS = {"constant": "", "step": " by step", "revealed": " by revealed tokens"}


def test_no_row_is_stale():
    assert sorted(TABLE) == list_models(pretrained=True)


@pytest.mark.parametrize("name", list_models(pretrained=True))
def test_every_published_model_has_its_row(name: str):
    recipe = load_recipe(name)
    _, network, pixels, *_, setting, command, file = TABLE[name]
    counts = parameters_by_part(recipe)
    assert network == f"{(counts['total'] - counts['tokenizer']) / 1e6:,.0f}M"
    assert int(pixels) == recipe.tokenizer.config.image_size
    guidance, head = recipe.sampling.guidance, recipe.sampling.head
    assert setting.split(", ")[0] == f"guidance {guidance.guidance:g}{RAMPS[guidance.ramp]}"
    for word, value in {"top-k": getattr(head, "top_k", None), "top-p": getattr(head, "top_p", None)}.items():
        assert (f"{word} {value}" in setting) is (value is not None)
    for steps in (getattr(recipe.sampling.order, "num_steps", None), getattr(head, "num_steps", None)):
        assert steps is None or f"{steps} " in setting
    assert f"argenzoo sample {name}" in command or recipe.conditioner.name == "text_features"
    published = recipe.pretrained.generator
    assert file == f"`{published.repo}/{published.file}`" + (" *" if published.sha256 else "")
    assert recipe.pretrained.license == "mit"


def test_published_settings():
    """The papers': guidance at the end of the ramp, steps, filters."""
    for depth in (16, 20, 24, 30, 36):
        sampling = load_recipe(f"var_d{depth}").sampling.dump()
        assert (sampling["guidance"], sampling["ramp"], sampling["head"]) == (
            2.5,
            "step",
            {"temperature": None, "top_k": 900, "top_p": 0.96},
        )
    for name, guidance in {"mar_b": 2.9, "mar_l": 3.0, "mar_h": 3.2}.items():
        sampling = load_recipe(name).sampling.dump()
        assert (sampling["guidance"], sampling["ramp"], sampling["order"]["num_steps"]) == (guidance, "revealed", 256)
        assert (sampling["head"]["num_steps"], sampling["head"]["temperature"], sampling["head"]["clip"]) == (100, 1.0, None)
    for name, guidance in {"b": 2.0, "l": 2.0, "xl": 1.75, "xxl": 1.75, "3b": 1.65}.items():
        sampling = load_recipe(f"llamagen_{name}_384").sampling.dump()
        assert (sampling["guidance"], sampling["ramp"], sampling["interval"]) == (guidance, "constant", None)
        assert set(sampling["head"].values()) == {None}
