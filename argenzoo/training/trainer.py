"""The loop: players, batches, optimizer steps; logs, evaluation, pictures and checkpoints every so often."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from itertools import islice
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType, gather_object
from torch import Tensor

from argenzoo.checkpoint import checkpoints
from argenzoo.data.images import ImageSet, Views, split, to_unit
from argenzoo.data.stream import Stream, batches
from argenzoo.errors import ArgenzooError
from argenzoo.grids import save_grid
from argenzoo.recipe import Recipe
from argenzoo.registry import conditioners, datasets
from argenzoo.rng import Rng, philox
from argenzoo.training.logs import Logs, ended
from argenzoo.training.player import Player
from argenzoo.training.state import resume, save
from argenzoo.training.tasks import GeneratorTask, Task, TokenizerTask
from argenzoo.versions import about


def train(recipe: Recipe) -> Path:
    """Train what the recipe describes; returns the run's folder.

    Raises:
        ArgenzooError: no data or train section, data that do not fit the recipe, a run that is there already, missing tokenizer weights.
    """
    if recipe.data is None or recipe.train is None:
        raise ArgenzooError(f"recipe '{recipe.name}' has no {'data' if recipe.data is None else 'train'} section: it can't be trained")
    images = datasets.get(recipe.data.name)(recipe.data.config)
    recipe = with_classes(recipe, images)
    return Trainer(recipe, images).run()


def with_classes(recipe: Recipe, images: ImageSet) -> Recipe:
    """The recipe with the data's class names; another number of classes than the recipe's is an error that says both."""
    if recipe.conditioner is None:
        return recipe
    config = conditioners.get(recipe.conditioner.name).named(recipe.conditioner.config, images.classes)
    return replace(recipe, conditioner=replace(recipe.conditioner, config=config))


GROUP = 32  # pictures evaluated at a time


class Trainer:
    """One run."""

    def __init__(self, recipe: Recipe, images: ImageSet) -> None:
        assert recipe.data is not None
        assert recipe.train is not None
        self.recipe, self.config = recipe, recipe.train
        self.out = Path(self.config.out or f"runs/{recipe.name}")
        self._refuse_overwriting()
        kept, held_out = split(len(images), recipe.data.config.held_out)
        self.steps = self.config.steps or math.ceil((self.config.epochs or 0) * len(kept) / self.config.batch_size)
        AcceleratorState._reset_state()  # Accelerate keeps it for the process: an earlier run may have had another precision
        self.accelerator = Accelerator(mixed_precision="no" if self.config.precision == "fp32" else self.config.precision)
        self._refuse_unsupported()
        task = TokenizerTask if recipe.generator is None else GeneratorTask
        self.task: Task = task(recipe, self.steps, self.accelerator.device)
        size = self.task.tokenizer.image_size
        self.training = Views(images, recipe.data.config, size, kept, self.config.seed)
        self.held_out = Views(images, recipe.data.config, size, held_out, self.config.seed, augment=False)
        self.start = 0
        self.figures: dict[str, float] = {}

    def run(self) -> Path:
        """All steps from where the run stands."""
        for player in self.task.players:
            player.prepare(self.accelerator)
        saved = checkpoints(self.out)
        if saved:
            self.start = resume(saved[-1], self.recipe, self.task, self.accelerator.scaler)
        if self.start >= self.steps and ended(self.out):
            return self.out
        facts = {
            **about(),
            "recipe": self.recipe.dump(),
            "processes": self.accelerator.num_processes,
            "device": str(self.accelerator.device),
        }
        self.logs = Logs(
            self.out, self.recipe.name, self.start, self.steps, self.config.batch_size, self.accelerator.is_main_process, facts
        )
        if self.config.resume and not saved:
            self.logs.say(f"train.resume: no checkpoint in {self.out}, starting at step 0")
        if not len(self.held_out):
            self.logs.say("data.held_out is 0: nothing to evaluate on")
        try:
            if self.start >= self.steps:  # stopped between the last checkpoint and its evaluation
                self._evaluate(self.steps)
                self._sample(self.steps)
            self._loop()
        except BaseException:
            self.logs.abort()
            raise
        parameters = sum(p.numel() for player in self.task.players for p in player.module.parameters())
        self.logs.close({"parameters": parameters, "steps": self.steps, **self.figures})
        return self.out

    def _loop(self) -> None:
        stream = batches(self.training, self._stream(), self.config.workers)
        for step in range(self.start, self.steps):
            figures = self._step(step, stream)
            done = step + 1
            logged = done % self.config.log_every == 0 or done == self.steps
            self.logs.step(done, self._mean(figures) if logged else None)
            with self.logs.paused():
                self._now_and_then(done)

    def _now_and_then(self, done: int) -> None:
        """What happens every so many steps: the checkpoint first, so that nothing that fails afterwards can lose it."""
        if self._due(done, self.config.save_every):
            self._save(done)
        if self._due(done, self.config.eval_every):
            self._evaluate(done)
        if self._due(done, self.config.sample_every):
            self._sample(done)

    def _step(self, step: int, stream: Iterator[tuple[Tensor, Tensor, Tensor]]) -> dict[str, Tensor | float]:
        """One optimizer step of every player, over ``accumulate`` micro-batches; what it logs is their mean."""
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        inputs = [self._inputs(step, *next(stream)) for _ in range(self.config.accumulate)]
        # after the loader, which draws from torch's stream too when it starts
        torch.manual_seed(int(philox(self.config.seed, "dropout", step * world + rank).integers(2**63)))
        figures: dict[str, Tensor | float] = {}
        for player in self.task.players:
            player.prepared.train()
            outs = [self._backward(player, arguments, last=arguments is inputs[-1]) for arguments in inputs]
            figures |= {name: torch.stack([out[name] for out in outs]).mean() for name in outs[0]}
            figures |= player.update(self.accelerator, step)
        return figures

    def _backward(self, player: Player, arguments: tuple, last: bool) -> dict[str, Tensor]:
        """One micro-batch; gradients are reduced over the processes with the last."""
        with nullcontext() if last else self.accelerator.no_sync(player.prepared):
            out = player.prepared(*arguments)
            self.accelerator.backward(out["loss"] / self.config.accumulate)
        return {name: value.detach() for name, value in out.items() if value.dim() == 0}

    def _inputs(self, step: int, pictures: Tensor, labels: Tensor, draws: Tensor) -> tuple:
        device = self.accelerator.device
        rng = Rng(self.config.seed, draws.tolist(), "train", device, step)
        return self.task.inputs(to_unit(pictures.to(device)), labels.to(device), rng)

    def _mean(self, figures: dict[str, Tensor | float]) -> dict[str, float]:
        """Over the processes."""
        tensors = {name: torch.as_tensor(value, dtype=torch.float32, device=self.accelerator.device) for name, value in figures.items()}
        return {name: float(self.accelerator.reduce(tensor, "mean")) for name, tensor in tensors.items()}

    def _evaluate(self, step: int) -> None:
        """Held-out figures with fixed draws, in groups with one shared draw (MAR's mask ratio) each, dealt over the processes."""
        count = min(len(self.held_out), self.config.eval_samples)
        if count == 0:
            return
        began, rank, world = time.perf_counter(), self.accelerator.process_index, self.accelerator.num_processes
        mine = [self._evaluate_group(group, count) for group in range(rank, math.ceil(count / GROUP), world)]
        totals: dict[str, tuple[Tensor, Tensor]] = {}
        for figures in gather_object(mine):
            for name, (total, number) in figures.items():
                old = totals.get(name, (0, 0))
                totals[name] = old[0] + total, old[1] + number
        self.figures = {f"held_out_{name}": value for name, value in self.task.summary(totals).items()}
        self.logs.write("held_out", step, {**self.figures, "seconds": time.perf_counter() - began})
        main = {name: value for name, value in self.figures.items() if "/" not in name}
        self.logs.say(f"step {step}: " + ", ".join(f"{name} {value:.4f}" for name, value in main.items()))

    def _evaluate_group(self, group: int, count: int) -> dict[str, tuple[Tensor, Tensor]]:
        chosen = list(range(group * GROUP, min((group + 1) * GROUP, count)))
        pictures, labels = self._examples(self.held_out, chosen)
        rng = Rng(0, chosen, "evaluate", self.accelerator.device, step=group)
        return {name: (total.cpu(), number.cpu()) for name, (total, number) in self.task.evaluate(pictures, labels, rng).items()}

    def _sample(self, step: int) -> None:
        if self.accelerator.is_main_process:
            rows = self.task.pictures(*self._some(self.held_out if len(self.held_out) else self.training))
            facts = {**about(), "recipe": self.recipe.name, "step": str(step)}
            save_grid(rows, self.out / "samples" / f"step_{step:07d}.png", facts)
        self.accelerator.wait_for_everyone()

    def _save(self, step: int) -> None:
        chosen = range(min(256, len(self.training)))
        parts = (self._examples(self.training, list(chosen[i : i + GROUP]))[0] for i in range(0, len(chosen), GROUP))
        self.task.finish(parts)
        if self.accelerator.is_main_process:
            save(self.out / f"step_{step:07d}", self.recipe, self.task, step, self.accelerator.scaler)
        self.accelerator.wait_for_everyone()

    def _some(self, views: Views) -> tuple[Tensor, Tensor]:
        """Up to eight examples, of different classes where there are."""
        first: dict[int, int] = {}
        for position, index in enumerate(views.indices):
            first.setdefault(views.images.label(int(index)), position)
        chosen = [position for _, position in sorted(first.items())][:8]
        more = (position for position in range(len(views)) if position not in chosen)
        return self._examples(views, [*chosen, *islice(more, 8 - len(chosen))])

    def _examples(self, views: Views, positions: list[int]) -> tuple[Tensor, Tensor]:
        pairs = [views[position, position] for position in positions]
        pictures = to_unit(torch.stack([picture for picture, _ in pairs]))
        return pictures.to(self.accelerator.device), torch.tensor([label for _, label in pairs], device=self.accelerator.device)

    def _stream(self) -> Stream:
        config, accelerator = self.config, self.accelerator
        return Stream(
            len(self.training), config.batch_size, config.seed, self.start, self.steps, config.accumulate,
            accelerator.process_index, accelerator.num_processes,
        )  # fmt: skip

    def _due(self, done: int, every: int | None) -> bool:
        """Every so many steps, and after the last."""
        return done == self.steps or (every is not None and done % every == 0)

    def _refuse_unsupported(self) -> None:
        kind = self.accelerator.distributed_type
        if kind not in (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU):
            raise ArgenzooError(f"training under {kind.value} is not supported yet: use plain data parallelism")
        if self.config.precision == "fp16" and self.accelerator.device.type == "cpu":
            raise ArgenzooError("train.precision fp16 needs a GPU: use train.precision=bf16 or fp32")

    def _refuse_overwriting(self) -> None:
        if self.out.exists() and not self.out.is_dir():
            raise ArgenzooError(f"train.out {self.out} is a file: name a folder")
        if checkpoints(self.out) and not self.config.resume:
            raise ArgenzooError(f"{self.out} holds checkpoints already: set train.resume=true to go on, or another train.out")
