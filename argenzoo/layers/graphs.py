"""A step of one shape as a CUDA graph: recorded once, then replayed without Python and without launching its kernels one by one."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

from argenzoo.errors import ArgenzooError

RECORDED_ON = "cuda"
WARM = 3  # runs before recording: libraries choose kernels and take workspaces in the first ones, which a graph must not record
Run = Callable[[], Tensor]


class Graphed:
    """A function of tensors, recorded at the first call and replayed from then on.

    What it writes to, a cache say, must be there before, and writing the same twice must do no harm. All calls have the first one's shapes;
    what is returned is written over by the next one.

    Args:
        setting: the key that asked for this, for the message.
        device: of all inputs. The meta device, which only counts, records nothing.

    Raises:
        ArgenzooError: another device.
    """

    def __init__(self, setting: str, device: torch.device) -> None:
        if device.type not in (RECORDED_ON, "meta"):
            raise ArgenzooError(f"{setting} needs a CUDA GPU, this model is on {device}: set it to false")
        self.device = device
        self._inputs: list[Tensor] = []
        self._replay: Callable[[], None] | None = None
        self._output: Tensor | None = None

    def __call__(self, function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        """``function``: the same every time; it is called for recording alone."""
        if self.device.type == "meta":
            return function(*inputs)
        if self._replay is None:
            self._inputs = [each.clone() for each in inputs]
            self._replay, self._output = record(lambda: function(*self._inputs), self.device)
        for own, given in zip(self._inputs, inputs, strict=True):
            assert (own.shape, own.dtype) == (given.shape, given.dtype)  # a copy would stretch or round it without a word
            own.copy_(given)
        self._replay()
        assert self._output is not None
        return self._output


def record(run: Run, device: torch.device) -> tuple[Callable[[], None], Tensor]:
    """(replays it, where the output then lies)."""
    with torch.cuda.device(device):  # a graph is of the current one, whatever the tensors say
        here, aside = torch.cuda.current_stream(), stream(device)
        aside.wait_stream(here)
        with torch.cuda.stream(aside):
            for _ in range(WARM):
                run()
        here.wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=aside, capture_error_mode="thread_local"):  # a loader's thread may pin memory meanwhile
            output = run()
    return graph.replay, output


@lru_cache
def stream(device: torch.device) -> torch.cuda.Stream:
    """One for all recordings: the libraries' workspaces are a stream's."""
    return torch.cuda.Stream(device)
