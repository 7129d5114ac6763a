"""What the shapes of weights tell of a recipe: dotted keys, as overrides take them. All on our keys, after the renaming."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

from torch import Tensor

from argenzoo.errors import ArgenzooError

State = dict[str, Tensor]
Facts = dict[str, Any]


def sizes(part: str, state: State, what: str) -> Facts:
    """The facts of ``part`` (a tokenizer's, generator's or head's name, or ``conditioner``).

    Raises:
        ArgenzooError: a tensor that should tell is missing.
    """
    try:
        return READERS[part](state)
    except KeyError as error:
        raise ArgenzooError(f"{what} is no complete checkpoint: {error.args[0]} is missing") from None
    except (IndexError, ZeroDivisionError, TypeError, ValueError) as error:
        raise ArgenzooError(f"{what} has tensors of shapes that can't be ({error})") from None


def count(state: State, pattern: str) -> int:
    """How many different numbers stand where ``pattern`` has its group."""
    return len({match[1] for key in state if (match := re.match(pattern, key))})


def trunk(state: State) -> Facts:
    """Of the convolutional autoencoder."""
    blocks = "autoencoder.encoder.down_blocks"
    channels = state["autoencoder.encoder.conv_in.weight"].shape[0]
    levels = count(state, rf"{re.escape(blocks)}\.(\d+)\.")
    widths = [state[f"{blocks}.{level}.resnets.0.conv2.weight"].shape[0] for level in range(levels)]
    if widths[0] != channels:
        raise ArgenzooError(f"the first level has {widths[0]} channels, conv_in {channels}: the first multiplier must be 1")
    return {
        "tokenizer.channels": channels,
        "tokenizer.multipliers": [width // channels for width in widths],
        "tokenizer.num_res_blocks": count(state, rf"{re.escape(blocks)}\.0\.resnets\.(\d+)\."),
        "tokenizer.attention": any(key.startswith(f"{blocks}.{levels - 1}.attentions.") for key in state),
    }


def codebook(state: State) -> Facts:
    vocab_size, dim = state["codebook.weight"].shape
    return {"tokenizer.vocab_size": vocab_size, "tokenizer.dim": dim}


def vq(state: State) -> Facts:
    return {**trunk(state), **codebook(state), "tokenizer.latent_channels": state["autoencoder.quant_conv.weight"].shape[1]}


def multiscale_vq(state: State) -> Facts:
    return {**trunk(state), **codebook(state), "tokenizer.num_phi": count(state, r"phis\.(\d+)\.")}


def kl(state: State) -> Facts:
    return {**trunk(state), "tokenizer.dim": state["autoencoder.quant_conv.weight"].shape[0] // 2}


def conditioner(state: State) -> Facts:
    """Text where there is a projection of features, else labels, the null class being the table's last row."""
    if "conditioner.project.0.weight" not in state:
        return {"conditioner.name": "class_labels", "conditioner.num_classes": state["conditioner.table.weight"].shape[0] - 1}
    tokens, dim = state["conditioner.null_features"].shape
    return {"conditioner.name": "text_features", "conditioner.feature_dim": dim, "conditioner.num_tokens": tokens}


def raster(state: State) -> Facts:
    vocab_size, dim = state["generator.embed.weight"].shape
    depth = count(state, r"generator\.blocks\.(\d+)\.")
    return {"generator.dim": dim, "generator.depth": depth, "tokenizer.vocab_size": vocab_size}


def ratio(hidden: int, dim: int) -> float:
    """The mlp_ratio that gives ``hidden`` units again, whatever the rounding."""
    return hidden / dim if int(dim * (hidden / dim)) == hidden else (hidden + 0.5) / dim


def var(state: State) -> Facts:
    dim, token_dim = state["generator.embed.weight"].shape
    scales = state.get("generator.blocks.0.attention.log_scale")  # one a head, with q/k normalisation
    return {
        "generator.dim": dim,
        "generator.depth": count(state, r"generator\.blocks\.(\d+)\."),
        **({} if scales is None else {"generator.num_heads": len(scales)}),
        "generator.mlp_ratio": ratio(state["generator.blocks.0.mlp.fc1.weight"].shape[0], dim),
        "generator.qk_norm": scales is not None,
        "generator.shared_adaln": "generator.shared.linear.weight" in state,
        "tokenizer.vocab_size": state["head.linear.weight"].shape[0],
        "tokenizer.dim": token_dim,
    }


def mar(state: State) -> Facts:
    dim, _ = state["generator.embed.weight"].shape
    return {
        "generator.dim": dim,
        "generator.depth": count(state, r"generator\.encoder\.(\d+)\.") + count(state, r"generator\.decoder\.(\d+)\."),
        "generator.mlp_ratio": ratio(state["generator.encoder.0.mlp.fc1.weight"].shape[0], dim),
        "generator.buffer_size": len(state["generator.encoder_position"]) - len(state["generator.out_position"]),
    }


def diffusion(state: State) -> Facts:
    return {"head.width": state["head.mlp.in_proj.weight"].shape[0], "head.depth": count(state, r"head\.mlp\.blocks\.(\d+)\.")}


READERS: dict[str, Callable[[State], Facts]] = {
    "vq": vq,
    "multiscale_vq": multiscale_vq,
    "kl": kl,
    "conditioner": conditioner,
    "raster": raster,
    "var": var,
    "mar": mar,
    "cross_entropy": lambda state: {},
    "diffusion": diffusion,
}


def tokens_of(state: State, what: str) -> tuple[int, int | None] | None:
    """(tokens N, scales S or None) of a generator that learns a position for each; None where it does not (RoPE).

    Raises:
        ArgenzooError: VAR's level embedding is missing.
    """
    if "generator.out_position" in state:
        return len(state["generator.out_position"]), None
    if "generator.position" not in state:
        return None
    if "generator.level.weight" not in state:
        raise ArgenzooError(f"{what} is no complete checkpoint: generator.level.weight is missing")
    return len(state["generator.position"]), len(state["generator.level.weight"])


def side_of(tokens: int) -> int:
    """Of a square grid."""
    side = math.isqrt(tokens)
    if side * side != tokens:
        raise ArgenzooError(f"{tokens} tokens are no square grid")
    return side
