"""Golden cases as models: the official configuration and seeded checkpoint, through the hub's layouts, into our parts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from golden.seeded import load_case
from torch import Tensor

from argenzoo.build import assemble
from argenzoo.checkpoint import load_strict
from argenzoo.hub.layouts import LLAMAGEN, MAR, VAR, network_state, tokenizer_state
from argenzoo.model import ARModel
from argenzoo.protocols import TokenSpace
from argenzoo.recipe import parse_recipe
from argenzoo.registry import tokenizers

FOLDER = Path(__file__).parent / "golden"


@dataclass
class Golden:
    config: dict[str, Any]
    checkpoint: dict[str, Tensor]
    given: dict[str, Tensor]
    expected: dict[str, Tensor]

    def matches(self, ours: Tensor, name: str) -> None:
        """Within 1e-4 x max(1, max |theirs|), or exactly for ids."""
        theirs = self.expected[name]
        assert ours.shape == theirs.shape or ours.numel() == theirs.numel() == 1, (name, ours.shape, theirs.shape)
        if not theirs.is_floating_point():
            assert torch.equal(ours, theirs), name
            return
        difference = (ours.reshape(theirs.shape) - theirs).abs().max().item()
        assert difference <= 1e-4 * max(1.0, theirs.abs().max().item()), (name, difference)


def golden(name: str) -> Golden:
    return Golden(*load_case(FOLDER / name))


def split(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): tensor for key, tensor in state.items() if key.startswith(prefix)}


def filled_tokenizer(name: str, config: dict[str, Any], state: dict[str, Tensor]) -> Any:
    part = tokenizers.get(name)
    tokenizer = part(part.Config.parse(config, "tokenizer"))
    load_strict(tokenizer, {**tokenizer_state(state), "scale.factors": tokenizer.scale.factors}, "golden")
    return tokenizer.eval()


def filled_model(tokenizer: Any, sections: dict[str, Any], state: dict[str, Tensor]) -> ARModel:
    recipe = parse_recipe({"tokenizer": {"name": "vq"}, **sections})
    model = assemble(recipe, tokenizer)
    load_strict(model.network, state, "golden")
    return model.eval()


class Grid(torch.nn.Module):
    """A tokenizer of which only the space is needed: the golden generators come without one."""

    def __init__(self, side: int, dim: int, vocab_size: int | None) -> None:
        super().__init__()
        self.space = TokenSpace(((side, side),), dim, vocab_size)

    def context(self, tokens: Tensor, upto: int | None = None) -> Tensor:
        return tokens


def llamagen_vq() -> tuple[Golden, Any]:
    case = golden("llamagen_vq")
    c = case.config
    config = {
        "image_size": c["grid"] * 2 ** (len(c["ch_mult"]) - 1),
        "channels": c["ch"],
        "multipliers": c["ch_mult"],
        "latent_channels": c["z_channels"],
        "vocab_size": c["codebook_size"],
        "dim": c["codebook_embed_dim"],
    }
    return case, filled_tokenizer("vq", config, case.checkpoint)


def llamagen(name: str) -> tuple[Golden, ARModel]:
    case = golden(name)
    c = case.config
    text = {"name": "text_features", "feature_dim": c.get("caption_dim"), "num_tokens": c["cls_token_num"]}
    labels = {"name": "class_labels", "num_classes": c["num_classes"]}
    sections = {
        "conditioner": text if c["model_type"] == "t2i" else labels,
        "generator": {"name": "raster", "dim": c["dim"], "depth": c["n_layer"], "num_heads": c["n_head"]},
        "head": {"name": "cross_entropy"},
        "sampling": {"head": {"temperature": 0}},
    }
    grid = Grid(int(c["block_size"] ** 0.5), 8, c["vocab_size"])
    return case, filled_model(grid, sections, network_state(case.checkpoint, LLAMAGEN))


def var(name: str) -> tuple[Golden, ARModel]:
    case = golden(name)
    c = case.config
    config = {
        "image_size": c["patch_nums"][-1] * 2 ** (len(c["ch_mult"]) - 1),
        "channels": c["ch"],
        "multipliers": c["ch_mult"],
        "vocab_size": c["vocab_size"],
        "dim": c["z_channels"],
        "scales": c["patch_nums"],
        "num_phi": c["share_quant_resi"],
    }
    tokenizer = filled_tokenizer("multiscale_vq", config, split(case.checkpoint, "vae."))
    depth = c["depth"]
    sections = {
        "conditioner": {"name": "class_labels", "num_classes": c["num_classes"]},
        "generator": {
            "name": "var",
            "dim": 64 * depth,
            "depth": depth,
            "num_heads": depth,
            "qk_norm": c["attn_l2_norm"],
            "shared_adaln": c["shared_aln"],
        },
        "head": {"name": "cross_entropy", "bias": True, "float32": True},
        "sampling": {"guidance": 2.5, "ramp": "step", "head": {"temperature": 0}},
    }
    return case, filled_model(tokenizer, sections, network_state(split(case.checkpoint, "var."), VAR))


def mar_kl() -> tuple[Golden, Any]:
    case = golden("mar_kl")
    c = case.config
    config = {
        "image_size": c["resolution"],
        "channels": c["ch"],
        "multipliers": c["ch_mult"],
        "dim": c["embed_dim"],
        "latent_scale": 0.2325,
    }
    return case, filled_tokenizer("kl", config, case.checkpoint)


def mar() -> tuple[Golden, ARModel]:
    case = golden("mar")
    c = case.config
    sections = {
        "conditioner": {"name": "class_labels", "num_classes": c["num_classes"]},
        "generator": {
            "name": "mar",
            "dim": c["embed_dim"],
            "depth": 2 * c["depth"],
            "num_heads": c["num_heads"],
            "buffer_size": c["buffer_size"],
        },
        "head": {"name": "diffusion", "width": c["diffloss_w"], "depth": c["diffloss_d"]},
        "sampling": {
            "guidance": 3.0,
            "ramp": "revealed",
            "order": {"num_steps": c["num_iter"]},
            "head": {"num_steps": int(c["num_sampling_steps"]), "temperature": 0},
        },
    }
    side = c["img_size"] // c["vae_stride"] // c["patch_size"]
    grid = Grid(side, c["vae_embed_dim"] * c["patch_size"] ** 2, None)
    return case, filled_model(grid, sections, network_state(case.checkpoint, MAR))
