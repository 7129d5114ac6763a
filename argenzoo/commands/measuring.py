"""Commands that measure: evaluate, stats, tokenizer, compare, sweep, scaling, bench."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from argenzoo.commands.common import say
from argenzoo.errors import ArgenzooError
from argenzoo.recipe import parse_overrides


def add(commands: Any) -> None:
    add_evaluation(commands)
    add_comparison(commands)
    add_bench(commands)


def add_evaluation(commands: Any) -> None:
    evaluate = commands.add_parser(
        "evaluate", help="measure a generator (FID, sFID, IS, KID, precision, recall) or a tokenizer (rFID, PSNR, SSIM, LPIPS, usage)"
    )
    evaluate.add_argument("checkpoint", help="a run or checkpoint folder, OWNER/NAME on the Hub, or a published model such as var_d16")
    sampling = evaluate.add_argument_group("generators")
    sampling.add_argument("--seed", type=int, help="of the samples (default: 0)")
    sampling.add_argument("--protocol", help="of labels and rounding: argenzoo (default), llamagen, var or mar")
    sampling.add_argument(
        "--reference", metavar="WHAT", help="a folder, a set, .npz, or .safetensors of 'argenzoo stats' (default: recipe's)"
    )
    sampling.add_argument("--reference-num", type=int, metavar="N", help="so many of its pictures, spread over the set (default: all)")
    sampling.add_argument(
        "--resize",
        type=int,
        metavar="PIXELS",
        help="of the samples, bicubic; a reference of pictures is made at this size (default: as they are sampled)",
    )
    sampling.add_argument("--precision", help="of sampling: fp32 (default) or bf16")
    sampling.add_argument("--keep", action="store_const", const=True, help="write every sample as PNG")
    evaluate.add_argument("--lpips", metavar="FILE", help=".safetensors of torchvision's AlexNet (default: torchvision's, downloaded)")
    evaluate.add_argument("--out", default="evaluation", help="folder for evaluation.json and a picture; a generator's samples go on there")
    stats = commands.add_parser("stats", help="reference statistics of a set's Inception features, kept by the hash of its pixels")
    stats.add_argument("data", nargs="?", metavar="DATA", help="a folder of pictures, or a named set such as cifar10")
    stats.add_argument("--size", type=int, required=True, help="pixels a side")
    stats.add_argument("--out", help="a file for a copy, .safetensors")
    for command in (evaluate, stats):
        command.add_argument("--inception", metavar="FILE", help="weights of the FID Inception (default: the package's, or a download)")
        command.add_argument("--cache", metavar="FOLDER", help="of features and statistics (default: the user's cache)")
    tokenizer = commands.add_parser("tokenizer", help="a tokenizer's latents").add_subparsers(dest="action", required=True)
    latents = tokenizer.add_parser("stats", help="measure the latent scale on pictures, and write it into a copy of the tokenizer")
    latents.add_argument("checkpoint", help="a tokenizer's run or checkpoint folder, or a recipe with tokenizer.weights=...")
    latents.add_argument("--out", help="a new folder for the tokenizer with that scale (default: only print it)")
    for command in (evaluate, stats, latents):
        what = ", and a generator's sampling, such as guidance=2" if command is evaluate else ""
        command.add_argument("pairs", nargs="*", metavar="key=value", help=f"the pictures, such as data.name=folder data.path=PATH{what}")
        number = "so many, spread over the set (default: all); samples of a generator (default: 50,000)"
        command.add_argument("--num", type=int, help=number if command is evaluate else number.partition(";")[0])
        command.add_argument("--batch", type=int, default=32, help="pictures at a time; changes nothing but memory and speed")
        command.add_argument("--device", help="default: the GPU where there is one")
        command.add_argument("--overwrite", action="store_true", help="replace what is there")


def add_comparison(commands: Any) -> None:
    compare = commands.add_parser("compare", help="train what is missing within one budget, measure everything, write one report")
    compare.add_argument(
        "pairs", nargs="+", metavar="WHAT", help="a study's name or file, or recipes and checkpoints; then overrides, key=value"
    )
    sweep = commands.add_parser("sweep", help="sample a checkpoint in several ways: quality over guidance, temperature, steps")
    sweep.add_argument("checkpoint", help="a run or checkpoint folder, or a published model")
    sweep.add_argument("--device", help="default: the GPU where there is one")
    scaling = commands.add_parser("scaling", help="train one recipe in several sizes and fit scaling laws")
    scaling.add_argument("source", help="a study, or a recipe and its ladder: generator.dim=64,96,128 generator.depth=2,3,4")
    for command in (sweep, scaling):
        command.add_argument("pairs", nargs="*", metavar="key=value", help="several values with commas are swept; one is an override")
    for command in (compare, scaling):
        command.add_argument(
            "--budget", help="of each training: 2000steps, 900s or 1e15flops (default: the study's, or the recipes' steps)"
        )
        command.add_argument("--shared", metavar="FOLDER", help="of caches, trainings and samples, for several studies (default: --out)")
    for command in (compare, sweep, scaling):
        command.add_argument("--out", required=True, help="folder; goes on where it stopped")
        command.add_argument("--num", type=int, help="samples of each (default: 1,000, or the study's)")
        command.add_argument("--seed", type=int, help="of the samples")
        command.add_argument("--reference", metavar="WHAT", help="as for 'argenzoo evaluate'")
        command.add_argument("--reference-num", type=int, metavar="N", help="so many of its pictures")
        command.add_argument(
            "--resize", type=int, metavar="PIXELS", help="of the samples, bicubic; a reference of pictures is made at this size"
        )
        command.add_argument("--batch", type=int, help="pictures at a time")
        command.add_argument("--precision", help="of sampling: fp32 or bf16")
        command.add_argument("--protocol", help="of labels and rounding")
        command.add_argument("--inception", metavar="FILE", help="weights of the FID Inception")
        command.add_argument("--cache", metavar="FOLDER", help="of features and statistics (default: the user's cache)")
        command.add_argument("--overwrite", action="store_true", help="replace samples of another plan")


def add_bench(commands: Any) -> None:
    bench = commands.add_parser("bench", help="time sampling and training steps on this machine, beside what it could do")
    bench.add_argument("pairs", nargs="+", metavar="WHAT", help="recipes (with random weights) and checkpoints; then overrides, key=value")
    bench.add_argument("--kinds", default="tokens,pictures,training", help="of what is timed (default: tokens,pictures,training)")
    bench.add_argument("--batch", default="1", help="one or several: 1,8,64")
    bench.add_argument("--precision", default="fp32", help="fp32, bf16, or both: fp32,bf16")
    bench.add_argument(
        "--with",
        dest="variants",
        action="append",
        default=[],
        metavar="'KEY=VALUE ...'",
        help="time every model with these overrides too; several times for several variants",
    )
    bench.add_argument("--rounds", type=int, default=5, help="in which all cases are timed in turn, after one that warms up")
    bench.add_argument("--device", help="default: the GPU where there is one")
    bench.add_argument("--peer", type=Path, metavar="PATH", help="a checkout of the author's repository, to be timed in turn with ours")
    bench.add_argument("--out", type=Path, metavar="FOLDER", help="for bench.json and bench.md")
    bench.add_argument("--overwrite", action="store_true", help="replace what is there")


def settings_of(arguments: argparse.Namespace) -> Any:
    from argenzoo.evaluation.settings import Settings

    given = {entry.name: getattr(arguments, entry.name, None) for entry in fields(Settings)}
    return Settings(**{name: value for name, value in given.items() if value is not None})


def evaluate_command(arguments: argparse.Namespace) -> None:
    from argenzoo.evaluation.command import evaluate, table

    made = evaluate(arguments.checkpoint, parse_overrides(arguments.pairs), settings_of(arguments))
    if made:  # by the first process
        print(f"{table(made)}\n{arguments.out}: evaluation.json and {made['picture']}")


def compare_command(arguments: argparse.Namespace) -> None:
    from argenzoo.comparison.command import compare

    names, pairs = named(arguments.pairs)
    if not names:
        raise ArgenzooError("name a study, or recipes and checkpoints")
    text = compare(names, arguments.out, parse_overrides(pairs), budget_of(arguments), *measure_of(arguments), say, arguments.shared)
    say(f"{text}\n{arguments.out}: report.html, report.md, results.json, figures")


def sweep_command(arguments: argparse.Namespace) -> None:
    from argenzoo.comparison.command import sweep

    values, overrides = several(arguments.pairs)
    text = sweep(arguments.checkpoint, arguments.out, values, overrides, *measure_of(arguments), say)
    say(f"{text}\n{arguments.out}: report.html, report.md, results.json, figures")


def scaling_command(arguments: argparse.Namespace) -> None:
    from argenzoo.comparison.command import scale

    ladder, overrides = several(arguments.pairs)
    text = scale(arguments.source, arguments.out, ladder, overrides, budget_of(arguments), *measure_of(arguments), say, arguments.shared)
    say(f"{text}\n{arguments.out}: report.html, report.md, scaling.json, figures")


def bench_command(arguments: argparse.Namespace) -> None:
    from argenzoo.benchmarking.command import Settings, bench

    names, pairs = named(arguments.pairs)
    if not names:
        raise ArgenzooError("name a recipe or a checkpoint")
    try:
        batches = [int(number) for number in arguments.batch.split(",")]
    except ValueError:
        raise ArgenzooError(f"--batch {arguments.batch}: expected numbers, such as 1,8") from None
    ways = {"kinds": arguments.kinds.split(","), "batches": batches, "precisions": arguments.precision.split(",")}
    rest = {name: getattr(arguments, name) for name in ("variants", "rounds", "device", "peer", "out", "overwrite")}
    print(bench(names, parse_overrides(pairs), Settings(**ways, **rest)))


def named(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """(names, key=value pairs)."""
    return [word for word in words if "=" not in word], [word for word in words if "=" in word]


def measure_of(arguments: argparse.Namespace) -> tuple[dict[str, Any], Any]:
    """(what a study's measure replaces, settings of this machine)."""
    from argenzoo.comparison.study import Measure
    from argenzoo.evaluation.settings import Settings

    given = {name: value for name in Measure.model_fields if (value := getattr(arguments, name, None)) is not None}
    where = {name: value for name in ("inception", "cache", "device") if (value := getattr(arguments, name, None)) is not None}
    return given, Settings(**where, overwrite=arguments.overwrite)


def budget_of(arguments: argparse.Namespace) -> dict[str, float]:
    """``900s`` -> {"seconds": 900}."""
    if arguments.budget is None:
        return {}
    match = re.fullmatch(r"([0-9.]+(?:e[+]?[0-9]+)?) ?(s|seconds|steps|flops)", arguments.budget.lower())
    try:
        value = float(match[1]) if match else 0.0
    except ValueError:
        value = 0.0
    if match is None or value <= 0 or (match[2] == "steps" and value != int(value)):
        raise ArgenzooError(f"--budget {arguments.budget}: expected such as 2000steps, 900s or 1e15flops")
    kind = "seconds" if match[2] in ("s", "seconds") else match[2]
    return {kind: int(value) if kind == "steps" else value}


def several(pairs: Sequence[str]) -> tuple[dict[str, list[Any]], dict[str, Any]]:
    """(keys of several values, with commas; the others)."""
    lists, single = {}, []
    for pair in pairs:
        key, sign, text = pair.partition("=")
        if sign and "," in text and not text.startswith(("[", "{")):
            lists[key] = [parse_overrides([f"{key}={value}"])[key] for value in text.split(",")]
        else:
            single.append(pair)
    return lists, parse_overrides(single)


def stats_command(arguments: argparse.Namespace) -> None:
    from argenzoo.evaluation.stats import named_set, stats

    words = [arguments.data, *arguments.pairs] if arguments.data is not None else arguments.pairs
    named = named_set(words.pop(0)) if words and "=" not in words[0] else {}
    found, path = stats({**named, **parse_overrides(words)}, arguments.size, settings_of(arguments))
    print(f"{found.count:,} pictures, pixels {found.pixels[:16]}, Inception {found.inception[:16]}: {path}")


def tokenizer_command(arguments: argparse.Namespace) -> None:
    from argenzoo.evaluation.latents import latent_stats

    made = latent_stats(arguments.checkpoint, parse_overrides(arguments.pairs), settings_of(arguments))
    now, before = (" ".join(f"{factor:.4f}" for factor in made[key]) for key in ("latent_scale", "before"))
    print(f"latent scale {now}, from {made['data']['num']:,} pictures (it was {before})")
    print(f"written to {arguments.out}" if arguments.out else "nothing was written: --out FOLDER makes a tokenizer with this scale")


COMMANDS: dict[str, Any] = {
    "evaluate": evaluate_command,
    "compare": compare_command,
    "sweep": sweep_command,
    "scaling": scaling_command,
    "stats": stats_command,
    "tokenizer": tokenizer_command,
    "bench": bench_command,
}
