"""Training choices of the small tokenizers, side by side on CIFAR-10, and the speed of a training step.

    python benchmarks/assets.py --out ASSETS
    python benchmarks/tokenizer_training.py train cifar10_vq --data CIFAR10 --vgg ASSETS/vgg16.safetensors --out runs/tok
    python benchmarks/tokenizer_training.py export runs/tok/cifar10_vq benchmarks/weights/cifar10_vq
    python benchmarks/tokenizer_training.py ablation --data CIFAR10 --out runs/tok
    python benchmarks/tokenizer_training.py step --vgg ASSETS/vgg16.safetensors

Each part goes on where it stopped. ``train`` takes cifar10_vq, cifar10_msvq, cifar10_kl or llamagen, which is cifar10_vq with LlamaGen's
training choices: weights of the losses, Adam at a constant 1e-4, a discriminator from 5 % of the steps on with a fixed weight, no entropy
term, no restarts, no averaging. The ablation (1,500 steps an arm, less than 10 minutes on 2 CPU cores) trains without the networks'
losses, so that the codebook is what differs: PSNR and usage over the held-out pictures. ``--precision bf16`` takes two thirds of the time
where the processor multiplies bfloat16. ``step`` times a plain loop and ours in turn.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from argenzoo.build import build_tokenizer, make_tokenizer
from argenzoo.checkpoint import MODEL, RECIPE, resolve
from argenzoo.errors import ArgenzooError
from argenzoo.hub.hosting import shareable
from argenzoo.losses.adversarial import Adversarial, hinge
from argenzoo.losses.perceptual import Perceptual
from argenzoo.recipe import Recipe, load_recipe
from argenzoo.training.logs import read_log
from argenzoo.training.trainer import train
from argenzoo.versions import about
from argenzoo.weights import save_weights, sha256

LARGEST = 5_000_000  # bytes of a committed file
LLAMAGEN = {
    "loss": {"l2": 1.0, "perceptual": {"weight": 1.0, "net": "vgg"}, "codebook": 1.0, "commitment": 0.25,
             "adversarial": {"weight": 0.5, "kind": "hinge", "start": 180, "dim": 64, "layers": 3}},
    "codebook": None, "train.optimizer": "adam", "train.lr": 1e-4, "train.schedule": "constant", "train.warmup": 0.0, "train.ema": None,
}  # fmt: skip
PLAIN = {"loss": {"l2": 1.0, "codebook": 1.0, "commitment": 0.25}, "codebook": None, "train.steps": 1500, "train.eval_samples": 2500}
ARMS: dict[str, dict[str, Any]] = {
    "l2-norm, 8 channels, 1,024 codes": {},
    "without l2-norm": {"tokenizer.normalize": False},
    "4 channels": {"tokenizer.dim": 4},
    "32 channels": {"tokenizer.dim": 32},
    "256 codes": {"tokenizer.vocab_size": 256},
    "4,096 codes": {"tokenizer.vocab_size": 4096},
    "with entropy term 0.05": {"loss.entropy": 0.05},
    "with restarts every 200 steps": {"codebook": {"restart": 200}},
    "without l2-norm, with restarts": {"tokenizer.normalize": False, "codebook": {"restart": 200}},
}


def one(name: str, out: Path, overrides: dict[str, Any]) -> Path:
    """Train, or go on, or nothing where it is done."""
    settings = {"train.out": str(out), "train.resume": True, **overrides}
    return train(load_recipe(name, settings))


def train_command(arguments: argparse.Namespace) -> None:
    base = "cifar10_vq" if arguments.name == "llamagen" else arguments.name
    changes: dict[str, Any] = dict(LLAMAGEN) if arguments.name == "llamagen" else {}
    changes |= {"data.path": arguments.data, "loss.perceptual.weights": arguments.vgg, "train.precision": arguments.precision}
    print(one(base, arguments.out / arguments.name, changes))


def export_command(arguments: argparse.Namespace) -> None:
    """A run's averaged weights in float16, with its recipe, as a checkpoint folder."""
    tokenizer = build_tokenizer(arguments.run)
    recipe = shareable(load_recipe(resolve(arguments.run) / RECIPE))
    arguments.folder.mkdir(parents=True, exist_ok=True)
    state = {key: tensor if key.startswith("scale.") else tensor.half() for key, tensor in tokenizer.state_dict().items()}
    kind = json.dumps(recipe.tokenizer.dump())
    save_weights(arguments.folder / MODEL, state, {**about(), "recipe": recipe.name, "tokenizer": kind})
    (arguments.folder / RECIPE).write_text(recipe.yaml(), encoding="utf-8")
    size = (arguments.folder / MODEL).stat().st_size
    if size > LARGEST:
        raise ArgenzooError(f"{arguments.folder / MODEL} has {size:,} bytes, more than {LARGEST:,}")
    print(f"{sha256(arguments.folder / MODEL)}  {arguments.folder.name}/{MODEL}")


def ablation_command(arguments: argparse.Namespace) -> None:
    rows = ["| arm | PSNR | codes used | perplexity | seconds |", "|---|---|---|---|---|"]
    for arm, changes in ARMS.items():
        folder = arguments.out / "ablation" / arm.replace(",", "").replace(" ", "_")
        log = read_log(one("cifar10_vq", folder, {**PLAIN, **changes, "data.path": arguments.data, "train.precision": arguments.precision}))
        last = [entry for entry in log if entry["event"] == "held_out"][-1]
        seconds = sum(entry["seconds"] for entry in log if entry["event"] in ("end", "stopped"))
        figures = f"{last['held_out_psnr']:.2f} dB | {last['held_out_codebook_usage']:.1%} | {last['held_out_codebook_perplexity']:.0f}"
        rows.append(f"| {arm} | {figures} | {seconds:.0f} |")
        print("\n".join(rows), flush=True)
    (arguments.out / "ablation.md").write_text("\n".join(rows) + "\n", encoding="utf-8")


class PlainLoop:
    """What one would write: VQGAN's two backward passes for the adaptive weight, Adam, the default memory layout."""

    def __init__(self, recipe: Recipe) -> None:
        torch.manual_seed(0)
        assert recipe.loss is not None
        self.tokenizer = make_tokenizer(recipe.tokenizer)
        self.section: dict[str, Any] = recipe.loss
        self.perceptual, self.adversarial = Perceptual(self.section["perceptual"]), Adversarial(self.section["adversarial"])
        self.discriminator = self.adversarial.opponent.discriminator
        self.optimizers = [torch.optim.AdamW(m.parameters(), lr=1e-4, weight_decay=0.0) for m in (self.tokenizer, self.discriminator)]

    def step(self, pictures: Tensor) -> None:
        made = self.tokenizer.reconstruct(pictures)
        others = F.mse_loss(made.pictures, pictures) + self.perceptual(made.pictures, pictures)
        against = -self.discriminator(made.pictures).mean()
        last = self.tokenizer.last_layer
        norms = [torch.autograd.grad(loss, last, retain_graph=True)[0].norm() for loss in (others, against)]
        own = sum(self.section[term] * made.terms[term]() for term in made.terms if term in self.section)
        loss = others + own + self.adversarial.config.weight * (norms[0] / (norms[1] + 1e-6)).detach() * against
        self._update(0, loss)
        self._update(1, hinge(self.discriminator(pictures), self.discriminator(made.pictures.detach())))

    def _update(self, number: int, loss: Tensor) -> None:
        self.optimizers[number].zero_grad()
        loss.backward()
        parameters = [p for group in self.optimizers[number].param_groups for p in group["params"]]
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        self.optimizers[number].step()


class Ours:
    """The trainer's step: its task, players and bookkeeping, without the files."""

    def __init__(self, recipe: Recipe, folder: Path, layout: torch.memory_format = torch.contiguous_format) -> None:
        from argenzoo.training.source import open_source
        from argenzoo.training.trainer import Trainer

        assert recipe.data is not None
        self.trainer = Trainer(recipe.with_train(out=str(folder)), open_source(recipe.data))
        for player in self.trainer.players:
            player.prepare(self.trainer.accelerator)
            player.module.to(memory_format=layout)
        self.steps = 0

    def step(self, pictures: Tensor) -> None:
        from argenzoo.rng import Rng

        trainer = self.trainer
        rng = Rng(0, range(len(pictures)), "train", pictures.device, self.steps)
        trainer._inputs = lambda step, stream: trainer.task.inputs(pictures, torch.zeros(len(pictures)), rng, step)  # type: ignore[method-assign]
        trainer._step(self.steps, iter(()))
        self.steps += 1


def step_command(arguments: argparse.Namespace) -> None:
    import tempfile

    rows = ["| tokenizer | plain loop | ours | ours, channels_last | plain / ours |", "|---|---|---|---|---|"]
    pictures = torch.rand(32, 3, 32, 32) * 2 - 1
    for name in ("cifar10_vq", "cifar10_msvq", "cifar10_kl"):
        changes = {"loss.perceptual.weights": arguments.vgg, "loss.adversarial.start": 0, "train.ema": None}
        recipe = load_recipe(name, {**changes, "data": {"name": "fruit", "held_out": 0.0}})
        with tempfile.TemporaryDirectory() as folder:
            ways: dict[str, Callable[[Tensor], None]] = {
                "plain": PlainLoop(recipe).step,
                "ours": Ours(recipe, Path(folder) / "one").step,
                "last": Ours(recipe, Path(folder) / "other", torch.channels_last).step,
            }
            times = interleaved(ways, pictures, arguments.rounds)
        cells = " | ".join(f"{statistics.median(times[way]) * 1e3:.0f} ms" for way in ways)
        ratios = [a / b for a, b in zip(times["plain"], times["ours"], strict=True)]
        rows.append(f"| {name} | {cells} | {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) |")
        print("\n".join(rows), flush=True)


def interleaved(ways: dict[str, Callable[[Tensor], None]], pictures: Tensor, rounds: int, each: int = 3) -> dict[str, list[float]]:
    """Seconds a step of each way, round by round, after one round to warm up."""
    times: dict[str, list[float]] = {way: [] for way in ways}
    for number in range(rounds + 1):
        for way, step in ways.items():
            began = time.perf_counter()
            for _ in range(each):
                step(pictures)
            if number:
                times[way].append((time.perf_counter() - began) / each)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    train_ = commands.add_parser("train")
    train_.add_argument("name", choices=["cifar10_vq", "cifar10_msvq", "cifar10_kl", "llamagen"])
    export = commands.add_parser("export")
    export.add_argument("run", type=Path)
    export.add_argument("folder", type=Path)
    ablation, step = commands.add_parser("ablation"), commands.add_parser("step")
    for command in (train_, ablation):
        command.add_argument("--data", required=True)
        command.add_argument("--out", type=Path, default=Path("runs/tokenizers"))
        command.add_argument("--precision", default="fp32", choices=["fp32", "bf16"])
    for command in (train_, step):
        command.add_argument("--vgg", help="safetensors of torchvision's VGG-16; without it, it is downloaded")
    step.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    {"train": train_command, "export": export_command, "ablation": ablation_command, "step": step_command}[arguments.command](arguments)


if __name__ == "__main__":
    main()
