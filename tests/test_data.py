"""Pictures: crops, splits, and sets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from argenzoo.data.crops import CENTER, View, cut, views_of
from argenzoo.data.folder import Folder
from argenzoo.data.images import DataConfig, split, to_unit
from argenzoo.data.views import Views
from argenzoo.errors import ArgenzooError
from argenzoo.grids import grid, to_uint8
from argenzoo.registry import datasets
from argenzoo.rng import philox


def ramp(width: int, height: int) -> Image.Image:
    """Red tells the column, green the row."""
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([x, y, np.zeros_like(x)], -1).astype(np.uint8))


@pytest.mark.parametrize("box_first", [True, False])
@pytest.mark.parametrize("size", [(100, 40), (40, 100), (17, 33), (400, 300)])
def test_center_cut(size: tuple[int, int], box_first: bool):
    array = cut(ramp(*size), 16, View(1.0, CENTER, False), box_first, philox(0, "t", 0))
    assert array.shape == (16, 16, 3)
    assert array[..., 0].mean() == pytest.approx(127, abs=8)
    assert array[..., 1].mean() == pytest.approx(127, abs=8)


def test_random_and_ten_crops_reach_the_edges_and_repeat():
    def spots(crop: str) -> set:
        views = views_of(crop, (2.0,), flip=False)
        cuts = [cut(ramp(64, 64), 16, views[i % len(views)], True, philox(0, "t", i)) for i in range(60)]
        return {(int(array[0, 0, 0]), int(array[0, 0, 1])) for array in cuts}

    assert len(spots("ten")) == 5
    assert len(spots("random")) > 30
    assert len(spots("center")) == 1
    assert spots("random") == spots("random")


def test_ten_crops_are_of_the_central_square():
    """LlamaGen: a wide picture's corners are not looked at."""
    wide = ramp(320, 40)
    columns = [int(cut(wide, 32, view, True, philox(0, "t", 0))[..., 0].mean()) for view in views_of("ten", (1.25,), flip=False)]
    assert max(columns) - min(columns) <= 8
    assert columns[0] < columns[4] < columns[1]
    assert [view.corner for view in views_of("ten", (1.1, 1.05), flip=True)].count(CENTER) == 4


def test_views_depend_on_the_draw_alone(pictures: Path):
    config = Folder.Config(path=str(pictures), crop="random", resize=1.2)
    views = Views(Folder(config), config, 16, np.arange(24), seed=1)
    assert torch.equal(views[3, 7][0], views[3, 7][0])
    assert len({views[3, draw][0].numpy().tobytes() for draw in range(8)}) > 4
    assert views[0, 0][1] == 0
    assert views[23, 0][1] == 1
    kept = Views(Folder(config), config, 16, np.arange(24), augment=False)
    assert torch.equal(kept[3, 7][0], kept[3, 8][0])


def test_in_memory_needs_one_cut(pictures: Path):
    config = Folder.Config(path=str(pictures), crop="random", in_memory=True)
    with pytest.raises(ArgenzooError, match=r"needs data.crop=center and one data.resize, not random"):
        Views(Folder(config), config, 16, np.arange(4))


def test_split_is_fixed_and_complete():
    kept, held_out = split(range(100), DataConfig(held_out=0.1))
    assert sorted([*kept, *held_out]) == list(range(100))
    assert len(held_out) == 10
    assert np.array_equal(split(range(100), DataConfig(held_out=0.1))[1], held_out)
    with pytest.raises(ArgenzooError, match="use a larger fraction"):
        split(range(5), DataConfig(held_out=0.1))


def test_uint8_round_trip_and_grid():
    values = torch.arange(256).repeat(3, 1).view(1, 3, 16, 16)
    assert np.array_equal(to_uint8((to_unit(values) + 1) / 2)[0].transpose(2, 0, 1), values[0].numpy())
    assert grid(torch.zeros(2, 3, 3, 8, 8)).shape == (18, 28, 3)


def test_fruit():
    pytest.importorskip("pyarrow", reason="needs argenzoo[demo]")
    fruit = datasets.get("fruit")
    try:
        images = fruit(fruit.Config())
    except ArgenzooError as error:
        pytest.skip(str(error))
    assert len(images) == 2054
    assert len(images.classes) == 14
    assert "Granny-Smith" in images.classes
    picture = np.asarray(images.open(next(i for i in range(2054) if images.classes[images.label(i)] == "Granny-Smith")).convert("RGB"))
    assert min(picture.shape[:2]) >= 300
    assert picture[..., 1].mean() > picture[..., 2].mean()  # apples are greener than blue
