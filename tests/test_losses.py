"""Losses: what they measure, whom they train, and what is said where weights are missing."""

from __future__ import annotations

import sys
from pathlib import Path
from urllib.error import URLError

import lpips
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from argenzoo.errors import ArgenzooError
from argenzoo.losses.adversarial import Adversarial, hinge, non_saturating
from argenzoo.losses.discriminator import PatchGAN
from argenzoo.losses.perceptual import Perceptual, lpips_network
from argenzoo.losses.usage import counts_of, usage
from argenzoo.protocols import TokenSpace
from argenzoo.rng import Rng, philox
from argenzoo.tokenizers.codebook import Codebook
from argenzoo.training.codebook import spread
from argenzoo.training.objective import gradient_of


def sharp(batch: int, size: int = 16) -> torch.Tensor:
    """Pictures with edges."""
    return (Rng(0, range(batch)).uniform(3, size, size) > 0.5).float() * 2 - 1


def blurred(pictures: torch.Tensor) -> torch.Tensor:
    return F.avg_pool2d(pictures, 3, 1, 1, count_include_pad=False)


@pytest.fixture(scope="module")
def alexnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of AlexNet's shapes, drawn at random."""
    torch.manual_seed(0)
    network = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False).net
    path = tmp_path_factory.mktemp("weights") / "alexnet.safetensors"
    save_file({f"features.{name.split('.', 1)[1]}": p.detach().clone() for name, p in network.named_parameters()}, path)
    return path


def perceptual(alexnet: Path) -> Perceptual:
    return Perceptual(Perceptual.Config(net="alex", weights=str(alexnet)))


def test_perceptual_distance_grows_with_blur_and_is_frozen(alexnet: Path):
    loss, pictures = perceptual(alexnet), sharp(2, 64)
    once, twice = blurred(pictures), blurred(blurred(pictures))
    assert loss(pictures, pictures) == 0
    assert 0 < loss(once, pictures) < loss(twice, pictures)
    assert not [p for p in loss.parameters() if p.requires_grad]
    once.requires_grad_(True)
    loss(once, pictures).backward()
    assert once.grad.abs().sum() > 0


def test_perceptual_weights_are_those_of_the_file(alexnet: Path):
    torch.manual_seed(1)
    assert torch.equal(perceptual(alexnet)(sharp(1, 64), blurred(sharp(1, 64))), perceptual(alexnet)(sharp(1, 64), blurred(sharp(1, 64))))


def test_missing_or_wrong_weights_are_said(alexnet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(ArgenzooError, match=r"features.0.weight is .*, expected .* that net"):
        lpips_network("vgg", str(alexnet))
    with pytest.raises(ArgenzooError, match="nowhere"):
        lpips_network("vgg", str(tmp_path / "nowhere.safetensors"))

    def offline(**settings: object) -> None:
        raise URLError("no route")

    monkeypatch.setattr(lpips, "LPIPS", offline)
    with pytest.raises(ArgenzooError, match=r"can't be downloaded.*with loss.perceptual.weights, or train with loss.perceptual=null"):
        lpips_network("vgg")
    monkeypatch.setitem(sys.modules, "lpips", None)
    with pytest.raises(ArgenzooError, match="pip install lpips"):
        lpips_network("vgg")


def adversary(**settings: object) -> Adversarial:
    torch.manual_seed(0)
    return Adversarial(Adversarial.Config.parse({"dim": 8, "layers": 2, **settings}, "loss.adversarial"))


@pytest.mark.parametrize("lecam", [0.0, 0.1])
@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize("kind", ["hinge", "non_saturating"])
def test_the_discriminator_separates_sharp_from_blurred(kind: str, norm: str, lecam: float):
    opponent = adversary(kind=kind, norm=norm, lecam=lecam).opponent
    optimizer = torch.optim.Adam(opponent.parameters(), lr=2e-3, betas=(0.5, 0.9))
    before = opponent(sharp(16), blurred(sharp(16)))
    for _ in range(60):
        optimizer.zero_grad()
        opponent(sharp(16), blurred(sharp(16)))["loss"].backward()
        optimizer.step()
    after = opponent(sharp(16), blurred(sharp(16)))
    assert after["accuracy"] > 0.95
    assert after["real"] > 0 > after["fake"]
    assert lecam or after["loss"] < 0.5 * before["loss"]


@pytest.mark.parametrize("kind", ["hinge", "non_saturating"])
def test_the_generators_step_trains_no_discriminator(kind: str):
    """Descending this loss makes pictures look more real to a discriminator, which stays as it is."""
    part = adversary(kind=kind)
    before = [p.clone() for p in part.opponent.parameters()]
    made = blurred(sharp(4)).requires_grad_()
    part(made, sharp(4)).backward()
    assert all(p.grad is None and p.requires_grad for p in part.opponent.parameters())
    assert all(torch.equal(p, q) for p, q in zip(part.opponent.parameters(), before, strict=True))
    nearer = made.detach() - made.grad / made.grad.norm()
    assert part.opponent.discriminator(nearer).mean() > part.opponent.discriminator(made.detach()).mean()


def test_formulas():
    """The cross-entropy's arguments in the right order: real against 1, fake against 0."""
    real, fake = torch.randn(2, 1, 4, 4), torch.randn(2, 1, 4, 4)
    ones, zeros = torch.ones_like(real), torch.zeros_like(fake)
    expected = 0.5 * (F.binary_cross_entropy_with_logits(real, ones) + F.binary_cross_entropy_with_logits(fake, zeros))
    torch.testing.assert_close(non_saturating(real, fake), expected)
    assert hinge(torch.tensor([2.0]), torch.tensor([-3.0])) == 0
    assert hinge(torch.tensor([0.0]), torch.tensor([1.0])) == 1.5
    part = adversary(kind="non_saturating")
    logits = part.opponent.discriminator(sharp(2))
    torch.testing.assert_close(part(sharp(2), sharp(2)), F.binary_cross_entropy_with_logits(logits, torch.ones_like(logits)))


def test_half_precision_keeps_the_logits_and_their_gradients():
    """float16 can't hold the gradient of a mean over 256 px times its size, nor LeCam's running means."""
    part = adversary(lecam=0.1)
    made = torch.rand(1, 3, 256, 256).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        assert gradient_of(part(made, made), made).isfinite().all()
        out = part.opponent(made.detach(), made.detach())
        assert out["loss"].dtype == torch.float32
        part.opponent(torch.full_like(made, float("nan")), made.detach())
    assert part.opponent.mean_real.isfinite()


def test_published_discriminator():
    """Pix2pix' 70 x 70 PatchGAN: 2.765M parameters, a logit every 8 pixels."""
    discriminator = PatchGAN(64, 3)
    assert sum(p.numel() for p in discriminator.parameters()) == 2_765_633
    assert discriminator(torch.zeros(2, 3, 256, 256)).shape == (2, 1, 30, 30)


PYRAMID = TokenSpace(((1, 1), (2, 2)), 2, 4)


def test_usage_and_perplexity_by_scale():
    ids = torch.tensor([[0, 1, 1, 2, 2], [0, 1, 1, 2, 2]])
    counts = counts_of(ids, PYRAMID, 4)
    assert counts.tolist() == [[2, 0, 0, 0], [0, 4, 4, 0]]
    figures = usage(counts, PYRAMID)
    assert figures["codebook_usage"] == 0.75
    assert figures["codebook_usage/scale_0_1x1"] == 0.25
    assert figures["codebook_perplexity/scale_1_2x2"] == pytest.approx(2)
    assert figures["codebook_perplexity"] == pytest.approx(torch.exp(torch.distributions.Categorical(torch.tensor([2.0, 4, 4])).entropy()))


@pytest.mark.parametrize(("count", "coarse"), [(4, 2), (8, 3), (15, 3), (40, 3)])
def test_replaced_codes_are_different_and_come_from_every_scale(count: int, coarse: int):
    """Of 3 pictures with 1 + 4 tokens each: as many from each scale, the rest from the finer one, none twice."""
    places = spread(torch.Size([3, 5]), PYRAMID, count, philox(0, "test", 0))
    assert len(set(places.tolist())) == len(places) == min(count, 15)
    assert int((places % 5 == 0).sum()) == coarse


@pytest.mark.parametrize("normalize", [True, False])
def test_codebook_looks_up_in_float32(normalize: bool):
    torch.manual_seed(0)
    codebook = Codebook(64, 8, normalize)
    assert torch.allclose(codebook.weight.norm(dim=-1), torch.ones(64)) is normalize
    torch.nn.init.normal_(codebook.weight)
    vectors = codebook.codes.detach() + 0.01 * torch.randn(64, 8)
    assert torch.equal(codebook.nearest(vectors), torch.arange(64))
    with torch.autocast("cpu", torch.bfloat16):
        assert codebook.distances(vectors).dtype == torch.float32
        assert torch.equal(codebook.nearest(vectors), torch.arange(64))
    codebook.replace(torch.tensor([3]), F.normalize(torch.ones(1, 8), dim=-1), torch.arange(4, 64))
    torch.testing.assert_close(codebook.codes[3], torch.full((8,), 8**-0.5))
