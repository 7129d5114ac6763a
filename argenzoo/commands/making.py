"""Commands that make and show: train, cache, sample, import, list, show, demo."""

from __future__ import annotations

import argparse
from typing import Any

from argenzoo.commands.common import recipe_from, say
from argenzoo.errors import ArgenzooError
from argenzoo.recipe import describe, list_models, parse_overrides


def add(commands: Any) -> None:
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
    demo = commands.add_parser("demo", help="train every paradigm on photographs of fruit and compare")
    demo.add_argument("--out", default="runs/demo", help="folder; goes on where it stopped")
    demo.add_argument("--all", action="store_true", help="all six cells of generator and head")


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
    "import": import_command,
    "list": list_command,
    "show": show_command,
    "demo": demo_command,
}
