"""Every pairing that can't work raises at construction and says what would."""

from __future__ import annotations

import pytest
from conftest import tiny

from argenzoo.build import build_model
from argenzoo.errors import ArgenzooError
from argenzoo.registry import generators, heads

REMEDIES = {
    ("single grid", "var"): "use tokenizer.name=multiscale_vq",
    ("pyramid", "raster"): "use generator.name=var",
    ("pyramid", "mar"): "use generator.name=var",
    ("ids", "diffusion"): "set tokenizer.quantize=false",
    ("ids", "flow"): "set tokenizer.quantize=false",
    ("vectors", "cross_entropy"): "use head.name=diffusion",
}
SPACES = {
    ("vq", True): ("single grid", "ids"),
    ("vq", False): ("single grid", "vectors"),
    ("multiscale_vq", True): ("pyramid", "ids"),
    ("multiscale_vq", False): ("pyramid", "vectors"),
    ("kl", None): ("single grid", "vectors"),
}
BASE = {"vq": "fruit_vq", "multiscale_vq": "fruit_msvq", "kl": "fruit_kl"}


@pytest.mark.parametrize("head", heads.names())
@pytest.mark.parametrize("generator", generators.names())
@pytest.mark.parametrize(("tokenizer", "quantize"), SPACES)
def test_pairing(tokenizer: str, quantize: bool | None, generator: str, head: str):
    """The whole matrix: it builds, or it raises the remedy."""
    overrides = {
        "conditioner": {"name": "class_labels", "num_classes": 2},
        "generator": {"name": generator, "dim": 32, "num_heads": 2, "depth": 2},
        "head": {"name": head},
        "loss": None,  # the tokenizer's, which is frozen
        **({} if quantize is None else {"tokenizer.quantize": quantize}),
    }
    recipe = tiny(BASE[tokenizer], overrides)
    layout, kind = SPACES[tokenizer, quantize]
    remedies = [REMEDIES[key] for key in ((layout, generator), (kind, head)) if key in REMEDIES]
    if not remedies:
        assert build_model(recipe).generate([0, 1], sampling={"head.num_steps": 4} if kind == "vectors" else None).shape == (2, 3, 16, 16)
        return
    with pytest.raises(ArgenzooError) as caught:
        build_model(recipe)
    assert any(remedy in str(caught.value) for remedy in remedies)
