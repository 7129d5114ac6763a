"""Distributions: what is sampled is what was modelled."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from conftest import tiny_model

from argenzoo.errors import ArgenzooError
from argenzoo.guidance import Guidance, guided
from argenzoo.heads.cross_entropy import CrossEntropy, filtered, inverse_cdf
from argenzoo.heads.diffusion import Diffusion
from argenzoo.heads.flow import Flow
from argenzoo.heads.mlp import DenoisingMLP
from argenzoo.heads.schedule import noise_schedule, respaced
from argenzoo.protocols import Progress, TokenSpace
from argenzoo.rng import GlobalRng, Rng
from argenzoo.summary import head_stages

IDS, VECTORS = TokenSpace(((4, 4),), 8, 50), TokenSpace(((4, 4),), 2)


def test_first_loss_is_ln_v():
    head = CrossEntropy(CrossEntropy.Config(), IDS, 16)
    loss = head.loss(torch.randn(5, 16), torch.arange(5))
    torch.testing.assert_close(loss, torch.full((5,), 50.0).log())


def test_a_loss_in_chunks_is_the_loss():
    """Value and gradients; of chunks that do not come out even. Of the logits no more than a chunk is kept."""
    torch.manual_seed(0)
    heads = [CrossEntropy(CrossEntropy.Config(init_std=0.1, chunk=chunk), IDS, 16) for chunk in (None, 4)]
    heads[1].load_state_dict(heads[0].state_dict())
    z, tokens, most = torch.randn(10, 16), torch.arange(10), []
    for head in heads:
        rows: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda tensor, rows=rows: rows.append(tensor.numel()) or tensor, lambda tensor: tensor
        ):
            loss = head.loss(z, tokens)
        loss.square().sum().backward()
        most.append(max(rows))
    torch.testing.assert_close(heads[1].loss(z, tokens), heads[0].loss(z, tokens))
    torch.testing.assert_close(heads[1].linear.weight.grad, heads[0].linear.weight.grad)
    assert most[0] >= 10 * 50 > 4 * 50 >= most[1]


def test_inverse_cdf_has_the_right_distribution_and_never_an_impossible_id():
    probabilities = torch.tensor([0.0, 0.5, 0.0, 0.2, 0.3, 0.0])
    count = 100_000
    uniform = Rng(0, [0]).uniform(count)[0]
    ids = inverse_cdf(probabilities.expand(count, -1), uniform)
    shares = torch.bincount(ids, minlength=6) / count
    torch.testing.assert_close(shares, probabilities, atol=0.01, rtol=0)
    assert shares[[0, 2, 5]].sum() == 0
    ends = inverse_cdf(probabilities.expand(2, -1), torch.tensor([0.0, 1 - 2**-24]))
    assert ends.tolist() == [1, 4]


def test_top_k_top_p_temperature():
    logits = torch.tensor([0.4, 0.3, 0.2, 0.1]).log()
    options = CrossEntropy.Sampling
    kept = lambda **some: filtered(logits, options(**some)).isfinite().tolist()  # noqa: E731
    assert kept() == [True] * 4
    assert kept(top_k=2) == [True, True, False, False]
    assert kept(top_p=0.65) == [True, True, False, False]
    assert kept(top_p=0.75) == [True, True, True, False]
    assert kept(top_p=0.05) == [True, False, False, False]
    assert kept(top_k=3, top_p=0.5) == [True, True, False, False]  # after top-k: 0.44, 0.33, 0.22
    torch.testing.assert_close(filtered(logits, options(temperature=0.5)), logits * 2)
    with pytest.raises(ArgenzooError, match="top_k 5 is more than the vocabulary's 4"):
        CrossEntropy(CrossEntropy.Config(), TokenSpace(((2, 2),), 8, 4), 8).check(options(top_k=5))


def test_guidance_formula_and_ramps():
    cond, null = torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 1.0]])
    torch.testing.assert_close(guided(cond, null, torch.tensor(3.0)), torch.tensor([[3.0, 4.0]]))
    assert torch.equal(guided(cond, null, torch.tensor([1.0])), cond)
    at = lambda guidance, *progress: float(guidance.at(Progress(*progress), torch.tensor(guidance.guidance)))  # noqa: E731
    assert at(Guidance(guidance=3), 7, 16, 8, 16) == 3
    assert at(Guidance(guidance=2.5, ramp="step"), 0, 10, 1, 680) == 1
    assert at(Guidance(guidance=2.5, ramp="step"), 9, 10, 680, 680) == 2.5
    assert at(Guidance(guidance=3, ramp="revealed"), 0, 4, 4, 16) == 1.5
    assert at(Guidance(guidance=3, ramp="revealed"), 3, 4, 16, 16) == 1 + 2 * 15 / 16  # MAR keeps one hidden
    interval = Guidance(guidance=3, interval=4)
    assert [at(interval, step, 16, step + 1, 16) for step in (0, 5, 6)] == [3, 3, 1]


def test_respacing_keeps_the_ends_and_matches_the_full_schedule():
    assert respaced(1000) == list(range(1000))
    assert respaced(100)[0] == 0
    assert respaced(100)[-1] == 999
    full, some = noise_schedule(1000), noise_schedule(10)
    torch.testing.assert_close(some.sqrt_alpha_bar, full.sqrt_alpha_bar[some.timesteps])


@pytest.mark.parametrize(("kind", "options"), [(Diffusion, {"num_steps": 50, "clip": 4}), (Flow, {"num_steps": 10})])
def test_a_head_of_vectors_learns_a_distribution(kind: type, options: dict):
    """Two clusters, chosen by z: samples land on them with the right spread, and temperature narrows them."""
    torch.manual_seed(0)
    head = kind(kind.Config(width=64, depth=2, batch_mul=2), VECTORS, 2)
    optimizer = torch.optim.Adam(head.parameters(), lr=3e-3)
    centers, spread = torch.tensor([[1.5, 0.0], [-1.5, 0.5]]), 0.3
    for _ in range(400):
        label = torch.randint(2, (256,))
        tokens = centers[label] + spread * torch.randn(256, 2)
        loss = head.loss(centers[label], tokens).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    z = centers.repeat(200, 1)
    draw = lambda **more: head.sample(  # noqa: E731
        z, None, torch.tensor(1.0), head.Sampling(**options, **more), rng=GlobalRng(len(z))
    ).view(200, 2, 2)
    made = draw()
    torch.testing.assert_close(made.mean(0), centers, atol=0.15, rtol=0)
    torch.testing.assert_close(made.std(0), torch.full((2, 2), spread), atol=0.12, rtol=0)
    assert (draw(temperature=0.5).std(0) < made.std(0)).all()


def test_steps_fall_along_the_order():
    """``last_steps`` in the last step of the order: the network is asked as often, and FLOPs are counted so."""
    options = Diffusion.Sampling(num_steps=20, last_steps=5)
    assert [options.steps_at(Progress(step, 4, 1, 16)) for step in range(4)] == [20, 15, 10, 5]
    assert options.steps_at(Progress(0, 1, 16, 16)) == 20
    head = Diffusion(Diffusion.Config(width=16, depth=1), VECTORS, 3)
    asked: list[int] = []
    head.mlp.in_proj.register_forward_hook(lambda module, inputs, out: asked.append(1))
    for step in range(4):
        head.sample(torch.randn(2, 4, 3), None, torch.tensor(1.0), options, Progress(step, 4, 1, 16), Rng(0, range(2)))
    assert len(asked) == 50
    model = tiny_model("fruit_mar", {"sampling.head": {"num_steps": 20, "last_steps": 5}, "sampling.order.num_steps": 4}).to("meta")
    stages = head_stages(model, 4)
    assert [stage.flops / stages[3].flops for stage in stages] == pytest.approx([4, 3, 2, 1], rel=0.02)  # z is embedded once a set


@pytest.mark.parametrize("solver", ["ancestral", "dpm"])
def test_a_heads_work_is_counted_for_every_solver(solver: str):
    """As often as the network is asked; what a set of tokens shares, its times, is counted once."""
    model = tiny_model("fruit_mar", {"sampling.head": {"num_steps": 6, "solver": solver}}).to("meta")
    (stage,) = head_stages(model, 1)
    width, depth, channels, dim = 32, 2, 8, 32
    once = 2 * 6 * (256 * width + width**2)
    each = 2 * (channels * width + depth * 5 * width**2 + 2 * width**2 + width * 2 * channels)
    assert stage.once == once
    assert stage.flops == 2 * (6 * each + 2 * dim * width)  # a guided pair


def test_options_without_effect():
    head = Diffusion(Diffusion.Config(width=16, depth=1), VECTORS, 3)
    head.check(Diffusion.Sampling(solver="dpm", num_steps=20))
    for options, words in (({"temperature": 0.9}, "temperature has no effect"), ({"num_steps": 500}, "at most 200 steps, not 500")):
        with pytest.raises(ArgenzooError, match=words):
            head.check(Diffusion.Sampling(**{"solver": "dpm", "num_steps": 20, **options}))
    flow = Flow(Flow.Config(width=16, depth=1), VECTORS, 3)
    flow.check(Flow.Sampling(solver="euler", num_steps=1))
    with pytest.raises(ArgenzooError, match=r"heun has no effect with head\.num_steps=1"):
        flow.check(Flow.Sampling(num_steps=1))


class Known(DenoisingMLP):
    """What is best where tokens are N(mean, std^2), whose paths end at mean + std * noise."""

    mean, std = 1.5, 0.3

    def __init__(self) -> None:
        super().__init__(2, 2, 2, 8, 1)

    def embed_time(self, t: torch.Tensor) -> torch.Tensor:
        return t[:, None].float()

    def z_embed(self, z: torch.Tensor) -> torch.Tensor:
        return torch.zeros(*z.shape[:-1], 1)

    def along(self, times: torch.Tensor, z: torch.Tensor) -> Iterator[list[tuple[torch.Tensor, ...]]]:
        return ([(z + t,)] for t in times)


class Straight(Known):
    """The velocity of flow matching, E[noise - token | x]."""

    def denoise(self, x: torch.Tensor, modulations: list[tuple[torch.Tensor, ...]]) -> torch.Tensor:
        t = modulations[0][0] / 1000
        variance = (1 - t) ** 2 * self.std**2 + t**2
        return (t - (1 - t) * self.std**2) / variance * (x - (1 - t) * self.mean) - self.mean


def head_error(head: torch.nn.Module, options: object) -> float:
    """How far a head of ``Known`` ends from the paths' ends."""
    noise = Rng(0, range(40)).normal(3, 2)
    made = head.sample(torch.zeros(40, 3, 2), None, torch.tensor(1.0), options, rng=Rng(0, range(40)))
    return float((made - (Known.mean + Known.std * noise)).abs().max())


def test_flow_follows_the_path_to_the_order_of_its_solver():
    head = Flow(Flow.Config(width=8, depth=1), VECTORS, 2)
    head.mlp = Straight()

    def error(solver: str, num_steps: int) -> float:
        return head_error(head, Flow.Sampling(solver=solver, num_steps=num_steps))

    assert 1.7 < error("euler", 50) / error("euler", 100) < 2.3
    assert 3.2 < error("heun", 50) / error("heun", 100) < 4.8
    assert error("heun", 50) < 0.01


class Noisy(Known):
    """The noise, and a variance at its lower bound, on the cosine schedule."""

    def denoise(self, x: torch.Tensor, modulations: list[tuple[torch.Tensor, ...]]) -> torch.Tensor:
        t = modulations[0][0].long()
        scale, sigma = noise_schedule().sqrt_alpha_bar[t], noise_schedule().sqrt_one_minus_alpha_bar[t]
        eps = sigma * (x - scale * self.mean) / ((scale * self.std) ** 2 + sigma**2)
        return torch.cat([eps, -torch.ones_like(eps)], dim=-1)


def test_dpm_follows_the_path_to_second_order():
    head = Diffusion(Diffusion.Config(width=8, depth=1), VECTORS, 2)
    head.mlp = Noisy()

    def error(num_steps: int) -> float:
        return head_error(head, Diffusion.Sampling(solver="dpm", num_steps=num_steps))

    assert error(10) > 3 * error(20) > 9 * error(40)
    assert error(40) < 0.01


@pytest.mark.parametrize("rows", [1, 16, 24, 100])
def test_modulations_of_many_times_are_those_of_each(rows: int, monkeypatch: pytest.MonkeyPatch):
    """However many rows go into one product."""
    monkeypatch.setattr("argenzoo.heads.mlp.ROWS", rows)
    torch.manual_seed(0)
    mlp = DenoisingMLP(2, 3, 4, 16, 2)
    for parameter in mlp.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    t, z, x = torch.tensor([900.0, 500.0, 0.0]), torch.randn(4, 2, 3), torch.randn(4, 2, 2)
    made = [mlp.denoise(x, modulation) for modulation in mlp.along(mlp.embed_time(t), mlp.z_embed(z))]
    assert len(made) == 3
    again = next(iter(mlp.along(mlp.embed_time(t), mlp.z_embed(z))))
    torch.testing.assert_close(mlp.denoise(x, again), mlp.denoise(x, again))  # Heun's method goes through them twice
    for one, time in zip(made, t, strict=True):
        by_hand = mlp(x.flatten(0, 1), time.expand(8), z.flatten(0, 1)).view(4, 2, 4)
        torch.testing.assert_close(one, by_hand)


def test_flow_guides_the_velocity():
    """Of a pair whose halves are alike, guidance changes nothing; of others s = 1 is the condition's own path, and more is further on."""
    torch.manual_seed(0)
    head = Flow(Flow.Config(width=16, depth=1), VECTORS, 3)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    z, z_null = torch.randn(4, 2, 3), torch.randn(4, 2, 3)
    draw = lambda null, s: head.sample(z, null, torch.tensor(s), Flow.Sampling(num_steps=3), rng=Rng(0, range(4)))  # noqa: E731
    plain = draw(None, 1.0)
    torch.testing.assert_close(draw(z, 3.0), plain)
    torch.testing.assert_close(draw(z_null, 1.0), plain)
    assert (draw(z_null, 3.0) - draw(z_null, 2.0)).abs().max() > 1e-3


def test_flow_draws_logit_normal_times():
    """Its loss is the mean over the times that it draws; of ``t_mean`` and ``t_std``."""
    head = Flow(Flow.Config(width=16, depth=1, batch_mul=3, t_mean=0.5, t_std=2.0), VECTORS, 2)
    z, tokens = torch.randn(4, 2), torch.randn(4, 2)
    rng = Rng(0, range(4))
    t, noise = (0.5 + 2.0 * rng.normal(3)).sigmoid(), rng.normal(3, 2)
    by_hand = torch.stack([head.errors(z, tokens, t[:, i], noise[:, i]) for i in range(3)]).mean(0)
    torch.testing.assert_close(head.loss(z, tokens, Rng(0, range(4))), by_hand)


def test_batch_mul_averages():
    head = Diffusion(Diffusion.Config(width=16, depth=1, batch_mul=3), VECTORS, 2)
    z, tokens = torch.randn(4, 2), torch.randn(4, 2)
    loss = head.loss(z, tokens, Rng(0, range(4)))
    rng = Rng(0, range(4))
    t, noise = rng.integers(1000, 3), rng.normal(3, 2)
    by_hand = torch.stack([head.terms(z, tokens, t[:, i], noise[:, i]).sum(0) for i in range(3)]).mean(0)
    torch.testing.assert_close(loss, by_hand)


def test_rows_of_a_mask_draw_the_same_whatever_else_is_masked():
    mask = torch.tensor([[True, False, True], [False, True, True]])
    all_rows = Rng(0, range(2)).rows(torch.arange(6), 3).normal(4).view(2, 3, 4)
    where = mask.flatten().nonzero().flatten()
    torch.testing.assert_close(Rng(0, range(2)).rows(where, 3).normal(4), all_rows[mask])
