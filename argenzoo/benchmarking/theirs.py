"""The process of an author's code (``python -m argenzoo.benchmarking.theirs``): it may do to torch what it likes, ours is another process.

A line of JSON comes in, what to build; then every line is one run, answered by a line.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch

from argenzoo.benchmarking import their_training
from argenzoo.benchmarking.machine import DTYPES
from argenzoo.device import autocast, finished
from argenzoo.recipe import Recipe, parse_recipe

Run = Callable[[], object]
READY, DONE = "ready", "done"
TRAINING, PICTURES = "training", "pictures"
SEED = 0


def labels(recipe: Recipe, batch: int, device: torch.device) -> torch.Tensor:
    return torch.arange(batch, device=device) % config(recipe, "conditioner").num_classes


def llamagen(recipe: Recipe, batch: int, device: torch.device, precision: str, kind: str) -> Run:
    """``generate`` over a ``Transformer`` of the recipe's sizes, whose weights have the precision, as in their scripts; or its loss."""
    gpt, generate = import_module("autoregressive.models.gpt"), import_module("autoregressive.models.generate").generate
    size, space, side = config(recipe, "generator"), config(recipe, "tokenizer"), config(recipe, "tokenizer").grid
    sizes = {"dim": size.dim, "n_layer": size.depth, "n_head": size.num_heads, "cls_token_num": 1}
    sizes |= {f"{part}_dropout_p": size.dropout for part in ("token", "resid", "ffn")} | {"rope_base": size.rope_base}
    sizes |= {"num_classes": config(recipe, "conditioner").num_classes, "class_dropout_prob": config(recipe, "conditioner").dropout}
    model = gpt.Transformer(gpt.ModelArgs(**sizes, vocab_size=space.vocab_size, block_size=side**2)).to(device)
    if kind == TRAINING:
        return their_training.stepping(their_training.llamagen(model, labels(recipe, batch, device), space), recipe, device, precision)
    model = model.to(DTYPES[precision]).eval()
    options = {"cfg_scale": guidance(recipe), "temperature": 1.0, "sample_logits": True, **filters(recipe, everything=1.0)}

    def tokens() -> Any:
        return generate(model, labels(recipe, batch, device), side**2, **options)

    if kind != PICTURES:
        return tokens
    build = import_module("tokenizer.tokenizer_image.vq_model").VQ_models[f"VQ-{space.image_size // side}"]
    decoder = build(codebook_size=space.vocab_size, codebook_embed_dim=space.dim).to(device).eval()
    return lambda: decoder.decode_code(tokens(), [batch, space.dim, side, side])


def var(recipe: Recipe, batch: int, device: torch.device, precision: str, kind: str) -> Run:
    """``autoregressive_infer_cfg``, which decodes; their cfg is our guidance less one. Or the loss, of inputs that are there already."""
    size, scales = config(recipe, "generator"), tuple(config(recipe, "tokenizer").scales)
    build = import_module("models").build_vae_var
    sizes = {"depth": size.depth, "shared_aln": size.shared_adaln, "attn_l2_norm": size.qk_norm}
    vae, model = build(device=device, patch_nums=scales, num_classes=config(recipe, "conditioner").num_classes, **sizes)
    for weight in vae.parameters():  # many are left as the memory was, denormals and all, until a checkpoint is loaded
        torch.nn.init.normal_(weight, std=0.02)
    if kind == TRAINING:
        return their_training.stepping(
            their_training.var(model.to(device), labels(recipe, batch, device), config(recipe, "tokenizer")), recipe, device, precision
        )
    model, options = model.to(device).eval(), {"g_seed": 0, "cfg": guidance(recipe) - 1, **filters(recipe, everything=0.0)}
    return under(device, precision, lambda: model.autoregressive_infer_cfg(batch, labels(recipe, batch, device), **options))


def mar(recipe: Recipe, batch: int, device: torch.device, precision: str, kind: str) -> Run:
    """``sample_tokens`` at the recipe's numbers of steps, or the loss."""
    torch.Tensor.cuda = lambda self, *_, **__: self.to(device)  # type: ignore[method-assign]  # their code names the GPU
    size, head, space = config(recipe, "generator"), config(recipe, "head"), config(recipe, "tokenizer")
    sampling = config(recipe, "sampling")
    half = {"embed_dim": size.dim, "depth": size.depth // 2, "num_heads": size.num_heads}
    sizes = {f"{name}_{key}": value for name in ("encoder", "decoder") for key, value in half.items()}
    sizes |= {"img_size": space.image_size, "vae_stride": space.downsampling, "patch_size": space.patch_size, "vae_embed_dim": space.dim}
    sizes |= {"buffer_size": size.buffer_size, "diffloss_d": head.depth, "diffloss_w": head.width, "diffusion_batch_mul": head.batch_mul}
    sizes |= {"attn_dropout": size.dropout, "proj_dropout": size.dropout, "mask_ratio_min": size.mask_ratio_min}
    sizes |= {"class_num": config(recipe, "conditioner").num_classes, "label_drop_prob": config(recipe, "conditioner").dropout}
    model = import_module("models.mar").MAR(
        **sizes, num_sampling_steps=str(sampling.head.num_steps), norm_layer=partial(torch.nn.LayerNorm, eps=1e-6)
    )
    if kind == TRAINING:
        return their_training.stepping(
            their_training.mar(model.to(device), labels(recipe, batch, device), space), recipe, device, precision
        )
    model, steps = model.to(device).eval(), sampling.order.num_steps or space.grid**2 // 4
    options = {"num_iter": steps, "cfg": guidance(recipe), "cfg_schedule": "linear", "labels": labels(recipe, batch, device)}
    return under(device, precision, lambda: model.sample_tokens(batch, **options))


def under(device: torch.device, precision: str, run: Run) -> Run:
    """Autocast, as their scripts have it."""

    def inside() -> object:
        with autocast(device, precision):
            return run()

    return inside


def config(recipe: Recipe, kind: str) -> Any:
    """A section's values."""
    section = getattr(recipe, kind)
    return getattr(section, "config", section)


def guidance(recipe: Recipe) -> float:
    assert recipe.sampling is not None
    return recipe.sampling.guidance.guidance


def filters(recipe: Recipe, everything: float) -> dict[str, Any]:
    """top-k and top-p; ``everything``: their word for no top-p."""
    assert recipe.sampling is not None
    options = recipe.sampling.head
    return {"top_k": getattr(options, "top_k", None) or 0, "top_p": getattr(options, "top_p", None) or everything}


BUILDS = {"raster": llamagen, "var": var, "mar": mar}


def main() -> None:
    wanted = json.loads(sys.stdin.readline())
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what their code prints, by whatever way, is no answer
    sys.path.insert(0, str(Path(wanted["path"]).resolve()))
    device, recipe = torch.device(wanted["device"]), parse_recipe(wanted["recipe"])
    torch.set_num_threads(wanted["threads"])
    np.random.seed(SEED)  # MAR's mask ratio
    torch.manual_seed(SEED)
    assert recipe.generator is not None
    run = BUILDS[recipe.generator.name](recipe, wanted["batch"], device, wanted["precision"], wanted["kind"])
    answers.write(f"{READY}\n")
    answers.flush()
    for _ in sys.stdin:
        with torch.set_grad_enabled(wanted["kind"] == TRAINING):
            run()
        finished(device)
        answers.write(f"{DONE}\n")
        answers.flush()


if __name__ == "__main__":
    main()
