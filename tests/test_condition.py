"""Labels and text: the null condition and its drop."""

from __future__ import annotations

import pytest
import torch

from argenzoo.condition import ClassLabels, TextFeatures
from argenzoo.errors import ArgenzooError
from argenzoo.protocols import Condition
from argenzoo.rng import Rng

COUNT = 4000


def test_label_drop_in_training_alone():
    labels = ClassLabels(ClassLabels.Config(num_classes=3, dropout=0.1), 4)
    rows = torch.zeros(COUNT, dtype=torch.long)
    dropped = (labels.train()(rows, Rng(0, range(COUNT))).vector == labels.null(1).vector).all(1)
    assert dropped.float().mean().item() == pytest.approx(0.1, abs=0.02)
    assert torch.equal(dropped, (labels(rows, Rng(0, range(COUNT))).vector == labels.null(1).vector).all(1))
    assert not (labels.eval()(rows, Rng(0, range(COUNT))).vector == labels.null(1).vector).all(1).any()


def test_text_drop_keeps_the_mask():
    text = TextFeatures(TextFeatures.Config(feature_dim=5, num_tokens=3, dropout=0.2), 4)
    mask = torch.tensor([[0, 1, 1]]).expand(COUNT, -1)
    features = torch.ones(COUNT, 3, 5)
    made = text.train()((features, mask), Rng(0, range(COUNT)))
    null = text.null(1, mask[:1].bool())
    dropped = (made.tokens - null.tokens).abs().flatten(1).amax(1) < 1e-6
    assert dropped.float().mean().item() == pytest.approx(0.2, abs=0.03)
    assert torch.equal(made.mask, mask.bool())
    torch.testing.assert_close(made.vector[0], made.tokens[0, 1:].mean(0))


def test_conditions_concatenate():
    text = TextFeatures(TextFeatures.Config(feature_dim=5, num_tokens=3), 4).eval()
    cond = text((torch.randn(2, 3, 5), torch.ones(2, 3)))
    both = Condition.pair(cond, text.null(2, cond.mask))
    assert both.tokens.shape == (4, 3, 4)
    assert both.mask.shape == (4, 3)
    assert both.nulls == 2


def test_labels_are_checked():
    labels = ClassLabels(ClassLabels.Config(num_classes=3), 4)
    with pytest.raises(ArgenzooError, match="label 3 is out of range: this model has 3 classes, 0 to 2"):
        labels.check([0, 3])
    with pytest.raises(ArgenzooError, match="whole numbers"):
        labels.check(torch.rand(2))
    with pytest.raises(ArgenzooError, match=r"lists 2 classes, conditioner.num_classes is 3"):
        ClassLabels(ClassLabels.Config(num_classes=3, names=("a", "b")), 4)
