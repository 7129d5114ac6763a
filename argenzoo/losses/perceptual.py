"""Perceptual distance: LPIPS (arXiv 1801.03924), through its authors' package."""

from __future__ import annotations

import io
import warnings
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, Literal
from urllib.error import URLError

import torch
from pydantic import Field
from torch import Tensor, nn

from argenzoo.errors import ArgenzooError
from argenzoo.registry import Config as PartConfig
from argenzoo.weights import read_weights

Net = Literal["vgg", "alex"]


class Perceptual(nn.Module):
    """Distance of deep features, averaged over the batch; frozen."""

    class Config(PartConfig):
        weight: float = Field(1.0, ge=0)
        net: Net = Field("vgg", description="vgg to train with, alex to measure with")
        weights: str | None = Field(None, description=".safetensors of torchvision's features.*; None: torchvision's, downloaded")

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.distance = lpips_network(config.net, config.weights)

    def forward(self, reconstruction: Tensor, pictures: Tensor) -> Tensor:
        """(B, 3, H, W) each, in [-1, 1] -> ()."""
        return self.distance(reconstruction, pictures).mean()


def lpips_network(net: Net, weights: str | None = None, option: str = "loss.perceptual.weights") -> Any:
    """``lpips.LPIPS``, frozen: two (B, 3, H, W) in [-1, 1] -> (B, 1, 1, 1). ``option`` is what names ``weights``, in messages.

    Raises:
        ArgenzooError: no package, no weights to be had, or a file of other shapes.
    """
    try:
        import lpips
    except ImportError:
        raise ArgenzooError("LPIPS needs the package lpips: pip install lpips, or train with loss.perceptual=null") from None
    try:
        with redirect_stdout(io.StringIO()), warnings.catch_warnings():  # it greets, and calls torchvision as one did in 2021
            warnings.simplefilter("ignore", UserWarning)
            network = lpips.LPIPS(net=net, pnet_rand=weights is not None, verbose=False)
    except (URLError, OSError, RuntimeError) as error:
        raise ArgenzooError(
            f"LPIPS' weights (torchvision's {net}) can't be downloaded ({' '.join(str(error).split())}): "
            f"name a .safetensors file of them with {option}, or train with loss.perceptual=null"
        ) from None
    if weights is not None:
        fill(network.net, Path(weights), option)
    return network.requires_grad_(False).eval()


def fill(network: nn.Module, path: Path, option: str) -> None:
    """Copy ``features.N.weight`` and ``features.N.bias`` into lpips' slices, which keep torchvision's numbers."""
    if not path.is_file():
        raise ArgenzooError(f"{option} {path}: no such file")
    state = read_weights(path)
    for name, parameter in network.named_parameters():
        key = f"features.{name.split('.', 1)[1]}"
        if key not in state or state[key].shape != parameter.shape:
            found = tuple(state[key].shape) if key in state else "missing"
            raise ArgenzooError(
                f"{option} {path}: {key} is {found}, expected {tuple(parameter.shape)}: are these torchvision's weights of that net?"
            )
        with torch.no_grad():
            parameter.copy_(state[key])
