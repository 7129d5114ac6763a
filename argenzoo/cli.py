"""The command line: reads arguments, runs a command, says in one line what a user got wrong."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any

import torch

from argenzoo.commands import making, measuring
from argenzoo.device import keep_memory, leave
from argenzoo.errors import ArgenzooError
from argenzoo.versions import __version__

EXAMPLES = """examples:
  argenzoo list
  argenzoo show recipe=var_d20
  argenzoo train recipe=fruit_vq train.out=runs/vq
  argenzoo train recipe=fruit_raster tokenizer.weights=runs/vq train.lr=1e-3
  argenzoo sample runs/fruit_raster --classes 3,5 --num 16 --guidance 2 --seed 0 --out samples
  argenzoo sample var_d16 --classes 207 --num 8
  argenzoo evaluate var_d16 --reference VIRTUAL_imagenet256_labeled.npz --out results/var_d16
  argenzoo compare cifar10_raster cifar10_mar data.path=CIFAR10 --budget 900s --out results/comparison
  argenzoo import var --generator var_d16.pth --tokenizer vae_ch160v4096z32.pth --out weights/var_d16
"""


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="argenzoo", description="A zoo of autoregressive image generators.", epilog=EXAMPLES,
                                  formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    top.add_argument("--version", action="version", version=__version__)
    commands = top.add_subparsers(dest="command", required=True)
    making.add(commands)
    measuring.add(commands)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; a user's mistake is one line on standard error and status 2."""
    arguments = parse(argv)
    keep_memory()
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


COMMANDS: dict[str, Any] = {**making.COMMANDS, **measuring.COMMANDS}
