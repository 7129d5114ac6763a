"""Dropout by fewer draws: its rate, its mean and its gradient."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from argenzoo.layers.dropout import Dropout, sixteen_bits


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.937])
def test_the_rate_and_the_mean(rate: float):
    torch.manual_seed(0)
    made = Dropout(rate)(torch.ones(1000, 1001))
    zeros = (made == 0).double().mean()
    assert abs(zeros - rate) < 5 * (rate * (1 - rate) / 1001000) ** 0.5
    assert made.max() == pytest.approx(1 / (1 - rate), rel=2e-3)
    assert made.unique().numel() == 2
    torch.manual_seed(0)
    assert torch.equal(Dropout(rate)(torch.ones(1000, 1001)), made)  # torch's own stream: checkpointing draws the same again


def test_bits_are_even_and_independent():
    torch.manual_seed(0)
    drawn = sixteen_bits(torch.Size((400, 1000)))
    for bit in range(16):
        ones = ((drawn.int() >> bit) & 1).double()
        assert abs(ones.mean() - 0.5) < 0.005
        flat = ones.flatten() - 0.5
        for lag in range(1, 5):  # of one number, of neighbours
            assert abs((flat[lag:] * flat[:-lag]).mean()) < 0.0025


def test_the_gradient_is_the_mask():
    x = torch.randn(5, 7, requires_grad=True)
    made = Dropout(0.4)(x)
    made.sum().backward()
    torch.testing.assert_close(x.grad * x, made)


@pytest.mark.parametrize("rate", [0.0, 0.5, 1.0])
def test_where_nothing_is_drawn_it_is_torchs(rate: float):
    x = torch.randn(5, 7)
    assert torch.equal(Dropout(rate).eval()(x), x)
    if rate != 0.5:
        assert torch.equal(Dropout(rate)(x), nn.Dropout(rate)(x))


def test_no_elements():
    assert Dropout(0.5)(torch.zeros(2, 0, 3)).shape == (2, 0, 3)
