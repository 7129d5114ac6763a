"""What a token cache is worth, measured.

Throughput, from pictures and from a cache in turn, with what the device waits for:
    python benchmarks/data.py throughput cifar10_raster --data CIFAR10 --tokenizer RUN --cache CACHE

How start-up and memory depend on the number of samples (it writes caches of random ids, 256 MB at a million):
    python benchmarks/data.py start
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

import numpy as np

from argenzoo.data.cache import Manifest, shard_path
from argenzoo.data.shards import write_shard
from argenzoo.recipe import load_recipe
from argenzoo.training.logs import read_log
from argenzoo.training.trainer import train

SHOWN = {"images_per_second": "images/s", "tokens_per_second": "tokens/s", "data_fraction": "waiting", "encoding_fraction": "encoding"}
OPEN = """
import json, sys, time
import argenzoo.training.trainer
from argenzoo.data.cache import Cached, Manifest
from argenzoo.data.stream import Stream, batches
def resident():
    lines = dict(line.split(":", 1) for line in open("/proc/self/status") if ":" in line)
    return [int(lines[key].split()[0]) for key in ("RssAnon", "RssFile")]
before, began = resident(), time.perf_counter()
manifest = Manifest.parse(json.load(open(sys.argv[1] + "/cache.json")), "cache")
cached = Cached(sys.argv[1], manifest, "train")
stream = batches(cached, Stream(len(cached), 256, 0, 0, 101), 0)
next(stream)
first = time.perf_counter() - began
began = time.perf_counter()
for _ in range(100): next(stream)
rest = (time.perf_counter() - began) / 100
print(json.dumps([first, rest, *(after - was for after, was in zip(resident(), before))]))
"""


def throughput(arguments: argparse.Namespace) -> None:
    """Short trainings in turn; medians over all but each one's first log step."""
    figures: dict[str, dict[str, list[float]]] = {source: {key: [] for key in SHOWN} for source in ("pictures", "cache")}
    for number in range(arguments.rounds):
        for source, found in figures.items():
            with tempfile.TemporaryDirectory() as out:
                overrides = {
                    "tokenizer.weights": arguments.tokenizer, "data.path": arguments.data, "train.out": f"{out}/run", "train.log_every": 5,
                    "train.steps": arguments.steps, "train.eval_samples": 32, "train.sample_every": None, "train.eval_every": None,
                    "data.cache": arguments.cache if source == "cache" else None, "train.workers": arguments.workers,
                }  # fmt: skip
                log = [entry for entry in read_log(train(load_recipe(arguments.recipe, overrides))) if entry["event"] == "train"]
            for key in SHOWN:
                found[key] += [entry[key] for entry in log[1:]]
        print(f"round {number + 1} of {arguments.rounds}", file=sys.stderr)
    title = f"{arguments.recipe}, {arguments.workers} workers"
    print(f"| {title} | {' | '.join(SHOWN.values())} | spread of images/s |\n|---|---|---|---|---|---|")
    for source, found in figures.items():
        middle = {key: median(values) for key, values in found.items()}
        spread = f"{min(found['images_per_second']):.0f} to {max(found['images_per_second']):.0f}"
        rates = f"{middle['images_per_second']:.0f} | {middle['tokens_per_second']:.0f}"
        print(f"| {source} | {rates} | {middle['data_fraction']:.1%} | {middle['encoding_fraction']:.1%} | {spread} |")


def start(_: argparse.Namespace) -> None:
    """A fresh process for each size: from the manifest to the first batch of 256, and what 101 batches add to its memory (Linux)."""
    print("| samples | first batch | later batches | memory of the process | pages of the files |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for count in (1_000, 10_000, 100_000, 1_000_000):
            path = Path(folder) / str(count)
            random_cache(path, count)
            times = []
            for _ in range(3):
                done = subprocess.run([sys.executable, "-c", OPEN, str(path)], capture_output=True, text=True, check=True)
                times.append(json.loads(done.stdout))
            first, rest, own, pages = (median(values) for values in zip(*times, strict=True))
            print(f"| {count:,} | {first * 1e3:.0f} ms | {rest * 1e3:.1f} ms | {own / 1024:.1f} MiB | {pages / 1024:.0f} MiB |", flush=True)


def random_cache(folder: Path, count: int, per_shard: int = 4096) -> None:
    """64 ids of 1,024, two views a sample."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(-(-count // per_shard)):
        size = min(per_shard, count - number * per_shard)
        tokens = rng.integers(0, 1024, (size, 2, 64), dtype=np.uint16)
        write_shard(shard_path(folder, "train", number), tokens, rng.integers(0, 10, size, dtype=np.int32), {})
    values = {
        "tokenizer": {}, "tokenizer_sha256": "", "data": {}, "image_size": 32, "classes": ["a"], "dtype": "uint16", "shape": [64],
        "largest": 1023, "per_shard": per_shard, "about": {},
        "parts": {"train": {"count": count, "views": 2}, "held_out": {"count": 0, "views": 1}},
    }  # fmt: skip
    (folder / "cache.json").write_text(Manifest.parse(values, "cache").model_dump_json())


def main() -> None:
    top = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = top.add_subparsers(required=True)
    command = commands.add_parser("throughput")
    command.add_argument("recipe")
    for name in ("data", "tokenizer", "cache"):
        command.add_argument(f"--{name}", required=True)
    command.add_argument("--steps", type=int, default=30)
    command.add_argument("--rounds", type=int, default=3)
    command.add_argument("--workers", type=int, default=0)
    command.set_defaults(run=throughput)
    commands.add_parser("start").set_defaults(run=start)
    arguments = top.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
