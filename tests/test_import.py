"""The authors' files become models of the zoo: every published size, every wrapping, and clear words for what is wrong."""

from __future__ import annotations

import argparse
import io
import json
import os
import pickle
import shutil
import warnings
from pathlib import Path
from typing import Any

import golden_cases as cases
import official
import pytest
import torch
from conftest import PUBLISHED_TOKENIZERS
from official import PUBLISHED, SCALES, TOLD, family_of, saved, state
from safetensors.torch import save_file

from argenzoo import ArgenzooError, build_model, build_tokenizer, list_models
from argenzoo.build import make_tokenizer
from argenzoo.cli import main
from argenzoo.hub import import_official
from argenzoo.hub.official.importing import fill_tokenizer
from argenzoo.hub.official.reading import Weights
from argenzoo.recipe import load_recipe


@pytest.mark.parametrize(
    ("case", "prefix", "layout"),
    [
        ("llamagen_vq", "", lambda c: official.vq(c["ch"], c["ch_mult"], c["z_channels"], c["codebook_size"], c["codebook_embed_dim"])),
        ("llamagen_c2i", "", lambda c: official.llamagen(c["dim"], c["n_layer"], c["vocab_size"], c["num_classes"])),
        ("llamagen_t2i", "", lambda c: official.llamagen(c["dim"], c["n_layer"], c["vocab_size"], text=(120, c["caption_dim"]))),
        ("var", "vae.", lambda c: official.var_tokenizer(c["ch"], c["ch_mult"], c["vocab_size"], c["z_channels"])),
        ("var", "var.", lambda c: official.var(c["depth"], c["patch_nums"], False, c["vocab_size"], c["z_channels"], c["num_classes"])),
        ("var_shared_adaln", "var.", lambda c: official.var(c["depth"], c["patch_nums"], True, c["vocab_size"], 8, c["num_classes"])),
        ("mar", "", lambda c: official.mar(c["embed_dim"], c["depth"], 64, 2, 16, c["vae_embed_dim"], c["buffer_size"], 10)),
        ("mar_kl", "", lambda c: official.kl(c["ch"], c["ch_mult"], c["embed_dim"])),
    ],
)
def test_the_rules_for_official_layouts_give_the_golden_ones(case: str, prefix: str, layout: Any):
    golden = json.loads((cases.FOLDER / f"{case}.json").read_text())
    expected = {key.removeprefix(prefix): shape for key, shape in golden["layout"].items() if key.startswith(prefix)}
    assert layout(golden["config"]) == expected


def test_every_published_model_is_here():
    assert sorted(PUBLISHED) == list_models(pretrained=True)


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_published_size_imports_on_the_meta_device(name: str):
    generator, tokenizer = (official.meta(layout) for layout in PUBLISHED[name])
    model = import_official(family_of(name), generator, tokenizer, recipe=name)
    assert model.recipe == load_recipe(name)
    assert all(parameter.is_meta for parameter in model.parameters())
    assert sum(tensor.numel() for tensor in model.network.state_dict().values()) == sum(tensor.numel() for tensor in generator.values())
    unmade = {key for key, buffer in model.named_buffers() if buffer.is_meta}
    assert unmade <= {"network.conditioner.null_features"}  # tables are real even so; this one is in the file


@pytest.mark.parametrize(
    "name", [name for name in PUBLISHED if name.startswith(("var", "mar")) or (name.startswith("llamagen_x") and "t2i" not in name)]
)
def test_the_recipe_is_found_by_the_shapes_alone(name: str):
    assert import_official(family_of(name), official.meta(PUBLISHED[name][0])).recipe.name == name


@pytest.mark.parametrize(("scales", "name"), [([16], "llamagen_b_256"), ([24], "llamagen_b_384"), ([(24, 24)], "llamagen_b_384")])
def test_the_grid_tells_what_shapes_can_not(scales: list, name: str):
    generator = official.meta(PUBLISHED[name][0])
    assert import_official("llamagen", generator, scales=scales).recipe.name == name
    with pytest.raises(
        ArgenzooError, match=r"fits llamagen_b_256, llamagen_b_384, and its shapes can't tell which: give recipe, or scales"
    ):
        import_official("llamagen", generator)


def test_vq_8_is_told_by_its_shapes():
    tokenizer = import_official("llamagen", tokenizer=official.meta(official.vq(mult=(1, 2, 2, 4)))).tokenizer
    assert tokenizer.space.scales == ((32, 32),)


# --- small files -----------------------------------------------------------------------------------------------------------


def small(family: str, **changes: Any) -> Any:
    return import_official(
        family, **{"generator": state(family, "generator"), "tokenizer": state(family, "tokenizer"), **TOLD[family], **changes}
    )


def fast(family: str) -> dict[str, Any]:
    return {"head.num_steps": 4, "order.num_steps": 3} if family == "mar" else {}


@pytest.mark.parametrize("family", TOLD)
def test_an_imported_model_samples_saves_and_loads(family: str, tmp_path: Path):
    model = small(family)
    pictures = model.generate([3, 7], sampling=fast(family))
    assert pictures.shape == (2, 3, 16, 16)
    assert pictures.isfinite().all()
    model.save_pretrained(tmp_path / "out", license="mit")
    again = build_model(tmp_path / "out")
    assert torch.equal(again.generate([3, 7], sampling=fast(family)), pictures)
    assert again.recipe.tokenizer.sha256 is not None
    with pytest.raises(ArgenzooError, match="holds a checkpoint already"):
        model.save_pretrained(tmp_path / "out")
    model.save_pretrained(tmp_path / "out", overwrite=True)


@pytest.mark.parametrize("family", TOLD)
@pytest.mark.parametrize("wrap", ["plain", "model", "module", "state_dict", "fsdp", "ddp", "compiled", "legacy", "safetensors", "half"])
def test_every_wrapping(family: str, wrap: str, tmp_path: Path):
    weights, name = state(family, "generator"), tmp_path / "file.pth"
    args = argparse.Namespace(lr=1e-4, model="GPT-B")
    content: Any = {
        "plain": weights,
        "fsdp": {**weights, "args": args, "steps": 7},
        "ddp": {"model": {f"module.{key}": value for key, value in weights.items()}},
        "compiled": {"model": {f"module._orig_mod.{key}": value for key, value in weights.items()}},
        "half": {key: value.bfloat16() for key, value in weights.items()},
    }.get(wrap, {wrap: weights, "optimizer": {"state": {}}, "args": args, "epoch": 3})
    if wrap == "safetensors":
        name = name.with_suffix(".safetensors")
        save_file(weights, name)
    elif wrap == "legacy":
        saved(name, {"model": weights}, _use_new_zipfile_serialization=False)
    else:
        saved(name, content)
    ours = small(family, generator=name)
    theirs = small(family)
    tolerance = 0.05 if wrap == "half" else 0
    for (key, mine), other in zip(ours.network.state_dict().items(), theirs.network.state_dict().values(), strict=True):
        assert mine.dtype == torch.float32
        assert torch.allclose(mine, other, rtol=0, atol=tolerance), key


def test_averaged_weights_are_the_default_where_there_are_both():
    raw = state("mar", "generator")
    both = {"model": raw, "model_ema": {key: 2 * value for key, value in raw.items()}}
    key = "generator.embed.weight"
    assert torch.equal(small("mar", generator=both).network.state_dict()[key], 2 * raw["z_proj.weight"])
    with warnings.catch_warnings(action="error"):  # the tokenizer, which has no averaged weights, is not what is meant
        assert torch.equal(small("mar", generator=both, averaged=False).network.state_dict()[key], raw["z_proj.weight"])
    with pytest.warns(UserWarning, match=r"holds no averaged weights: averaged=False \(--raw\) has no effect"):
        small("mar", averaged=False)
    with pytest.warns(UserWarning, match="holds averaged weights under 'ema' as well"):
        small("llamagen", generator={"model": state("llamagen", "generator"), "ema": state("llamagen", "generator")})
    with pytest.raises(ArgenzooError, match="averaged weights only"):
        small("mar", generator={"model_ema": raw}, averaged=False)


@pytest.mark.parametrize(("shared", "qk_norm"), [(False, True), (True, True), (False, False), (True, False)])
def test_vars_variants_are_told_by_their_keys(shared: bool, qk_norm: bool):
    layout = official.var(2, SCALES, shared, 64, 8, 10, qk_norm)
    model = small("var", generator=official.seeded(layout))
    config = model.recipe.generator.config
    assert (config.shared_adaln, config.qk_norm, config.num_heads) == (shared, qk_norm, 2)
    assert model.generate([1]).isfinite().all()


def test_heads_of_var_without_normalisation_can_be_given():
    generator = official.seeded(official.var(2, SCALES, vocab=64, dim=8, classes=10, qk_norm=False))
    assert small("var", generator=generator, num_heads=4).recipe.generator.config.num_heads == 4


@pytest.mark.parametrize("scales", [4, [4], (4,), [(4, 4)], torch.tensor([4]).numpy()])
def test_one_grid_in_every_way_of_saying_it(scales: Any):
    assert small("llamagen", scales=scales, patch_size=1).space.scales == ((4, 4),)


def test_a_published_size_at_another_resolution_keeps_heads_and_guidance():
    model = import_official("llamagen", official.meta(PUBLISHED["llamagen_xl_384"][0]), scales=[16])
    assert (model.recipe.generator.config.num_heads, model.sampling.guidance.guidance) == (20, 1.75)
    assert model.recipe.tokenizer.config.image_size == 256


@pytest.mark.parametrize("phis", [1, 2, 3, 5])
def test_vars_tokenizer_with_other_numbers_of_phis(phis: int):
    tokenizer = import_official(
        "var", tokenizer=official.seeded(official.var_tokenizer(32, (1, 1, 2), 64, 8, phis)), scales=SCALES
    ).tokenizer
    by_the_authors_code = {1: (0, 0, 0, 0), 2: (0, 0, 1, 1), 3: (0, 0, 1, 2), 5: (0, 1, 3, 4)}
    assert tokenizer.phi_of_scale == by_the_authors_code[phis]


def test_vars_buffer_tells_the_scales():
    generator = {**state("var", "generator"), "lvl_1L": official.levels(SCALES), "attn_bias_for_masking": torch.zeros(1, 1, 30, 30)}
    assert small("var", generator=generator, scales=None).space.scales == tuple((side, side) for side in SCALES)


def test_mars_patches():
    generator = official.seeded(official.mar(64, 2, 64, 2, 4, 32, 4, 10))  # 2 x 2 patches of 8 channels
    model = small("mar", generator=generator)
    assert model.recipe.tokenizer.config.patch_size == 2
    assert model.generate([1], sampling={"head.num_steps": 4, "order.num_steps": 2}).shape == (1, 3, 16, 16)
    alone = small("mar", generator=generator, tokenizer=None, patch_size=2)
    assert alone.recipe.tokenizer.config.dim == 8


@pytest.mark.parametrize("family", TOLD)
def test_a_part_that_is_not_given_is_none_and_using_it_raises(family: str):
    half = small(family, tokenizer=None)
    assert half.tokenizer is None
    z, _ = half.generator(
        torch.zeros(1, 30, 8) if family == "var" else half.space.empty(1, torch.device("cpu")), half.conditioner(torch.tensor([1]))
    )
    assert z.shape[1] == half.space.num_tokens
    with pytest.raises(ArgenzooError, match="this model has no tokenizer"):
        half.generate([1])
    told = {"scales": TOLD[family].get("scales", [4])}
    other = import_official(family, tokenizer=state(family, "tokenizer"), **told)
    assert (other.network, other.generator, other.head, other.conditioner) == (None, None, None, None)
    assert other.tokenizer.decode(other.tokenizer.tokens(other.tokenizer.encode(torch.zeros(1, 3, 16, 16)))).shape == (1, 3, 16, 16)
    with pytest.raises(ArgenzooError, match="this model has no generator"):
        other.generate([1])


def test_a_tokenizer_alone_saves_as_a_tokenizers_checkpoint(tmp_path: Path):
    model = import_official("var", tokenizer=state("var", "tokenizer"), scales=SCALES)
    model.save_pretrained(tmp_path / "tokenizer")
    again = build_tokenizer(tmp_path / "tokenizer")
    image = torch.rand(1, 3, 16, 16)
    assert torch.equal(again.encode(image), model.tokenizer.encode(image))
    with pytest.raises(ArgenzooError, match="has no tokenizer"):
        small("var", tokenizer=None).save_pretrained(tmp_path / "half")
    assert not (tmp_path / "half").exists()


# --- what is wrong is said in one line ---------------------------------------------------------------------------------------


class Code:
    """What a pickle would call."""

    def __init__(self, function: Any = os.system, argument: str = "echo never") -> None:
        self.call = function, (argument,)

    def __reduce__(self) -> Any:
        return self.call


def broken(kind: str, folder: Path) -> Path:
    """A file that is no checkpoint."""
    path = folder / "var_d16.pth"
    whole = io.BytesIO()
    torch.save(state("var", "generator"), whole)
    contents = {
        "page": b"\n<!DOCTYPE html><html>sign in</html>",
        "pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
        "truncated": whole.getvalue()[:100_000],
        "damaged": whole.getvalue()[:100_000] + bytes(50_000) + whole.getvalue()[150_000:],
        "noise": b"\x80\x02" + bytes(range(200)),
        "empty": b"",
        "json": b'{"model": 1}',
        "protocol 4": pickle.dumps({"model": {}, "hook": Code()}, protocol=4),
        "protocol 0": pickle.dumps({"model": {}, "hook": Code()}, protocol=0),
    }
    if kind in contents:
        path.write_bytes(contents[kind])
    elif kind == "safetensors":
        path = path.with_suffix(".safetensors")
        save_file(state("var", "generator"), path)
        path.write_bytes(path.read_bytes()[:-9])
    elif kind != "missing":
        saved(
            path,
            {
                "code": {"model": state("var", "generator"), "hook": Code()},
                "eval": {"model": state("var", "generator"), "hook": Code(eval, "print('never')")},
                "getattr": {"model": state("var", "generator"), "hook": Code(getattr, "x")},
                "path": {"model": state("var", "generator"), "args": argparse.Namespace(out=Path("x"))},
                "list": [1, 2],
                "text": {"a": "b"},
            }[kind],
        )
    return path


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("code", "is refused: it holds posix.system"),
        ("eval", "is refused: it holds __builtin__.eval"),
        ("getattr", "is refused: it holds __builtin__.getattr"),
        ("path", "is refused: it holds pathlib.PosixPath"),
        ("protocol 4", "is refused: it holds posix.system"),
        ("protocol 0", "is refused: it holds posix.system"),
        ("damaged", "is damaged: download it again"),
        ("json", "is truncated or no checkpoint: expected a file of torch.save"),
        ("page", "is a web page, not a checkpoint"),
        ("pointer", "is a git-lfs pointer"),
        ("truncated", "is truncated"),
        ("noise", "is truncated or no checkpoint"),
        ("empty", "is truncated or no checkpoint"),
        ("safetensors", "is truncated or no safetensors file"),
        ("missing", "no checkpoint file"),
        ("list", "holds a list, not the weights of a model"),
        ("text", "holds no weights: found a"),
    ],
)
def test_files_that_are_no_checkpoints(kind: str, words: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    with pytest.raises(ArgenzooError) as error:
        small("var", generator=broken(kind, tmp_path))
    assert words in str(error.value)
    assert str(tmp_path) in str(error.value)
    assert str(error.value).isprintable()
    assert "never" not in capfd.readouterr().out


def without(weights: dict[str, Any], key: str, **more: Any) -> dict[str, Any]:
    return {**{name: value for name, value in weights.items() if name != key}, **more}


WRONG: dict[str, tuple[str, Any, str]] = {
    "another family": (
        "var",
        lambda: {"generator": state("mar", "generator")},
        "is mar's generator, not var's generator: import it as family 'mar'",
    ),
    "swapped": ("var", lambda: {"generator": state("var", "tokenizer")}, "is var's tokenizer, not var's generator: pass it as tokenizer"),
    "another tokenizer": ("mar", lambda: {"tokenizer": state("llamagen", "tokenizer")}, "is llamagen's tokenizer, not mar's tokenizer"),
    "of nobody": (
        "mar",
        lambda: {"generator": {"conv1.weight": torch.zeros(1)}},
        "is no generator of mar: it has no encoder_pos_embed_learned",
    ),
    "another quantizer": (
        "mar",
        lambda: {"tokenizer": {**state("mar", "tokenizer"), "quantize.embedding.weight": torch.zeros(4, 8)}},
        "is no tokenizer of mar",
    ),
    "missing key": (
        "var",
        lambda: {"generator": without(state("var", "generator"), "blocks.1.ffn.fc2.bias", surprise=torch.zeros(2))},
        "1 missing (generator.blocks.1.mlp.fc2.bias); 1 unexpected (surprise)",
    ),
    "missing tokenizer key": (
        "mar",
        lambda: {"tokenizer": without(state("mar", "tokenizer"), "encoder.conv_in.weight")},
        "encoder.conv_in.weight is missing",
    ),
    "another shape": (
        "llamagen",
        lambda: {"generator": {**state("llamagen", "generator"), "layers.1.attention.wo.weight": torch.zeros(64, 32)}},
        "generator.blocks.1.attention.proj.weight: (64, 32) in the file, (64, 64) in the recipe",
    ),
    "another vocabulary": (
        "llamagen",
        lambda: {"tokenizer": official.seeded(official.vq(32, (1, 1, 2), 32, 64, 8))},
        "tokenizer.vocab_size is 128 by the generator's shapes, 64 by the tokenizer: they don't belong together",
    ),
    "another width of tokens": ("mar", lambda: {"tokenizer": official.seeded(official.kl(32, (1, 1, 2), 4))}, "reads tokens of 8"),
    "the generator's scales": ("var", lambda: {"scales": (1, 2, 4)}, "has 4 scales of 30 tokens in all, not those of scales [1, 2, 4]"),
    "the buffer's scales": (
        "var",
        lambda: {"generator": {**state("var", "generator"), "lvl_1L": official.levels((1, 5, 2))}},
        "scales [1, 2, 3, 4] are not those of the state dict: [1, 5, 2]",
    ),
    "a lone tokenizer's scales": (
        "var",
        lambda: {"generator": None, "tokenizer": {"module.quantize.ema_vocab_hit_SV": torch.zeros(3, 64), **state("var", "tokenizer")}},
        "was trained with 3 scales, the recipe has 4",
    ),
    "the tokenizer's scales": (
        "var",
        lambda: {"tokenizer": {**state("var", "tokenizer"), "quantize.ema_vocab_hit_SV": torch.zeros(3, 64)}},
        "was trained with 3 scales, the recipe has 4",
    ),
    "too little told": ("llamagen", lambda: {"num_heads": None}, "shapes can't tell generator.num_heads: give num_heads, or recipe"),
    "no grid": ("llamagen", lambda: {"scales": None}, "shapes can't tell tokenizer.image_size: give scales, or recipe"),
    "wrong heads": ("var", lambda: {"num_heads": 4}, "generator.num_heads is 2 by the generator's shapes, 4 by the arguments"),
    "wrong buffer": ("mar", lambda: {"buffer_size": 64}, "generator.buffer_size is 4 by the generator's shapes, 64 by the arguments"),
    "patches of ids": ("var", lambda: {"patch_size": 2}, "patch_size has no effect"),
    "two grids": ("llamagen", lambda: {"scales": [2, 4]}, "has a single grid, give one side"),
    "oblong": ("llamagen", lambda: {"scales": [(2, 4)]}, "expected the sides of square grids"),
    "a first multiplier": ("mar", lambda: {"tokenizer": official.seeded(official.kl(32, (2, 2, 2), 8))}, "the first multiplier must be 1"),
    "mixed devices": (
        "var",
        lambda: {"generator": {**state("var", "generator"), "pos_start": torch.empty(1, 1, 128, device="meta")}},
        "has tensors on the meta device among real ones",
    ),
    "no name": ("var", lambda: {"generator": {**state("var", "generator"), "a\nb": torch.ones(1)}}, "has a key that is no name: 'a?b'"),
    "levels of nonsense": (
        "var",
        lambda: {"generator": {**state("var", "generator"), "lvl_1L": -torch.ones(1, 30)}},
        "lvl_1L should hold each position's scale",
    ),
    "no file": ("var", lambda: {"generator": 5}, "expected a file or a state dict, got a int"),
    "no recipe": ("var", lambda: {"recipe": 5}, "recipe: expected a name, a file or a Recipe, got a int"),
    "half a side": ("llamagen", lambda: {"scales": [1.5]}, "expected the sides of square grids"),
    "sides of nothing": ("llamagen", lambda: {"scales": [None]}, "expected the sides of square grids"),
    "no heads": ("mar", lambda: {"num_heads": 0}, "num_heads: expected a whole number from 1 on, got 0"),
    "heads in words": ("mar", lambda: {"num_heads": "two"}, "num_heads: expected a whole number from 1 on, got 'two'"),
    "a recipe of other parts": (
        "var",
        lambda: {"recipe": "mar_b"},
        "the weights do not fit recipe 'mar_b': tokenizer.name is multiscale_vq",
    ),
    "unknown recipe": ("var", lambda: {"recipe": "var_d17"}, "unknown recipe 'var_d17'; did you mean 'var_d1"),
    "nothing": ("var", lambda: {"generator": None, "tokenizer": None}, "nothing to import"),
    "of no use": ("mar", lambda: {"generator": None}, "num_heads has no effect: no generator is given"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_fit(case: str):
    family, changes, words = WRONG[case]
    with pytest.raises(ArgenzooError) as error:
        small(family, **changes())
    assert words in str(error.value)
    assert str(error.value).isprintable()


@pytest.mark.parametrize("family", TOLD)
@pytest.mark.parametrize("kind", ["generator", "tokenizer"])
def test_no_key_is_optional_and_no_shape_leaks(family: str, kind: str):
    """Some thirty tensors, each left out and each wrong in one way: one clear line."""
    whole, other = state(family, kind), "tokenizer" if kind == "generator" else "generator"
    told = TOLD[family] if kind == "generator" else {"num_heads": None, "scales": TOLD[family].get("scales", [4])}
    for number, key in enumerate(list(whole)[:: len(whole) // 30 + 1]):
        tensor = whole[key]
        wrong = [("empty", {key: tensor[:0]}), ("scalar", {key: tensor.sum()}), ("twice", {f"module.{key}": tensor})]
        wrong += [
            ("ids", {key: tensor.long()}),
            ("sparse", {key: tensor.to_sparse()}),
            ("thrice as many", {key: tensor.repeat(3, *tensor.shape[1:])}),
        ]
        oddity, change = wrong[number % len(wrong)]
        for weights in (without(whole, key), {**whole, **change}):
            with pytest.raises(ArgenzooError) as error:
                small(family, **{kind: weights, other: None, **told})
            assert str(error.value).isprintable(), (key, oddity)


def test_sizes_are_the_files_and_a_recipe_of_others_is_told():
    words = r"not of recipe 'var_d16's sizes.*generator.dim is 1280 in the weights, 1024 in the recipe.*; they fit var_d20"
    with pytest.warns(UserWarning, match=words):
        model = import_official("var", official.meta(official.var(20)), recipe="var_d16")
    assert model.recipe.generator.config.depth == 20
    with pytest.warns(UserWarning, match="not of recipe 'llamagen_b_256's sizes"):
        model = small("llamagen", recipe="llamagen_b_256")  # what shapes can't tell is told by name
    assert (model.generate([3]).shape, model.recipe.name) == ((1, 3, 16, 16), "llamagen_b_256_imported")
    recipe = load_recipe("llamagen_b_256", {"generator.num_heads": 2, "tokenizer.image_size": 16, "tokenizer.multipliers": [1, 1, 2]})
    with pytest.warns(UserWarning, match="not of recipe"):
        told = small("llamagen", recipe=recipe, num_heads=None, scales=None)  # or by the recipe
    assert torch.equal(told.generate([3]), model.generate([3]))


def test_what_a_recipe_says_and_what_it_does_not():
    b = official.meta(PUBLISHED["llamagen_b_256"][0])
    with pytest.raises(ArgenzooError, match=r"recipe 'llamagen_b_256': generator.num_heads is 6 by the arguments, 12 in the recipe"):
        import_official("llamagen", b, recipe="llamagen_b_256", num_heads=6)
    with pytest.raises(ArgenzooError, match=r"tokenizer.image_size is 384 by the arguments, 256 in the recipe"):
        import_official("llamagen", b, recipe="llamagen_b_256", scales=[24])
    with pytest.warns(UserWarning, match="they fit mar_b"):  # heads are a published size's own
        model = import_official("mar", official.meta(PUBLISHED["mar_b"][0]), recipe="mar_l")
    assert model.recipe.generator.config.num_heads == 12
    wide = load_recipe("mar_b", {"tokenizer.patch_size": 2, "sampling.order.num_steps": 64})
    alone = import_official("mar", tokenizer=official.meta(official.kl()), recipe=load_recipe("mar_b"), scales=[16])
    assert alone.tokenizer.space.scales == ((16, 16),)
    with pytest.raises(ArgenzooError, match=r"tokenizer\.image_size is 512 by the arguments"):
        import_official("mar", tokenizer=official.meta(official.kl()), recipe=wide, scales=[16])
    with pytest.warns(UserWarning, match="tokenizer.patch_size is 1 in the weights, 2 in the recipe"):
        assert import_official("mar", official.meta(PUBLISHED["mar_b"][0]), recipe=wide).recipe.tokenizer.config.dim == 16
    unknown = load_recipe("mar_b", {"tokenizer.latent_scale": None})
    with pytest.raises(ArgenzooError, match=r"does not say its latent scale: set tokenizer.latent_scale"):
        import_official("mar", tokenizer=official.meta(official.kl()), recipe=unknown)
    with pytest.raises(ArgenzooError, match="shapes that can't be"):
        small("mar", generator={**state("mar", "generator"), "z_proj.weight": torch.zeros(64)})


@pytest.mark.parametrize("name", PUBLISHED_TOKENIZERS)
def test_published_tokenizers_fill_their_recipe(name: str):
    """KL-16's scale is the authors', while the recipe leaves that of a new training, or a fine-tuning, to be measured."""
    recipe = load_recipe(name)
    with torch.device("meta"):
        tokenizer = make_tokenizer(recipe.tokenizer)
    state = {key: tensor for key, tensor in tokenizer.state_dict().items() if key != "scale.factors"}
    fill_tokenizer(tokenizer, recipe.tokenizer, Weights(state, name), recipe.pretrained.latent_scale)
    assert recipe.tokenizer.config.latent_scale is None
    assert tokenizer.scale.factors.tolist() == ([pytest.approx(0.2325)] if name == "kl16" else [1.0] * len(tokenizer.space.scales))


def test_unknown_families_name_the_nearest():
    with pytest.raises(ArgenzooError, match="unknown family 'vars'; did you mean 'var'"):
        import_official("vars", {})


# --- the command -----------------------------------------------------------------------------------------------------------


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    files = {kind: str(saved(tmp_path / f"{kind}.pth", state("var", kind))) for kind in ("generator", "tokenizer")}
    command = ["import", "var", "--generator", files["generator"], "--tokenizer", files["tokenizer"], "--scales", "1,2,3,4"]
    assert main([*command, "--out", str(tmp_path / "out"), "--license", "mit"]) == 0
    assert "argenzoo sample" in capsys.readouterr().out
    assert main(["sample", str(tmp_path / "out"), "--classes", "3", "--num", "2", "--out", str(tmp_path / "samples")]) == 0
    made = json.loads((tmp_path / "samples" / "samples.json").read_text())
    assert made["sampling"]["guidance"] == 2.5
    assert made["sampling"]["ramp"] == "step"
    card = (tmp_path / "out" / "README.md").read_text()
    assert "license: mit" in card
    capsys.readouterr()
    before = sorted((path.name, path.stat().st_mtime_ns) for path in (tmp_path / "out").iterdir())
    assert main([*command, "--out", str(tmp_path / "out")]) == 2
    assert "holds a checkpoint already" in capsys.readouterr().err
    assert before == sorted((path.name, path.stat().st_mtime_ns) for path in (tmp_path / "out").iterdir())
    assert main([*command[:4], "--out", str(tmp_path / "half")]) == 2
    assert "give --tokenizer FILE" in capsys.readouterr().err
    assert main([*command[:-1], "1,two", "--out", str(tmp_path / "half")]) == 2
    assert "expected whole numbers" in capsys.readouterr().err
    assert not (tmp_path / "half").exists()


def test_provenance_is_in_the_files(tmp_path: Path):
    from safetensors import safe_open

    from argenzoo.weights import sha256

    file = saved(tmp_path / "generator.pth", state("mar", "generator"))
    small("mar", generator=file).save_pretrained(tmp_path / "out")
    with safe_open(tmp_path / "out" / "model.safetensors", framework="pt") as opened:
        about = opened.metadata()
    assert about["source"].endswith("generator.pth")
    assert about["source_sha256"] == sha256(file)
    again = build_model(tmp_path / "out")
    shutil.rmtree(tmp_path / "out")
    again.save_pretrained(tmp_path / "moved")  # mapped weights outlive their name
