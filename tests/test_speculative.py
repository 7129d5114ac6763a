"""Drafted tokens: the distribution of the plain loop, token by token the same where nothing is left to chance."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
from conftest import tiny_model

from argenzoo.condition import ClassLabels
from argenzoo.errors import ArgenzooError
from argenzoo.generators.raster import Raster
from argenzoo.heads.cross_entropy import CrossEntropy
from argenzoo.model import ARModel, ARNetwork, evaluating
from argenzoo.options import SamplingOptions
from argenzoo.protocols import Progress, TokenSpace
from argenzoo.rng import Rng

LABELS = torch.tensor([0, 1, 1])
VOCABULARY, SIDE = 3, 2


def small(sampling: dict[str, Any]) -> ARModel:
    """2 x 2 tokens of three ids, far from uniform: 81 pictures."""
    torch.manual_seed(3)
    space = TokenSpace(((SIDE, SIDE),), dim=4, vocab_size=VOCABULARY)
    generator = Raster(Raster.Config(dim=16, depth=2, num_heads=2, dropout=0.0), space)
    network = ARNetwork(ClassLabels(ClassLabels.Config(num_classes=2), 16), generator, CrossEntropy(CrossEntropy.Config(), space, 16))
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.7)
    return ARModel(None, network, SamplingOptions.parse(sampling, Raster, CrossEntropy)).eval()


@torch.no_grad()
def likelihoods(model: ARModel, scale: float) -> torch.Tensor:
    """Of all pictures, by teacher forcing."""
    everything = torch.tensor(list(product(range(VOCABULARY), repeat=SIDE**2)))
    labels = torch.zeros(len(everything), dtype=torch.long)
    cond, null = model.conditioner(labels), model.conditioner.null(len(labels))
    z, z_null = (model.generator(everything, each)[0] for each in (cond, null))
    probabilities = model.head.probabilities(z, z_null, torch.tensor(scale), model.sampling.head)
    return probabilities.gather(2, everything[..., None])[..., 0].prod(dim=1)


@pytest.mark.parametrize(
    "sampling", [{}, {"guidance": 2.0}, {"head": {"top_k": 2, "temperature": 0.8}}], ids=["plain", "guided", "filtered"]
)
@pytest.mark.parametrize("drafts", [1, 2, 5])
def test_pictures_are_as_likely_as_they_should_be(sampling: dict[str, Any], drafts: int):
    """Chi-square over 81 pictures; 3 and 5 drafts reach over the end. Bound: 1 in 10,000, of 9 cases."""
    model = small({**sampling, "order": {"drafts": drafts}})
    count = 6000
    made = model.sample_tokens(torch.zeros(count, dtype=torch.long), Rng(1, range(count)), model.sampling)
    number = (made * torch.tensor([27, 9, 3, 1])).sum(dim=1)
    found = torch.bincount(number, minlength=81).double()
    expected = likelihoods(model, sampling.get("guidance", 1.0)).double() * count
    assert expected.sum() == pytest.approx(count, rel=1e-4)
    often = expected >= 5
    assert found[expected < 1e-6].sum() == 0
    rest = torch.stack([found[~often].sum(), expected[~often].sum()])
    chi = ((found - expected).square() / expected)[often].sum() + (rest[0] - rest[1]).square() / rest[1].clamp(min=1)
    freedom = int(often.sum())
    assert chi < freedom + 4.5 * (2 * freedom) ** 0.5 + 8


@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("drafts", [1, 3, 40])
def test_the_most_likely_tokens_are_the_plain_loops(drafts: int, guidance: float):
    model = tiny_model("fruit_raster")
    options = {"guidance": guidance, "head.temperature": 0, "head.top_k": None}
    plain, drafted = (sampled(model, {**options, "order.drafts": each}) for each in (0, drafts))
    assert torch.equal(plain, drafted)


def test_text_behind_padding():
    model = tiny_model("fruit_raster", {"conditioner": {"name": "text_features", "feature_dim": 5, "num_tokens": 3, "dropout": 0.1}})
    features, mask = torch.randn(3, 3, 5), torch.tensor([[0, 0, 1], [1, 1, 1], [0, 1, 1]])
    options = [model.sampling.override({"guidance": 2.0, "head.temperature": 0, "order.drafts": drafts}) for drafts in (0, 3)]
    with evaluating(model):
        plain, drafted = (model.sample_tokens((features, mask), Rng(0, range(3)), each) for each in options)
    assert torch.equal(plain, drafted)


def test_a_sample_depends_on_its_own_number_alone():
    model = tiny_model("fruit_raster", {"sampling.order.drafts": 3})
    both = model.sample_tokens(LABELS, Rng(0, range(3)), model.sampling, 2.0)
    alone = model.sample_tokens(LABELS[1:2], Rng(0, [1]), model.sampling, 2.0)
    assert torch.equal(both[1:2], alone)


def test_fewer_passes_than_tokens_and_they_are_told():
    """A model that is sure of itself accepts its drafts."""
    model = tiny_model("fruit_raster", {"sampling.order.drafts": 4})
    model.head.linear.weight.data.zero_()
    told: list[Progress] = []
    model.sample_tokens(LABELS, Rng(0, range(3)), model.sampling, watch=told.append)
    assert len(told) == 1 + 3  # the first token, then five a pass
    assert [each.revealed for each in told] == [1, 6, 11, 16]
    assert all(0 <= each.step < each.steps for each in told)


def test_a_scale_a_sample():
    model = tiny_model("fruit_raster", {"sampling.order.drafts": 3, "sampling.head": {"temperature": 0}})
    scales = torch.tensor([1.0, 2.0, 4.0])
    mixed = model.sample_tokens(LABELS, Rng(0, range(3)), model.sampling, scales)
    for i, scale in enumerate(scales):
        assert torch.equal(mixed[i : i + 1], model.sample_tokens(LABELS[i : i + 1], Rng(0, [i]), model.sampling, float(scale)))


def test_what_drafts_cannot_do():
    with pytest.raises(ArgenzooError, match=r"order.drafts needs generator.order=raster"):
        tiny_model("fruit_raster", {"sampling.order.drafts": 3, "generator.order": "random"})
    with pytest.raises(ArgenzooError, match=r"head.name=cross_entropy"):
        tiny_model("fruit_raster_diffusion", {"sampling.order.drafts": 3})
    model = tiny_model("fruit_raster", {"sampling.order.drafts": 3})
    known = torch.zeros(3, 16, dtype=torch.bool)
    with pytest.raises(ArgenzooError, match=r"order.drafts is for whole pictures"):
        model.sample_tokens(LABELS, Rng(0, range(3)), model.sampling, known=known, given=known.long())


def sampled(model: ARModel, changes: dict[str, Any]) -> torch.Tensor:
    with evaluating(model):
        return model.sample_tokens(LABELS, Rng(0, range(3)), model.sampling.override(changes))
