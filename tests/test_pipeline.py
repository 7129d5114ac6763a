"""The diffusers pipeline: diffusers' names in, the zoo's pictures out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import CELLS, tiny_model
from diffusers import DiffusionPipeline
from hub_server import Hub
from PIL import Image

from argenzoo import ArgenzooError, build_model
from argenzoo.hub import ARPipeline


@pytest.mark.parametrize("name", CELLS)
def test_every_cell_as_a_pipeline(name: str, tmp_path: Path):
    model = tiny_model(name)
    pipe = ARPipeline(model)
    assert isinstance(pipe, DiffusionPipeline)
    images = pipe(class_labels=[1, 0], seed=3).images
    assert [image.size for image in images] == [(16, 16)] * 2
    expected = (model.generate([1, 0], seed=3) * 255).round().byte().permute(0, 2, 3, 1).numpy()
    assert np.array_equal(np.stack([np.asarray(image) for image in images]), expected)
    pipe.save_pretrained(tmp_path / "pipe")
    assert json.loads((tmp_path / "pipe" / "model_index.json").read_text())["_class_name"] == "ARPipeline"
    again = ARPipeline.from_pretrained(tmp_path / "pipe")
    for loaded in (again.model, build_model(tmp_path / "pipe")):
        assert torch.allclose(loaded.generate([1, 0], seed=3), model.generate([1, 0], seed=3), atol=1e-4)


def test_the_package_shows_what_it_offers():
    import argenzoo.hub

    found = [getattr(argenzoo.hub, name) for name in dir(argenzoo.hub)]
    assert [part for part in found if isinstance(part, type) and issubclass(part, DiffusionPipeline)] == [ARPipeline]
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        argenzoo.hub.nothing  # noqa: B018


def test_what_diffusers_asks_of_a_pipeline():
    pipe = ARPipeline(tiny_model("fruit_var"))
    assert list(pipe.components) == ["model"]
    assert pipe.to("cpu").device.type == "cpu"
    assert pipe.dtype == torch.float32
    with pytest.raises(ArgenzooError, match=r"weights are torch\.bfloat16: keep them in float32"):
        pipe.to(torch.bfloat16)(class_labels=[1])


def test_progress(capfd: pytest.CaptureFixture[str]):
    pipe = ARPipeline(tiny_model("fruit_mar"))
    pipe(class_labels=[1])
    assert "5/5" in capfd.readouterr().err
    pipe.set_progress_bar_config(disable=True)
    pipe(class_labels=[1])
    assert "5/5" not in capfd.readouterr().err


def test_guidance_output_types_and_one_label():
    pipe = ARPipeline(tiny_model("fruit_mar"))
    tensor = pipe(class_labels=1, guidance_scale=4.0, output_type="pt").images
    assert torch.equal(tensor, pipe.model.generate([1], guidance=4.0))
    array = pipe(class_labels=1, guidance_scale=4.0, output_type="np", return_dict=False)[0]
    assert np.allclose(array, tensor.permute(0, 2, 3, 1).numpy())
    assert not torch.equal(tensor, pipe(class_labels=1, guidance_scale=1.0, output_type="pt").images)


@pytest.mark.parametrize(("name", "key"), [("fruit_mar", "order.num_steps"), ("fruit_raster_diffusion", "head.num_steps")])
def test_steps(name: str, key: str):
    pipe = ARPipeline(tiny_model(name))
    pictures = pipe(class_labels=[1], num_inference_steps=2, output_type="pt").images
    assert torch.equal(pictures, pipe.model.generate([1], sampling={key: 2}))
    assert not torch.equal(pictures, pipe.model.generate([1], sampling={key: 3}))


def test_steps_that_have_no_effect_are_told():
    pipe = ARPipeline(tiny_model("fruit_var"))
    with pytest.warns(UserWarning, match="num_inference_steps has no effect"):
        pipe(class_labels=[1], num_inference_steps=2)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "give either class_labels or condition"),
        ({"class_labels": [2]}, "label 2 is out of range"),
        ({"class_labels": [1], "output_type": "jpeg"}, "output_type 'jpeg' is none of pil, np, pt"),
        ({"class_labels": [1], "num_inference_steps": 99}, "num_steps 99 is more than the 16 tokens"),
        ({"class_labels": [1], "sampling": {"head.steps": 2}}, "unknown key"),
        ({"class_labels": [1], "sampling": {"order.num_steps": 2}, "num_inference_steps": 3}, "give one of the two"),
        ({"class_labels": ["red"]}, "labels must be whole numbers in one list"),
        ({"class_labels": "red"}, "labels must be whole numbers in one list"),
        ({"class_labels": [1], "guidance_scale": float("nan")}, "guidance must be finite and not negative"),
        ({"class_labels": [1], "guidance_scale": -1.0}, "guidance must be finite and not negative"),
    ],
)
def test_bad_input(arguments: dict, words: str):
    with pytest.raises(ArgenzooError, match=words):
        ARPipeline(tiny_model("fruit_mar"))(**arguments)


def test_to_the_hub_and_back(hub: Hub):
    pipe = ARPipeline(tiny_model("fruit_raster"))
    pipe.push_to_hub("tester/pipeline")
    again = ARPipeline.from_pretrained("tester/pipeline")
    assert isinstance(again(class_labels=[1]).images[0], Image.Image)
    assert "model_index.json" in hub.commits["tester/pipeline"][-1]
