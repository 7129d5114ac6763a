"""What the authors' own code computes, our parts compute too."""

from __future__ import annotations

import golden_cases as cases
import pytest
import torch
from einops import rearrange
from torch import Tensor

from argenzoo.heads.schedule import respaced
from argenzoo.losses.terms import kl_divergence
from argenzoo.rng import Rng


def grid(vectors: Tensor, side: int) -> Tensor:
    return rearrange(vectors, "b (h w) c -> b c h w", h=side)


@torch.no_grad()
def test_llamagen_vq():
    case, vq = cases.llamagen_vq()
    image, side = case.given["image"], case.config["grid"]
    ids = vq.encode(image)
    case.matches(vq.autoencoder.encode(image), "latent_before_vq")
    case.matches(ids, "ids")
    case.matches(grid(vq.embed(ids), side), "quantized")
    case.matches(vq.decode(vq.embed(ids)), "reconstruction")
    case.matches(vq.decode(ids), "reconstruction_from_ids")
    made = vq.reconstruct(image)
    case.matches(made.pictures, "reconstruction")
    case.matches(made.ids, "ids")
    for ours, (weight, theirs) in {
        "codebook": (1, "vq_loss"),
        "commitment": (0.25, "commit_loss"),
        "entropy": (0.1, "entropy_loss"),
    }.items():
        case.matches(weight * made.terms[ours](), theirs)


def llamagen_condition(case: cases.Golden):
    condition = case.given["condition"]
    return condition if condition.dim() == 1 else (condition, case.given["condition_mask"])


@pytest.mark.parametrize("name", ["llamagen_c2i", "llamagen_t2i"])
@torch.no_grad()
def test_llamagen_logits_and_loss(name: str):
    case, model = cases.llamagen(name)
    ids, condition = case.given["ids"], llamagen_condition(case)
    z, mask = model.generator(ids, model.conditioner(condition))
    assert mask.all()
    case.matches(model.head.logits(z), "logits")
    case.matches(model.network(ids, ids, condition)["loss"], "loss")


@pytest.mark.parametrize(
    ("output", "sampling"),
    [
        ("greedy_cfg3_ids", {"guidance": 3}),
        ("greedy_nocfg_ids", {"guidance": 1}),
        ("greedy_cfg3_interval4_ids", {"guidance": 3, "interval": 4}),
    ],
)
@pytest.mark.parametrize("name", ["llamagen_c2i", "llamagen_t2i"])
def test_llamagen_greedy_sequences(name: str, output: str, sampling: dict):
    case, model = cases.llamagen(name)
    tokens = model.sample_tokens(llamagen_condition(case), Rng(0, [0, 1]), model.sampling.override(sampling))
    case.matches(tokens, output)


@pytest.mark.parametrize("name", ["var", "var_shared_adaln"])
@torch.no_grad()
def test_var(name: str):
    case, model = cases.var(name)
    image, labels, tokenizer = case.given["image"], case.given["labels"], model.tokenizer
    ids = tokenizer.encode(image)
    case.matches(tokenizer.autoencoder.encode(image), "latent")
    case.matches(ids, "ids")
    case.matches(tokenizer.latent(ids), "f_hat")
    case.matches(tokenizer.decode(ids), "reconstruction")
    case.matches(tokenizer.context(ids)[:, 1:], "teacher_inputs")
    z, _ = model.generator(tokenizer.context(ids), model.conditioner(labels))
    case.matches(model.head.logits(z), "logits")
    case.matches(model.network(tokenizer.context(ids), ids, labels)["loss"], "loss")
    losses = tokenizer.reconstruct(image).terms
    case.matches(losses["codebook"]() + 0.25 * losses["commitment"](), "vq_loss")


@pytest.mark.parametrize("name", ["var", "var_shared_adaln"])
def test_var_greedy(name: str):
    case, model = cases.var(name)
    tokens = model.sample_tokens(case.given["labels"], Rng(0, [0, 1]), model.sampling)
    case.matches(tokens, "greedy_cfg1p5_ids")
    case.matches(model.generate(case.given["labels"]), "greedy_cfg1p5_image")


@torch.no_grad()
def test_mar_kl():
    case, kl = cases.mar_kl()
    image = case.given["image"]
    mean, logvar = kl.moments(image)
    case.matches(mean, "mean")
    case.matches(logvar, "logvar")
    case.matches(kl_divergence(mean, logvar), "kl")
    tokens = kl.tokens(kl.encode(image))
    case.matches(grid(tokens, mean.shape[-1]), "tokens_scaled")
    case.matches(kl.decode(tokens), "reconstruction_from_mean")


def mar_tokens(case: cases.Golden) -> Tensor:
    p = case.config["patch_size"]
    return rearrange(case.given["latent"], "b c (h p) (w q) -> b (h w) (c p q)", p=p, q=p)


@torch.no_grad()
def test_mar_network():
    case, model = cases.mar()
    tokens, mask = mar_tokens(case), case.given["mask"].bool()
    case.matches(tokens, "tokens")
    condition = model.conditioner(case.given["labels"])
    known = mask.int().argsort(dim=-1, stable=True)[:, : int((~mask[0]).sum())]
    buffer, visible = model.generator._buffer(condition)
    case.matches(model.generator.encode(tokens, buffer, visible, known), "encoder")
    z, hidden = model.generator(tokens, condition, mask=mask)
    assert torch.equal(hidden, mask)
    case.matches(z, "z")


@torch.no_grad()
def test_mar_diffusion_loss():
    case, model = cases.mar()
    z, tokens, t, noise = case.expected["z"].flatten(0, 1), mar_tokens(case).flatten(0, 1), case.given["t"], case.given["noise"]
    case.matches(model.head.mlp(noise, t, z), "mlp_output")
    error, bound = model.head.terms(z, tokens, t, noise)
    case.matches(error, "mse_per_token")
    case.matches(bound, "vb_per_token")
    case.matches(error + bound, "diffusion_loss_per_token")
    case.matches((error + bound)[case.given["mask"].bool().flatten()].mean(), "loss")
    assert respaced(int(case.config["num_sampling_steps"])) == case.expected["timestep_map"].tolist()


class GivenNoise:
    """Draws that were drawn before: one tensor after another; nothing else may be random."""

    def __init__(self, noises: list[Tensor]) -> None:
        self.noises = iter(noises)

    def normal(self, *shape: int) -> Tensor:
        noise = next(self.noises)
        return noise.reshape(-1, *shape)


def test_mar_one_token_at_temperature_0():
    case, model = cases.mar()
    z, noise = case.expected["z"].flatten(0, 1), case.given["sample_noise"]
    options = model.sampling.head
    case.matches(model.head.sample(z[:8], None, torch.tensor(1.0), options, rng=GivenNoise([noise])), "sample_temperature0")
    guided = model.head.sample(z[:4], z[4:8], torch.tensor(2.5), options, rng=GivenNoise([noise[:4]]))
    case.matches(guided, "sample_cfg2p5_temperature0")


def test_mar_whole_loop_at_temperature_0():
    case, model = cases.mar()
    counts = case.given["loop_noise_counts"].tolist()
    sizes = [positions.shape[-1] for positions in model.generator.order(2, rng=Rng(0, [0, 1]), options=model.sampling.order)]
    assert [2 * size for size in sizes] == counts
    # what comes first in MAR's orders stays hidden longest
    order = [part.sort(dim=-1).values for part in case.given["orders"].flip(1).split(sizes, dim=1)]
    rng = GivenNoise(list(case.given["loop_noise"].split(counts)))
    tokens = model.sample_tokens(case.given["labels"], rng, model.sampling, order=order)
    case.matches(grid(tokens, int(tokens.shape[1] ** 0.5)), "loop_latent_cfg3_linear_temperature0")
