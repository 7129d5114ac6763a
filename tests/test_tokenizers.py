"""Tokenizers: contexts, scales, training."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import TOKENIZERS, tiny

from argenzoo.build import make_tokenizer
from argenzoo.errors import ArgenzooError
from argenzoo.recipe import load_recipe
from argenzoo.registry import tokenizers
from argenzoo.rng import Rng
from argenzoo.tokenizers.multiscale_vq import phi_of_scale
from argenzoo.training.objective import TokenizerObjective


def images(batch: int = 4) -> torch.Tensor:
    return Rng(0, range(batch)).uniform(3, 16, 16) * 2 - 1


VARIANTS = [
    (name, overrides) for name in TOKENIZERS for overrides in ({}, {"tokenizer.quantize": False}) if not (name == "fruit_kl" and overrides)
]


def made(name: str, overrides: dict) -> torch.nn.Module:
    torch.manual_seed(0)
    tokenizer = make_tokenizer(tiny(name, overrides).tokenizer)
    if hasattr(tokenizer, "codebook"):
        torch.nn.init.normal_(tokenizer.codebook.weight)
    return tokenizer.eval()


@pytest.mark.parametrize(("name", "overrides"), VARIANTS)
@torch.no_grad()
def test_shapes_and_unit_scale(name: str, overrides: dict):
    tokenizer = made(name, overrides)
    space = tokenizer.space
    assert space.num_tokens == sum(h * w for h, w in space.scales)
    rng = Rng(1, range(4))
    tokenizer.scale.measure([tokenizer.vectors(images(), rng)])
    tokens = tokenizer.tokens(tokenizer.encode(images()), Rng(1, range(4)))
    assert tokens.shape[:2] == (4, space.num_tokens)
    if space.vocab_size is None:
        for part in tokens.split(space.sizes, dim=1):
            assert part.std().item() == pytest.approx(1, abs=1e-3)
    else:
        assert tokens.dtype == torch.long
        torch.testing.assert_close(tokenizer.decode(tokenizer.embed(tokens)), tokenizer.decode(tokens))
        one_hot = torch.nn.functional.one_hot(tokens, space.vocab_size).float()
        torch.testing.assert_close(tokenizer.embed(one_hot), tokenizer.embed(tokens))
    assert tokenizer.decode(tokens).shape == (4, 3, 16, 16)
    assert tokenizer.context(tokens).shape[:2] == tokens.shape[:2]


@torch.no_grad()
@pytest.mark.parametrize("quantize", [True, False])
def test_pyramid_context_knows_only_coarser_scales(quantize: bool):
    tokenizer = made("fruit_msvq", {"tokenizer.quantize": quantize})
    tokenizer.scale.measure([tokenizer.vectors(images())])
    tokens = tokenizer.tokens(tokenizer.encode(images()))
    whole = tokenizer.context(tokens)
    ends = [sum(tokenizer.space.sizes[: k + 1]) for k in range(len(tokenizer.space.sizes))]
    assert not whole[:, : ends[0]].any()
    for known, end in zip([0, *ends], ends, strict=False):
        unknown = tokens.clone()
        unknown[:, known:] = 0
        torch.testing.assert_close(tokenizer.context(unknown, upto=known)[:, :end], whole[:, :end])


@torch.no_grad()
def test_vectors_before_the_codebook_decode_to_the_autoencoder():
    """Unquantised, nothing is lost: the pyramid's last scale carries what is left, so with phi the identity the latent is whole."""
    vq = made("fruit_vq", {"tokenizer.quantize": False})
    pyramid = made("fruit_msvq", {"tokenizer.quantize": False, "tokenizer.phi_ratio": 0.0})
    for tokenizer in (vq, pyramid):
        tokenizer.scale.measure([tokenizer.vectors(images())])
    plain = vq.autoencoder.decode(vq._grid(vq.vectors(images())))
    torch.testing.assert_close(vq.decode(vq.tokens(vq.encode(images()))), plain)
    whole = pyramid.autoencoder.decode(pyramid.autoencoder.encode(images())).clamp(-1, 1)
    torch.testing.assert_close(pyramid.decode(pyramid.tokens(pyramid.encode(images()))), whole, atol=1e-4, rtol=1e-4)


def test_patches_are_channel_major():
    kl = made("fruit_kl", {"tokenizer.patch_size": 2})
    assert kl.space.scales == ((2, 2),)
    assert kl.space.dim == 32
    stored = kl.encode(images())
    mean = stored.chunk(2, dim=1)[0]
    token = kl.tokens(stored)[:, 0].view(4, 8, 2, 2)
    torch.testing.assert_close(token, mean[:, :, :2, :2])
    torch.testing.assert_close(kl.decode(kl.tokens(stored)), kl.autoencoder.decode(mean))


@pytest.mark.parametrize("name", TOKENIZERS)
def test_every_parameter_learns(name: str):
    tokenizer = made(name, {}).train()
    recipe = tiny(name)
    out = TokenizerObjective(tokenizer, recipe.loss)(images(), Rng(0, range(4)))
    out["loss"].backward()
    learning = [(key, p) for key, p in tokenizer.named_parameters() if p.requires_grad]
    assert not [key for key, p in learning if p.grad is None or not p.grad.abs().sum()]
    used = {f"phis.{i}" for i in getattr(tokenizer, "phi_of_scale", ())}
    assert used <= {key.removesuffix(".conv.weight") for key, _ in learning}


def test_published_phi_tables():
    assert phi_of_scale(10, 4) == (0, 0, 1, 1, 1, 2, 2, 3, 3, 3)
    assert phi_of_scale(6, 4) == (0, 0, 1, 2, 3, 3)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"tokenizer.scales": [1, 2, 3]}, "must rise to 4"),
        ({"tokenizer.image_size": 18}, "no multiple of 4"),
        ({"tokenizer.channels": 42}, "channels 42 is no multiple of tokenizer.groups 4"),
    ],
)
def test_sizes_that_do_not_fit(overrides: dict, message: str):
    with pytest.raises(ArgenzooError, match=message):
        make_tokenizer(tiny("fruit_msvq", overrides).tokenizer)


@pytest.mark.parametrize("name", tokenizers.names())
def test_wrong_image_size_is_said(name: str):
    recipe = next(load_recipe(r) for r in TOKENIZERS if load_recipe(r).tokenizer.name == name)
    with pytest.raises(ArgenzooError, match=r"takes images \(B, 3, 32, 32\), got \(1, 3, 16, 16\)"):
        make_tokenizer(recipe.tokenizer).encode(torch.zeros(1, 3, 16, 16))


def test_a_growing_context_is_the_context():
    """Scale by scale, as in sampling, where the finer tokens are not known yet."""
    tokenizer = make_tokenizer(tiny("fruit_msvq").tokenizer)
    tokens, contexts = torch.randint(0, 32, (2, tokenizer.space.num_tokens)), tokenizer.contexts()
    for upto in (0, 1, 3, *np.cumsum(tokenizer.space.sizes).tolist()):
        known = torch.where(torch.arange(tokenizer.space.num_tokens) < upto, tokens, 0)
        torch.testing.assert_close(contexts(known, upto), tokenizer.context(tokens, upto), rtol=0, atol=0)
    torch.testing.assert_close(contexts(tokens), tokenizer.context(tokens), rtol=0, atol=0)
