"""How fast and how lean published weights load. Each way runs in a process of its own, in turn, ROUNDS times.

    python benchmarks/loading.py --recipe var_d16 --rounds 3

Weights are random, in the authors' layout (the rules of tests/official.py), on disk, in the page cache, where huggingface_hub keeps
downloads. ``built`` is the time until the model is there, ``read`` until every parameter has been read once as well, since mapped
weights are read when they are needed. ``memory``: the most that the process held above what it held before, over the size of the
weights, pages of mapped files counted (Linux only). Ways: ``plain`` loads the pickles whole into a model that was built first, as the
authors' scripts do; ``import`` is ``import_official``; ``first`` is the first ``build_model(pretrained=True)`` after the download,
with hash and conversion, ``later`` every other one; ``folder`` is ``build_model`` of a saved folder.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
WAYS = ("plain", "import", "first", "later", "folder")
KINDS = ("generator", "tokenizer")
COMMIT = "0" * 40


def files(folder: Path) -> dict[str, Path]:
    """Where huggingface_hub would have put a download."""
    snapshot = folder / "hub" / "models--bench--mark" / "snapshots" / COMMIT
    return {kind: snapshot / f"{kind}.pth" for kind in KINDS}


def environment(folder: Path, way: str) -> dict[str, str]:
    """The Hub's cache in ``folder``; conversions in a new place for ``first``, in one place for ``later``."""
    assets = tempfile.mkdtemp(dir=folder) if way == "first" else str(folder / "assets")
    return {**os.environ, "HF_HOME": str(folder), "HF_HUB_OFFLINE": "1", "HF_ASSETS_CACHE": assets, "HF_HUB_CACHE": str(folder / "hub")}


def prepare(name: str, folder: Path) -> float:
    """Write the authors' files, a recipe that names them and a folder of our own; returns the weights' bytes."""
    import yaml
    from official import PUBLISHED, family_of

    from argenzoo.hub import import_official
    from argenzoo.recipe import load_recipe
    from argenzoo.weights import sha256

    for path, layout in zip(files(folder).values(), PUBLISHED[name], strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save({key: torch.randn(shape) * 0.02 for key, shape in layout.items()}, path)
    values = load_recipe(name).dump()
    for kind, path in files(folder).items():
        values["pretrained"][kind] = {"repo": "bench/mark", "file": path.name, "revision": COMMIT, "sha256": sha256(path)}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(values))
    import_official(family_of(name), **files(folder), recipe=name).save_pretrained(folder / "folder")
    return float(sum(path.stat().st_size for path in files(folder).values()))


def plain(name: str, folder: Path) -> Any:
    """Built with random weights first, then filled by copying from pickles that are wholly in memory."""
    from argenzoo.build import assemble, make_tokenizer
    from argenzoo.hub.official.families import family_of
    from argenzoo.recipe import load_recipe

    family, recipe = family_of(name.split("_")[0]), load_recipe(name)
    model = assemble(recipe, make_tokenizer(recipe.tokenizer))
    for kind, module in (("generator", model.network), ("tokenizer", model.tokenizer)):
        state = torch.load(files(folder)[kind], map_location="cpu", weights_only=True)
        module.load_state_dict({**module.state_dict(), **family.ours(kind, state, kind)})
    return model


def load(way: str, name: str, folder: Path) -> Any:
    from argenzoo import build_model
    from argenzoo.hub import import_official

    ways = {
        "plain": lambda: plain(name, folder),
        "import": lambda: import_official(name.split("_")[0], **files(folder), recipe=name),
        "first": lambda: build_model(folder / "recipe.yaml", pretrained=True),
        "later": lambda: build_model(folder / "recipe.yaml", pretrained=True),
        "folder": lambda: build_model(folder / "folder"),
    }
    return ways[way]()


def measure(way: str, name: str, folder: Path) -> None:
    """In a child: print seconds and bytes."""
    from argenzoo.build import assemble, make_tokenizer
    from argenzoo.hub import import_official, pretrained
    from argenzoo.recipe import load_recipe

    recipe = load_recipe(name)
    with torch.device("meta"):
        assemble(recipe, make_tokenizer(recipe.tokenizer))  # what is imported on the way is not what is measured
    del import_official, pretrained
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here
    began = time.perf_counter()
    model = load(way, name, folder)
    built = time.perf_counter() - began
    for parameter in model.parameters():
        parameter.detach().sum()
    read = time.perf_counter() - began
    print(json.dumps({"built": built, "read": read, "bytes": resident("VmHWM") - before}))


def resident(field: str) -> int:
    """Bytes now (VmRSS) or at most (VmHWM), as Linux counts them."""
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) * 1024 if found else 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="var_d16")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        return measure(arguments.child[0], arguments.recipe, Path(arguments.child[1]))
    results: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as name:
        size = prepare(arguments.recipe, Path(name))
        run(arguments.recipe, "later", Path(name))  # converts
        for _ in range(arguments.rounds):
            for way in WAYS:
                results[way].append(run(arguments.recipe, way, Path(name)))
    print(f"{arguments.recipe}: {size / 1e9:.2f} GB of weights, torch {torch.__version__}, {arguments.rounds} rounds, medians")
    print("| way | built (s) | read (s) | memory / weights |\n|---|---|---|---|")
    for way, runs in results.items():
        built, read, memory = (statistics.median(run[key] for run in runs) for key in ("built", "read", "bytes"))
        print(f"| {way} | {built:.2f} | {read:.2f} | {memory / size:.2f} |")
    return None


def run(recipe: str, way: str, folder: Path) -> dict[str, float]:
    command = [sys.executable, __file__, "--recipe", recipe, "--child", way, str(folder)]
    out = subprocess.run(command, capture_output=True, text=True, check=True, env=environment(folder, way)).stdout
    return dict(json.loads(out))


if __name__ == "__main__":
    main()
