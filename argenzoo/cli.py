"""The command line: train, cache, sample, evaluate, stats, tokenizer, import, list, show, demo."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any

import torch

from argenzoo.device import leave
from argenzoo.errors import ArgenzooError
from argenzoo.recipe import Recipe, describe, list_models, load_recipe, parse_overrides
from argenzoo.versions import __version__

EXAMPLES = """examples:
  argenzoo list
  argenzoo show recipe=var_d20
  argenzoo train recipe=fruit_vq train.out=runs/vq
  argenzoo train recipe=fruit_raster tokenizer.weights=runs/vq train.lr=1e-3
  argenzoo sample runs/fruit_raster --classes 3,5 --num 16 --guidance 2 --seed 0 --out samples
  argenzoo sample var_d16 --classes 207 --num 8
  argenzoo evaluate runs/cifar10_vq data.split=test data.held_out=0 --num 2000 --out results/cifar10_vq
  argenzoo import var --generator var_d16.pth --tokenizer vae_ch160v4096z32.pth --out weights/var_d16
"""


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="argenzoo", description="A zoo of autoregressive image generators.", epilog=EXAMPLES,
                                  formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    top.add_argument("--version", action="version", version=__version__)
    commands = top.add_subparsers(dest="command", required=True)
    for name, text in {"train": "train a recipe", "show": "print a resolved recipe, its parameters, FLOPs, memory and steps"}.items():
        command = commands.add_parser(name, help=text)
        command.add_argument("pairs", nargs="+", metavar="key=value", help="recipe=NAME|PATH, then overrides such as train.lr=1e-4")
    cache = commands.add_parser("cache", help="encode a recipe's pictures once, for trainings that read tokens")
    cache.add_argument("pairs", nargs="+", metavar="key=value", help="recipe=NAME|PATH and tokenizer.weights=RUN, then other overrides")
    cache.add_argument("--out", required=True, help="folder; goes on where it stopped")
    cache.add_argument("--dtype", default="float32", help="of vectors and moments: float32 or float16")
    cache.add_argument("--copies", type=int, help="cuts of each picture, where data.crop is random")
    cache.add_argument("--shard", type=int, default=4096, help="samples a file")
    cache.add_argument("--device", help="default: the GPU where there is one")
    add_import(commands)
    listing = commands.add_parser("list", help="list the recipes")
    listing.add_argument("--pretrained", action="store_true", help="only those with published weights")
    sample = commands.add_parser("sample", help="sample pictures from a checkpoint")
    sample.add_argument("checkpoint", help="a checkpoint or run folder, OWNER/NAME on the Hub, or a published model such as var_d16")
    sample.add_argument("pairs", nargs="*", metavar="key=value", help="sampling options such as head.temperature=0.9 order.num_steps=16")
    sample.add_argument("--classes", help="labels or names, with commas (default: all, at most 8)")
    sample.add_argument("--num", type=int, help="pictures in all, dealt over the classes (default: 4 a class)")
    sample.add_argument("--guidance", type=float, help="scale at the end of the ramp; 1 is off (default: the recipe's)")
    sample.add_argument("--seed", type=int, default=0)
    sample.add_argument("--batch", type=int, default=16, help="pictures at a time; changes nothing but memory and speed")
    sample.add_argument("--out", default="samples", help="a new folder, or one of an earlier sampling with --overwrite")
    sample.add_argument("--overwrite", action="store_true", help="replace pictures that are there")
    sample.add_argument("--device", help="default: the GPU where there is one")
    add_evaluation(commands)
    demo = commands.add_parser("demo", help="train every paradigm on photographs of fruit and compare")
    demo.add_argument("--out", default="runs/demo", help="folder; goes on where it stopped")
    demo.add_argument("--all", action="store_true", help="all six cells of generator and head")
    return top


def add_evaluation(commands: Any) -> None:
    evaluate = commands.add_parser("evaluate", help="measure a tokenizer: rFID, PSNR, SSIM, LPIPS, codebook usage, and a picture")
    evaluate.add_argument("checkpoint", help="a tokenizer's run or checkpoint folder, or a recipe with tokenizer.weights=...")
    evaluate.add_argument("--lpips", metavar="FILE", help=".safetensors of torchvision's AlexNet (default: torchvision's, downloaded)")
    evaluate.add_argument("--out", default="evaluation", help="a new folder for evaluation.json and reconstructions.png")
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
        command.add_argument("pairs", nargs="*", metavar="key=value", help="the pictures, such as data.name=folder data.path=PATH")
        command.add_argument("--num", type=int, help="so many, spread over the set (default: all)")
        command.add_argument("--batch", type=int, default=32, help="pictures at a time; changes nothing but memory and speed")
        command.add_argument("--device", help="default: the GPU where there is one")
        command.add_argument("--overwrite", action="store_true", help="replace what is there")


def add_import(commands: Any) -> None:
    command = commands.add_parser("import", help="turn the authors' files of LlamaGen, VAR or MAR into a checkpoint")
    command.add_argument("family", help="llamagen, var or mar")
    command.add_argument("--generator", help="file of the generator; without it the tokenizer alone is imported")
    command.add_argument("--tokenizer", help="file of the tokenizer")
    command.add_argument("--out", required=True, help="a new folder")
    command.add_argument("--recipe", help="what shapes can't tell (default: the published recipe that fits)")
    command.add_argument("--scales", help="sides of the token grids with commas, such as 24, or 1,2,4")
    command.add_argument("--num-heads", type=int, help="of sizes that nobody published")
    command.add_argument("--patch-size", type=int, help="MAR: latents a side that make a token (default: told by the two files, else 1)")
    command.add_argument("--buffer-size", type=int, help="MAR: checked against the file")
    command.add_argument("--raw", action="store_true", help="MAR: the raw weights instead of the averaged ones")
    command.add_argument("--license", help="of the weights, for the model card, such as mit")
    command.add_argument("--overwrite", action="store_true", help="replace a checkpoint that is there")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; a user's mistake is one line on standard error and status 2."""
    arguments = parse(argv)
    try:
        COMMANDS[arguments.command](arguments)
        leave()
    except ArgenzooError as error:
        print(f"argenzoo: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except torch.OutOfMemoryError as error:
        print(f"argenzoo: error: out of memory ({str(error).splitlines()[0]}): use a smaller --batch, or another --device", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader, head say, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        print(f"argenzoo: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("argenzoo: interrupted", file=sys.stderr)
        return 130
    return 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Arguments; ``key=value`` pairs may stand before and after options."""
    top = parser()
    arguments, rest = top.parse_known_args(argv)
    wrong = [text for text in rest if text.startswith("-") or "=" not in text or not hasattr(arguments, "pairs")]
    if wrong:
        top.error(f"unrecognized arguments: {' '.join(wrong)}")
    if rest:
        arguments.pairs = [*arguments.pairs, *rest]
    return arguments


def recipe_from(pairs: Sequence[str]) -> Recipe:
    overrides = parse_overrides(pairs)
    name = overrides.pop("recipe", None)
    if name is None:
        raise ArgenzooError("name a recipe: recipe=NAME or recipe=PATH ('argenzoo list' shows the names)")
    return load_recipe(str(name), overrides)


def say(text: str) -> None:
    """Once, however many processes there are."""
    if os.environ.get("RANK", "0") == "0":
        print(text)


def train_command(arguments: argparse.Namespace) -> None:
    from argenzoo.training.trainer import train

    recipe = recipe_from(arguments.pairs)
    out = train(recipe)
    say(f"{recipe.name}: checkpoints, samples and logs are in {out}")


def cache_command(arguments: argparse.Namespace) -> None:
    from argenzoo.caching import cache

    made = cache(recipe_from(arguments.pairs), arguments.out, arguments.dtype, arguments.copies, arguments.shard, device=arguments.device)
    for name, part in made.parts.items():
        wrong = f", {part.corrupt} corrupt pictures stepped over" if part.corrupt else ""
        say(f"{name:9} {part.count:,} samples of {part.views} views{wrong}")
    say(f"train on it with data.cache={arguments.out}")


def sample_command(arguments: argparse.Namespace) -> None:
    from argenzoo.sampling.command import sample

    made = sample(
        arguments.checkpoint,
        out=arguments.out,
        classes=arguments.classes.split(",") if arguments.classes else None,
        num=arguments.num,
        guidance=arguments.guidance,
        seed=arguments.seed,
        batch=arguments.batch,
        overwrite=arguments.overwrite,
        device=arguments.device,
        sampling=parse_overrides(arguments.pairs),
    )
    print(f"{made['num']} pictures in {made['seconds']:.1f} s: {arguments.out}/grid.png, single pictures and samples.json beside it")


def settings_of(arguments: argparse.Namespace) -> Any:
    from argenzoo.evaluation.settings import Settings

    names = ("num", "out", "batch", "inception", "lpips", "cache", "device")
    given: dict[str, Any] = {name: value for name in names if (value := getattr(arguments, name, None)) is not None}
    return Settings(**given, overwrite=arguments.overwrite)


def evaluate_command(arguments: argparse.Namespace) -> None:
    from argenzoo.evaluation.command import evaluate, table

    made = evaluate(arguments.checkpoint, parse_overrides(arguments.pairs), settings_of(arguments))
    print(f"{table(made)}\n{arguments.out}: evaluation.json and reconstructions.png (originals, reconstructions, 4 x their errors)")


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


def import_command(arguments: argparse.Namespace) -> None:
    from argenzoo.hub import import_official

    if arguments.tokenizer is None:
        raise ArgenzooError("a checkpoint holds its tokenizer too: give --tokenizer FILE")
    model = import_official(
        arguments.family,
        arguments.generator,
        arguments.tokenizer,
        recipe=arguments.recipe,
        scales=numbers(arguments.scales),
        num_heads=arguments.num_heads,
        patch_size=arguments.patch_size,
        buffer_size=arguments.buffer_size,
        averaged=not arguments.raw,
    )
    model.save_pretrained(arguments.out, arguments.license, arguments.overwrite)
    if model.network is None:
        say(f"{model.recipe.name}: use it with tokenizer.weights={arguments.out}")
    else:
        say(f"{model.recipe.name}: argenzoo sample {arguments.out}")


def numbers(text: str | None) -> list[int] | None:
    """``1,2,4`` -> [1, 2, 4]."""
    try:
        return None if text is None else [int(part) for part in text.split(",")]
    except ValueError:
        raise ArgenzooError(f"--scales {text}: expected whole numbers with commas") from None


def list_command(arguments: argparse.Namespace) -> None:
    for name in list_models(arguments.pretrained):
        parts, about = describe(name)
        print(f"{name:24} {' + '.join(parts):38} {about}")


def show_command(arguments: argparse.Namespace) -> None:
    from argenzoo.report import report

    recipe = recipe_from(arguments.pairs)
    print(recipe.yaml())
    print(report(recipe))


def demo_command(arguments: argparse.Namespace) -> None:
    from argenzoo.demo import demo

    print(demo(arguments.out, every_cell=arguments.all, say=print))


COMMANDS: dict[str, Any] = {
    "train": train_command,
    "cache": cache_command,
    "sample": sample_command,
    "evaluate": evaluate_command,
    "stats": stats_command,
    "tokenizer": tokenizer_command,
    "import": import_command,
    "list": list_command,
    "show": show_command,
    "demo": demo_command,
}
