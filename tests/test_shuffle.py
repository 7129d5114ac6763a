"""Shuffling without a list: permutations, and good ones."""

from __future__ import annotations

import numpy as np
import pytest

from argenzoo.data.shuffle import Shuffle


@pytest.mark.parametrize("count", [1, 2, 3, 5, 64, 65, 1000, 1025])
def test_it_is_a_permutation(count: int):
    shuffle = Shuffle(count, 0, 0)
    assert sorted(shuffle[i] for i in range(count)) == list(range(count))
    with pytest.raises(IndexError):
        shuffle[count]


def test_another_for_every_seed_and_epoch():
    orders = {tuple(Shuffle(50, seed, epoch)[i] for i in range(50)) for seed in range(5) for epoch in range(5)}
    assert len(orders) == 25


def test_every_entry_is_equally_likely_everywhere():
    """Chi-square over 11 x 11 (place, entry) counts in 4,000 permutations: 100 degrees of freedom, 149 is the 0.1 % bound."""
    count, runs = 11, 4000
    seen = np.zeros((count, count))
    for epoch in range(runs):
        shuffle = Shuffle(count, 1, epoch)
        for place in range(count):
            seen[place, shuffle[place]] += 1
    expected = runs / count
    assert ((seen - expected) ** 2 / expected).sum() < 149


def test_neighbours_and_epochs_are_unrelated():
    """Correlations over 20,000 entries: 5 standard errors are 0.035."""
    first, second = (np.array(list(map(Shuffle(20_000, 0, epoch).__getitem__, range(20_000)))) for epoch in (0, 1))
    for one, other in ((first[:-1], first[1:]), (first, second), (first, np.arange(20_000))):
        assert abs(np.corrcoef(one, other)[0, 1]) < 0.035
    low = np.bincount(first[:2000] * 10 // 20_000, minlength=10)
    assert (abs(low - 200) < 70).all()  # a tenth of the epoch is spread over the whole set


def test_memory_does_not_grow():
    big = Shuffle(10**12, 0, 0)
    assert len({big[i] for i in range(1000)}) == 1000
    assert max(big[i] for i in range(1000)) > 10**11
