"""What sampling options do to a trained raster model: to its logits, where weights have another form; to its passes, with drafts.

python benchmarks/raster_options.py runs/cifar10_raster

Logits are those of pictures that the model sampled, teacher-forced; the model's sampling options are its recipe's.
"""

from __future__ import annotations

import argparse
import time
from statistics import median

import torch
from torch import Tensor

from argenzoo import build_model
from argenzoo.layers.execution import FORMS
from argenzoo.model import ARModel
from argenzoo.protocols import Progress
from argenzoo.rng import Rng

PICTURES = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="a checkpoint")
    parser.add_argument("--num", type=int, default=32, help="pictures")
    parser.add_argument("--drafts", default="2,4,8,16")
    arguments = parser.parse_args()
    model = build_model(arguments.run).eval()
    labels = torch.arange(arguments.num) % model.conditioner.config.num_classes
    forms(model, labels)
    drafts(model, labels, [int(text) for text in arguments.drafts.split(",")])


@torch.no_grad()
def forms(model: ARModel, labels: Tensor) -> None:
    tokens = model.sample_tokens(labels, Rng(0, range(len(labels))), model.sampling)
    exact = logits(model, tokens, labels, "fp32").log_softmax(-1)
    print("| weights | relative error of the logits | KL, nats a token | same most likely id |\n|---|---|---|---|")
    for form in (name for name in FORMS if name != "fp32"):
        made = logits(model, tokens, labels, form)
        centred = exact - exact.mean(-1, keepdim=True)
        error = ((made - made.mean(-1, keepdim=True)) - centred).norm() / centred.norm()
        distance = (exact.exp() * (exact - made.log_softmax(-1))).sum(-1).mean()
        same = (made.argmax(-1) == exact.argmax(-1)).float().mean()
        print(f"| {form} | {error:.2%} | {distance:.1e} | {same:.1%} |")


def logits(model: ARModel, tokens: Tensor, labels: Tensor, form: str) -> Tensor:
    with model.executing(model.sampling.override({"execution.weights": form})):
        return model.head.logits(model.generator(tokens, model.conditioner(labels))[0])


@torch.no_grad()
def drafts(model: ARModel, labels: Tensor, widths: list[int]) -> None:
    """Pictures one at a time, since a batch waits for its last; seconds interleaved."""
    print("\n| drafts | passes a picture | seconds a picture |\n|---|---|---|")
    choices = {width: model.sampling.override({"order.drafts": width}) for width in (0, *widths)}
    seconds: dict[int, list[float]] = {width: [] for width in choices}
    passes: dict[int, list[int]] = {width: [] for width in choices}
    for i in range(min(len(labels), PICTURES)):
        for width, options in choices.items():
            told: list[Progress] = []
            with model.executing(options):
                began = time.perf_counter()
                model.sample_tokens(labels[i : i + 1], Rng(0, [i]), options, watch=told.append)
                seconds[width].append(time.perf_counter() - began)
            passes[width].append(len(told))
    for width in choices:
        print(f"| {width or 'none'} | {median(passes[width]):g} | {median(seconds[width]):.3f} |")


if __name__ == "__main__":
    main()
