"""Steps recorded once and replayed. A CPU records nothing, so a stand-in replays: it reads the recorded inputs and writes the recorded
output, as a CUDA graph does, and no other."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from conftest import tiny, tiny_model

from argenzoo.errors import ArgenzooError
from argenzoo.layers import graphs
from argenzoo.layers.graphs import Graphed
from argenzoo.model import ARModel
from argenzoo.rng import Rng
from argenzoo.summary import cost

LABELS = torch.tensor([0, 1, 1])
SHAPED = {"static": {"order.static": True}, "drafts": {"order.drafts": 2}}


@pytest.fixture
def recordings(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """The outputs of what has been recorded."""
    made: list[torch.Tensor] = []

    def record(run: Callable[[], torch.Tensor], device: torch.device) -> tuple[Callable[[], None], torch.Tensor]:
        for _ in range(graphs.WARM):
            run()
        output = run().clone()
        made.append(output)

        def replay() -> None:
            output.copy_(run())

        return replay, output

    monkeypatch.setattr(graphs, "RECORDED_ON", "cpu")
    monkeypatch.setattr(graphs, "record", record)
    return made


def sampled(model: ARModel, changes: dict[str, Any]) -> torch.Tensor:
    return model.sample_tokens(LABELS, Rng(0, range(3)), model.sampling.override({"guidance": 2.0, **changes}))


@pytest.mark.parametrize("shape", SHAPED)
def test_replayed_steps_sample_the_same_tokens(shape: str, recordings: list[torch.Tensor]):
    model = tiny_model("fruit_raster")
    plain, made = sampled(model, SHAPED[shape]), sampled(model, {**SHAPED[shape], "order.graph": True})
    assert torch.equal(made, plain)
    assert len(recordings) == 1  # of all steps


def test_replayed_steps_of_vectors(recordings: list[torch.Tensor]):
    model = tiny_model("fruit_raster_diffusion")
    plain, made = sampled(model, SHAPED["static"]), sampled(model, {**SHAPED["static"], "order.graph": True})
    assert torch.equal(made, plain)


def test_inputs_are_copied_in_and_may_change_afterwards(recordings: list[torch.Tensor]):
    def double(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return 2 * x + y

    graph, x, y = Graphed("a.key", torch.device("cpu")), torch.ones(2), torch.zeros(2)
    first = graph(double, x, y).clone()
    x += 5
    assert torch.equal(graph(double, x, y), first + 10)
    assert torch.equal(graph(double, x, y + 1), first + 11)
    assert len(recordings) == 1
    with pytest.raises(AssertionError):
        graph(double, x[:1], y)


def test_caches_go_with_their_window():
    """At once, not when Python looks for cycles, which knows nothing of a GPU's memory."""
    model = tiny_model("fruit_raster")
    window = model.generator.window(model.conditioner(LABELS), len(LABELS))
    window.begin()
    gone = weakref.ref(window)
    gc.disable()
    try:
        del window
        assert gone() is None
    finally:
        gc.enable()


def test_what_would_be_recorded_is_counted():
    changes = {"sampling.order.static": True}
    plain, made = (cost(tiny("fruit_raster", {**changes, "sampling.order.graph": graph})) for graph in (False, True))
    assert made == plain


def test_without_a_gpu_it_is_an_error():
    model = tiny_model("fruit_raster")
    with pytest.raises(ArgenzooError, match=r"order\.graph needs a CUDA GPU, this model is on cpu"):
        sampled(model, {**SHAPED["static"], "order.graph": True})


def test_steps_of_growing_shape_can_not_be_recorded():
    with pytest.raises(ArgenzooError, match=r"order\.graph needs order\.static=true or order\.drafts"):
        tiny_model("fruit_raster", {"sampling.order.graph": True})


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("shape", SHAPED)
@pytest.mark.parametrize("changes", [{}, {"execution.weights": "bf16"}, {"execution.compile": True}])
@pytest.mark.parametrize("half", [False, True])
def test_on_a_gpu(shape: str, changes: dict[str, Any], half: bool):
    model = tiny_model("fruit_raster").to("cuda")
    made = []
    for graph in (False, True, True):
        options = model.sampling.override({"guidance": 2.0, **SHAPED[shape], **changes, "order.graph": graph})
        with torch.autocast("cuda", torch.bfloat16, enabled=half):
            made.append(model.sample_tokens(LABELS.cuda(), Rng(0, range(3), device="cuda"), options))
    assert torch.equal(made[1], made[0])
    assert torch.equal(made[2], made[0])
