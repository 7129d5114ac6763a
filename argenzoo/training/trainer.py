"""The loop: players, batches, optimizer steps; logs, evaluation, pictures and checkpoints every so often."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType, InitProcessGroupKwargs, broadcast_object_list, gather_object
from torch import Tensor

from argenzoo.checkpoint import BEST, checkpoints, note_best, prune, step_name
from argenzoo.data.stream import Batch, Stream, batches
from argenzoo.device import PATIENCE
from argenzoo.errors import ArgenzooError
from argenzoo.grids import save_grid
from argenzoo.recipe import Recipe
from argenzoo.registry import conditioners
from argenzoo.rng import Rng, philox
from argenzoo.summary import steps_of
from argenzoo.training.guards import Skips, ema_warning
from argenzoo.training.logs import Logs, ended, evaluated
from argenzoo.training.memory import advice, is_out_of_memory
from argenzoo.training.player import Player
from argenzoo.training.reader import GROUP, Reader
from argenzoo.training.source import Source, open_source
from argenzoo.training.state import resume, save
from argenzoo.training.tasks import GeneratorTask, Task
from argenzoo.training.tokenizer_task import TokenizerTask
from argenzoo.versions import about

NOTES_SHOWN = 10  # corrupt pictures that are named


def train(recipe: Recipe) -> Path:
    """Train what the recipe describes; returns the run's folder.

    Raises:
        ArgenzooError: no data or train section, data that do not fit the recipe, a run that is there already, missing tokenizer weights,
            too many steps that are not finite, too little memory.
    """
    if recipe.data is None or recipe.train is None:
        raise ArgenzooError(f"recipe '{recipe.name}' has no {'data' if recipe.data is None else 'train'} section: it can't be trained")
    source = open_source(recipe.data)
    recipe = with_classes(recipe, source.classes)
    try:
        return Trainer(recipe, source).run()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise ArgenzooError(f"out of memory: {advice(recipe, processes=PartialState().num_processes)}") from None


def with_classes(recipe: Recipe, classes: tuple[str, ...]) -> Recipe:
    """The recipe with the data's class names; another number of classes than the recipe's is an error that says both."""
    if recipe.conditioner is None:
        return recipe
    config = conditioners.get(recipe.conditioner.name).named(recipe.conditioner.config, classes)
    return replace(recipe, conditioner=replace(recipe.conditioner, config=config))


def accelerated(precision: str, cpu: bool = False) -> Accelerator:
    """Accelerate under ``fp32``, ``bf16`` or ``fp16``."""
    AcceleratorState._reset_state()  # Accelerate keeps it for the process: an earlier run may have had another precision
    mixed = "no" if precision == "fp32" else precision
    return Accelerator(mixed_precision=mixed, cpu=cpu, kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)])


class Trainer:
    """One run."""

    def __init__(self, recipe: Recipe, source: Source) -> None:
        assert recipe.train is not None
        self.recipe, self.config = recipe, recipe.train
        self.out = Path(self.config.out or f"runs/{recipe.name}")
        self._refuse_overwriting()
        self.accelerator = accelerated(self.config.precision)
        self._refuse_unsupported()
        task = TokenizerTask if recipe.generator is None else GeneratorTask
        self.task: Task = task(recipe, self.accelerator.device)
        self.training, self.held_out = source.samples(recipe, self.task.tokenizer)
        self.steps = steps_of(self.config, len(self.training))
        self.players = self.task.players(self.steps)
        self.reader = Reader(self.task, self.accelerator.device)
        self.start, self.skips = 0, Skips(self.config.max_skipped)
        self.seconds = {"data": 0.0, "encoding": 0.0}  # since the last log step
        self.corrupt = self.reader.corrupt
        self.figures: dict[str, float] = {}

    def run(self) -> Path:
        """All steps from where the run stands."""
        if not checkpoints(self.out):
            self.task.begin(self.reader.first(self.training))
        for player in self.players:
            player.prepare(self.accelerator)
        pending = self._go_on()
        if self.start >= self.steps and not pending and ended(self.out, max(self.start, self.steps)):
            return self.out
        warnings = self.reader.check(self.training)
        self.logs = self._logs()
        for text in [*warnings, *self._warnings()]:
            self.logs.say(f"warning: {text}")
        try:
            if pending:
                self._evaluate(self.start)
            if self.start >= self.steps:
                self._sample(self.start)
            self._loop()
        except BaseException:
            self.logs.abort()
            raise
        parameters = sum(p.numel() for p in self.players[0].module.parameters())
        counts = {"parameters": parameters, "steps": max(self.start, self.steps), "skipped": self.skips.total}
        self.logs.close({**counts, "corrupt": len(self._all_corrupt()), **self.figures})
        return self.out

    def _go_on(self) -> bool:
        """Load the newest checkpoint, the same on every process; whether its evaluation is still to be done."""
        saved = checkpoints(self.out)
        found = [(saved[-1].name, evaluated(self.out, int(saved[-1].name[-7:]))) if saved else None]
        broadcast_object_list(found)  # the main process decides: another may not see the same folder
        if found[0] is None:
            if self.accelerator.is_main_process:
                (self.out / f"{BEST}.json").unlink(missing_ok=True)  # of a run whose checkpoints were removed
            return False
        name, was_evaluated = found[0]
        if not (self.out / name).is_dir():
            raise ArgenzooError(f"{self.out / name} is not seen by every process: train.out must be on a disk that they share")
        state = resume(self.out / name, self.recipe, self.task, self.players, self.accelerator.scaler)
        self.task.restore(state.get("task", {}), self.accelerator.is_main_process)  # absent in checkpoints of 0.1
        self.start, self.skips.total = state["step"], state["skipped"]
        self.corrupt |= set(state["corrupt"])
        return not was_evaluated and (self.start >= self.steps or self._due(self.start, self.config.eval_every))

    def _warnings(self) -> Iterator[str]:
        """What a user should know before the first step."""
        config, every, saved = self.config, self.config.eval_every, self.config.save_every
        if config.resume and not self.start:
            yield f"train.resume: no checkpoint in {self.out}, starting at step 0"
        if not len(self.held_out):
            yield "there is no held-out part (data.held_out is 0): nothing to evaluate on, and no best checkpoint"
        elif every and saved and every % saved and saved % every:
            yield f"train.eval_every {every} and train.save_every {saved} seldom meet: only checkpoints that are evaluated can be the best"
        for player in self.players:
            if player.start >= self.steps:
                yield f"the {player.name} would begin at step {player.start:,}, the run ends at {self.steps:,}: it has no effect"
        if self.training.stepped_over:
            yield f"{self.training.stepped_over} corrupt pictures were stepped over when the cache was made"

    def _all_corrupt(self) -> list[str]:
        """Notes on corrupt pictures, of every process."""
        return sorted(set(gather_object(sorted(self.corrupt))))

    def _loop(self) -> None:
        stream = batches(self.training, self._stream(), self.config.workers, pin=self.accelerator.device.type == "cuda")
        for step in range(self.start, self.steps):
            figures = self._step(step, stream)
            done = step + 1
            logged = done % self.config.log_every == 0 or done == self.steps
            self.logs.step(done, {**self._mean(figures), **self.task.figures(self.accelerator)} if logged else None, self.seconds)
            if logged:
                self.seconds = dict.fromkeys(self.seconds, 0.0)
            with self.logs.paused():
                self._now_and_then(done)

    def _now_and_then(self, done: int) -> None:
        """What happens every so many steps: the checkpoint first, so that nothing that fails afterwards can lose it."""
        if saved := self._due(done, self.config.save_every):
            self._save(done)
        if self._due(done, self.config.eval_every):
            self._evaluate(done, saved)
        if saved and self.accelerator.is_main_process:
            prune(self.out, self.config.keep)
        if self._due(done, self.config.sample_every):
            self._sample(done)

    def _step(self, step: int, stream: Iterator[Batch]) -> dict[str, Tensor | float]:
        """One optimizer step of every player, over ``accumulate`` micro-batches; what it logs is their mean."""
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        inputs = [self._inputs(step, stream) for _ in range(self.config.accumulate)]
        # after the loader, which draws from torch's stream too when it starts
        torch.manual_seed(int(philox(self.config.seed, "dropout", step * world + rank).integers(2**63)))
        figures: dict[str, Tensor | float] = {}
        made: list[dict[str, Tensor]] = [{} for _ in inputs]  # by the first player
        skipped = 0.0
        for player in (player for player in self.players if step >= player.start):
            outs, seen = self._play(player, step, [player.takes(*pair) for pair in zip(inputs, made, strict=True)])
            skipped += seen.pop("skipped")
            if player is self.players[0]:
                made, figures = outs, dict(seen)
            else:
                figures |= {f"{player.name}_{name}": value for name, value in seen.items()}
        self.task.after(step, made, skipped > 0, self.accelerator)
        self.skips.note(step + 1, skipped > 0, self._last_good)
        return {**figures, "skipped": float(self.skips.total)}

    def _play(self, player: Player, step: int, inputs: list[tuple]) -> tuple[list[dict[str, Tensor]], dict[str, Any]]:
        """(what a player's module returned for each micro-batch, the means of its figures and what its update says)."""
        player.prepared.train()
        outs = [self._backward(player, arguments, last=arguments is inputs[-1]) for arguments in inputs]
        means: dict[str, Any] = {name: torch.stack([out[name] for out in outs]).mean() for name in outs[0] if outs[0][name].dim() == 0}
        return outs, {**means, **player.update(self.accelerator, step, means["loss"])}

    def _backward(self, player: Player, arguments: tuple, last: bool) -> dict[str, Tensor]:
        """One micro-batch; gradients are reduced over the processes with the last."""
        with nullcontext() if last else self.accelerator.no_sync(player.prepared):
            out = player.prepared(*arguments)
            self.accelerator.backward(out["loss"] / self.config.accumulate)
        return {name: value.detach() for name, value in out.items()}

    def _inputs(self, step: int, stream: Iterator[Batch]) -> tuple:
        """The next micro-batch, as the players take it; what the wait and the encoding took is counted."""
        with self._timed("data"):
            batch = next(stream)
            for note in set(batch.notes) - self.corrupt:
                self.corrupt.add(note)
                if len(self.corrupt) <= NOTES_SHOWN:
                    self.logs.say(f"skipped: {note}")
            self.task.check(batch.labels)
        rng = Rng(self.config.seed, batch.draws.tolist(), "train", self.accelerator.device, step)
        with self._timed("encoding"):
            return self.reader.inputs(batch.stored, batch.labels, self.training.encoded, rng, step)

    @contextmanager
    def _timed(self, what: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.seconds[what] += time.perf_counter() - began

    def _mean(self, figures: dict[str, Tensor | float]) -> dict[str, float]:
        """Over the processes."""
        tensors = {name: torch.as_tensor(value, dtype=torch.float32, device=self.accelerator.device) for name, value in figures.items()}
        return {name: float(self.accelerator.reduce(tensor, "mean")) for name, tensor in tensors.items()}

    def _evaluate(self, step: int, saved: bool = True) -> None:
        """Held-out figures with fixed draws, in groups with one shared draw (MAR's mask ratio) each, dealt over the processes."""
        count = min(len(self.held_out), self.config.eval_samples)
        if count == 0:
            return
        began, rank, world = time.perf_counter(), self.accelerator.process_index, self.accelerator.num_processes
        mine = [self.reader.evaluate(self.held_out, group, count) for group in range(rank, math.ceil(count / GROUP), world)]
        totals: dict[str, tuple[Tensor, Tensor]] = {}
        for figures in gather_object(mine):
            for name, (total, number) in figures.items():
                old = totals.get(name, (0, 0))
                totals[name] = old[0] + total, old[1] + number
        self.figures = {f"held_out_{name}": value for name, value in self.task.summary(totals).items()}
        self.logs.write("held_out", step, {**self.figures, "seconds": time.perf_counter() - began})
        all_play = step > max(player.start for player in self.players)  # the held-out loss knows no opponent: it is least before that
        best = saved and all_play and self.accelerator.is_main_process and note_best(self.out, step, self.figures["held_out_loss"])
        main = {name: value for name, value in self.figures.items() if "/" not in name}
        self.logs.say(f"step {step}: " + ", ".join(f"{name} {value:.4f}" for name, value in main.items()) + (" (best)" if best else ""))
        if (warning := ema_warning(self.config, step)) is not None:
            self.logs.say(f"warning: {warning}")

    def _sample(self, step: int) -> None:
        if self.accelerator.is_main_process:
            rows = self.task.pictures(*self.reader.some(self.held_out if len(self.held_out) else self.training))
            facts = {**about(), "recipe": self.recipe.name, "step": str(step)}
            save_grid(rows, self.out / "samples" / f"step_{step:07d}.png", facts)
        self.accelerator.wait_for_everyone()

    def _save(self, step: int) -> None:
        self.task.finish(self.reader.first(self.training))
        scaler, corrupt = self.accelerator.scaler, self._all_corrupt()
        state = {"step": step, "skipped": self.skips.total, "corrupt": corrupt, "scaler": scaler and scaler.state_dict()}
        state["task"] = self.task.state(self.accelerator)
        if self.accelerator.is_main_process:
            try:
                save(self.out / step_name(step), self.recipe, self.task, self.players, state)
            except (OSError, RuntimeError) as error:  # what a full disk is to Python, and to torch
                text = str(error).splitlines()[0]
                raise ArgenzooError(f"the checkpoint of step {step} can't be saved ({text}). {self._last_good()}") from error
        self.accelerator.wait_for_everyone()

    def _last_good(self) -> str:
        saved = checkpoints(self.out)
        return f"The last good checkpoint is {saved[-1]}" if saved else "There is no checkpoint yet"

    def _logs(self) -> Logs:
        accelerator = self.accelerator
        facts = {**about(), "recipe": self.recipe.dump(), "processes": accelerator.num_processes, "device": str(accelerator.device)}
        tokens = self.task.tokenizer.space.num_tokens
        return Logs(
            self.out, self.recipe.name, self.start, self.steps, self.config.batch_size, tokens, accelerator.is_main_process, facts
        )  # fmt: skip

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
