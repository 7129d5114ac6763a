"""How fast and how lean published weights load. Each way runs in a process of its own, in turn, ROUNDS times.

    python benchmarks/loading.py --recipe var_d16 --rounds 3

Weights are random, in the authors' layout (the rules of tests/official.py), on disk, in the page cache. ``memory``: the most that
the process held above what it held before, over the size of the weights, once every parameter has been read; what is mapped
from a file counts (Linux only). Ways: ``plain`` loads the pickles whole into a model that was built first, as the authors' scripts do;
``import`` is ``import_official``; ``convert`` what the first ``pretrained=True`` does after the download, ``converted`` what every later
one does; ``folder`` is ``build_model`` of a saved folder.
"""

from __future__ import annotations

import argparse
import json
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
WAYS = ("plain", "import", "convert", "converted", "folder")
KINDS = ("generator", "tokenizer")


def files(folder: Path) -> dict[str, Path]:
    return {kind: folder / f"{kind}.pth" for kind in KINDS}


def prepare(recipe: str, folder: Path) -> float:
    """Write the authors' files, a conversion and a folder of our own; returns the weights' bytes."""
    from official import PUBLISHED, family_of

    from argenzoo.hub import import_official

    for path, layout in zip(files(folder).values(), PUBLISHED[recipe], strict=True):
        torch.save({key: torch.randn(shape) * 0.02 for key, shape in layout.items()}, path)
    import_official(family_of(recipe), **files(folder), recipe=recipe).save_pretrained(folder / "folder")
    convert(recipe, folder, folder)
    return float(sum(path.stat().st_size for path in files(folder).values()))


def convert(recipe: str, folder: Path, target: Path) -> None:
    from argenzoo.hub import pretrained
    from argenzoo.published import HubFile

    family = recipe.split("_")[0]
    for kind, path in files(folder).items():
        pretrained.convert(HubFile(repo="bench/mark", file=path.name), path, family, kind, target / f"{kind}.safetensors")


def converted(recipe: str, folder: Path) -> Any:
    from argenzoo.checkpoint import read_weights
    from argenzoo.hub.official.importing import filled
    from argenzoo.hub.official.weights import Weights
    from argenzoo.recipe import load_recipe

    parts = (Weights(read_weights(folder / f"{kind}.safetensors"), kind) for kind in KINDS)
    return filled(load_recipe(recipe), *parts)


def converting(recipe: str, folder: Path) -> Any:
    with tempfile.TemporaryDirectory(dir=folder) as target:
        convert(recipe, folder, Path(target))
        return converted(recipe, Path(target))


def plain(recipe: str, folder: Path) -> Any:
    """Built with random weights first, then filled by copying from pickles that are wholly in memory."""
    from argenzoo.build import assemble, make_tokenizer
    from argenzoo.hub.official.families import FAMILIES
    from argenzoo.recipe import load_recipe

    family, chosen = FAMILIES[recipe.split("_")[0]], load_recipe(recipe)
    model = assemble(chosen, make_tokenizer(chosen.tokenizer))
    for kind, module in (("generator", model.network), ("tokenizer", model.tokenizer)):
        state = torch.load(files(folder)[kind], map_location="cpu", weights_only=True)
        module.load_state_dict({**module.state_dict(), **family.ours(kind, state, kind)})
    return model


def load(way: str, recipe: str, folder: Path) -> Any:
    from argenzoo import build_model
    from argenzoo.hub import import_official

    ways = {
        "plain": lambda: plain(recipe, folder),
        "import": lambda: import_official(recipe.split("_")[0], **files(folder), recipe=recipe),
        "convert": lambda: converting(recipe, folder),
        "converted": lambda: converted(recipe, folder),
        "folder": lambda: build_model(folder / "folder"),
    }
    return ways[way]()


def measure(way: str, recipe: str, folder: Path) -> None:
    """In a child: print seconds and bytes."""
    from argenzoo import load_recipe
    from argenzoo.build import make_tokenizer
    from argenzoo.hub import import_official, pretrained

    del import_official, pretrained
    with torch.device("meta"):
        make_tokenizer(load_recipe(recipe).tokenizer)  # what is imported on the way is not what is measured
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here
    began = time.perf_counter()
    model = load(way, recipe, folder)
    seconds = time.perf_counter() - began
    for parameter in model.parameters():
        parameter.detach().flatten()[::512].sum()  # every page
    print(json.dumps({"seconds": seconds, "bytes": resident("VmHWM") - before}))


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
        for _ in range(arguments.rounds):
            for way in WAYS:
                command = [sys.executable, __file__, "--recipe", arguments.recipe, "--child", way, name]
                results[way].append(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
    print(f"{arguments.recipe}: {size / 1e9:.2f} GB of weights, torch {torch.__version__}, {arguments.rounds} rounds, medians")
    print("| way | seconds | memory / weights |\n|---|---|---|")
    for way, runs in results.items():
        seconds, memory = (statistics.median(run[key] for run in runs) for key in ("seconds", "bytes"))
        print(f"| {way} | {seconds:.2f} | {memory / size:.2f} |")
    return None


if __name__ == "__main__":
    main()
