"""The authors' files, by rule: every key and shape of a checkpoint of any size, and weights for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from golden.seeded import seeded_tensor
from torch import Tensor

Layout = dict[str, list[int]]


def norm(name: str, width: int) -> Layout:
    return {f"{name}.weight": [width], f"{name}.bias": [width]}


def conv(name: str, out: int, into: int, kernel: int) -> Layout:
    return {f"{name}.weight": [out, into, kernel, kernel], f"{name}.bias": [out]}


def linear(name: str, out: int, into: int) -> Layout:
    return {f"{name}.weight": [out, into], f"{name}.bias": [out]}


def residual(name: str, into: int, out: int) -> Layout:
    shortcut = {} if into == out else conv(f"{name}.nin_shortcut", out, into, 1)
    return {
        **norm(f"{name}.norm1", into),
        **conv(f"{name}.conv1", out, into, 3),
        **norm(f"{name}.norm2", out),
        **conv(f"{name}.conv2", out, out, 3),
        **shortcut,
    }


def attention(name: str, width: int, fused: bool) -> Layout:
    projections = (
        conv(f"{name}.qkv", 3 * width, width, 1)
        if fused
        else {k: s for p in "qkv" for k, s in conv(f"{name}.{p}", width, width, 1).items()}
    )
    return {**norm(f"{name}.norm", width), **projections, **conv(f"{name}.proj_out", width, width, 1)}


def trunk(style: str, ch: int, mult: list[int], latent: int, moments: int = 1) -> Layout:
    """LDM's encoder and decoder, in the key style of ``llamagen``, ``var`` or ``mar``."""
    flat, fused = style == "llamagen", style == "var"
    top = len(mult) - 1
    block, up = ("res", "conv_blocks") if flat else ("block", "up")
    middle = ("mid.0", "mid.1", "mid.2") if flat else ("mid.block_1", "mid.attn_1", "mid.block_2")
    down = "conv_blocks" if flat else "down"
    out = conv("encoder.conv_in", ch, 3, 3)
    width = ch
    for level, factor in enumerate(mult):
        for i in range(2):
            out |= residual(f"encoder.{down}.{level}.{block}.{i}", width, ch * factor)
            width = ch * factor
            out |= attention(f"encoder.{down}.{level}.attn.{i}", width, fused) if level == top else {}
        out |= conv(f"encoder.{down}.{level}.downsample.conv", width, width, 3) if level != top else {}
    for side in ("encoder", "decoder"):
        out |= residual(f"{side}.{middle[0]}", width, width) | attention(f"{side}.{middle[1]}", width, fused)
        out |= residual(f"{side}.{middle[2]}", width, width)
    out |= (
        norm("encoder.norm_out", width) | conv("encoder.conv_out", latent * moments, width, 3) | conv("decoder.conv_in", width, latent, 3)
    )
    for level in reversed(range(len(mult))):
        place = top - level if flat else level
        for i in range(3):
            out |= residual(f"decoder.{up}.{place}.{block}.{i}", width, ch * mult[level])
            width = ch * mult[level]
            out |= attention(f"decoder.{up}.{place}.attn.{i}", width, fused) if level == top and style != "mar" else {}
        out |= conv(f"decoder.{up}.{place}.upsample.conv", width, width, 3) if level else {}
    return out | norm("decoder.norm_out", width) | conv("decoder.conv_out", 3, width, 3)


def vq(ch: int = 128, mult: tuple[int, ...] = (1, 1, 2, 2, 4), latent: int = 256, vocab: int = 16384, dim: int = 8) -> Layout:
    quant = conv("quant_conv", dim, latent, 1) | conv("post_quant_conv", latent, dim, 1)
    return trunk("llamagen", ch, list(mult), latent) | quant | {"quantize.embedding.weight": [vocab, dim]}


def var_tokenizer(ch: int = 160, mult: tuple[int, ...] = (1, 1, 2, 2, 4), vocab: int = 4096, dim: int = 32, phis: int = 4) -> Layout:
    quant = conv("quant_conv", dim, dim, 3) | conv("post_quant_conv", dim, dim, 3)
    refine = {key: shape for i in range(phis) for key, shape in conv(f"quantize.quant_resi.qresi_ls.{i}", dim, dim, 3).items()}
    return trunk("var", ch, list(mult), dim) | quant | refine | {"quantize.embedding.weight": [vocab, dim]}


def kl(ch: int = 128, mult: tuple[int, ...] = (1, 1, 2, 2, 4), dim: int = 16) -> Layout:
    return trunk("mar", ch, list(mult), dim, 2) | conv("quant_conv", 2 * dim, 2 * dim, 1) | conv("post_quant_conv", dim, dim, 1)


def llamagen(dim: int = 768, depth: int = 12, vocab: int = 16384, classes: int = 1000, text: tuple[int, int] | None = None) -> Layout:
    """``text``: (tokens, width of the features) instead of class labels."""
    hidden = -(-int(2 / 3 * 4 * dim) // 256) * 256
    out: Layout = {"cls_embedding.embedding_table.weight": [classes + 1, dim]}
    if text is not None:
        out = {
            "cls_embedding.cap_proj.fc1.weight": [dim, text[1]],
            "cls_embedding.cap_proj.fc2.weight": [dim, dim],
            "cls_embedding.uncond_embedding": list(text),
        }
    for i in range(depth):
        out |= {f"layers.{i}.attention.wqkv.weight": [3 * dim, dim], f"layers.{i}.attention.wo.weight": [dim, dim]}
        out |= {f"layers.{i}.feed_forward.{w}.weight": [hidden, dim] for w in ("w1", "w3")}
        out |= {f"layers.{i}.feed_forward.w2.weight": [dim, hidden]}
        out |= {f"layers.{i}.{name}.weight": [dim] for name in ("attention_norm", "ffn_norm")}
    return out | {"tok_embeddings.weight": [vocab, dim], "norm.weight": [dim], "output.weight": [vocab, dim]}


def var(
    depth: int = 16,
    scales: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16),
    shared: bool = False,
    vocab: int = 4096,
    dim: int = 32,
    classes: int = 1000,
    qk_norm: bool = True,
) -> Layout:
    width = 64 * depth
    out = linear("word_embed", width, dim) | linear("head_nm.ada_lin.1", 2 * width, width) | linear("head", vocab, width)
    out |= {"class_emb.weight": [classes + 1, width], "pos_start": [1, scales[0] ** 2, width], "lvl_embed.weight": [len(scales), width]}
    out |= {"pos_1LC": [1, sum(side * side for side in scales), width]}
    out |= linear("shared_ada_lin.1", 6 * width, width) if shared else {}
    for i in range(depth):
        out |= {f"blocks.{i}.attn.scale_mul_1H11": [1, depth, 1, 1]} if qk_norm else {}
        out |= {f"blocks.{i}.attn.{name}": [width] for name in ("q_bias", "v_bias")}
        out |= {f"blocks.{i}.attn.mat_qkv.weight": [3 * width, width]}
        out |= linear(f"blocks.{i}.attn.proj", width, width)
        out |= linear(f"blocks.{i}.ffn.fc1", 4 * width, width) | linear(f"blocks.{i}.ffn.fc2", width, 4 * width)
        out |= {f"blocks.{i}.ada_gss": [1, 1, 6, width]} if shared else linear(f"blocks.{i}.ada_lin.1", 6 * width, width)
    return out


def mar(
    dim: int = 768,
    depth: int = 12,
    width: int = 1024,
    blocks: int = 6,
    tokens: int = 256,
    channels: int = 16,
    buffer: int = 64,
    classes: int = 1000,
) -> Layout:
    """``depth``: of the encoder and of the decoder each; ``width`` and ``blocks`` of the diffusion loss's MLP."""
    out: Layout = {"fake_latent": [1, dim], "class_emb.weight": [classes, dim], "mask_token": [1, 1, dim]}
    out |= {f"{side}_pos_embed_learned": [1, buffer + tokens, dim] for side in ("encoder", "decoder")}
    out |= {"diffusion_pos_embed_learned": [1, tokens, dim]} | linear("z_proj", dim, channels) | norm("z_proj_ln", dim)
    for side in ("encoder", "decoder"):
        for i in range(depth):
            at = f"{side}_blocks.{i}"
            out |= norm(f"{at}.norm1", dim) | norm(f"{at}.norm2", dim) | linear(f"{at}.attn.qkv", 3 * dim, dim)
            out |= linear(f"{at}.attn.proj", dim, dim) | linear(f"{at}.mlp.fc1", 4 * dim, dim) | linear(f"{at}.mlp.fc2", dim, 4 * dim)
        out |= norm(f"{side}_norm", dim)
    net = "diffloss.net"
    out |= (
        linear("decoder_embed", dim, dim) | linear(f"{net}.time_embed.mlp.0", width, 256) | linear(f"{net}.time_embed.mlp.2", width, width)
    )
    out |= linear(f"{net}.cond_embed", width, dim) | linear(f"{net}.input_proj", width, channels)
    for i in range(blocks):
        at = f"{net}.res_blocks.{i}"
        out |= norm(f"{at}.in_ln", width) | linear(f"{at}.mlp.0", width, width) | linear(f"{at}.mlp.2", width, width)
        out |= linear(f"{at}.adaLN_modulation.1", 3 * width, width)
    return (
        out | linear(f"{net}.final_layer.adaLN_modulation.1", 2 * width, width) | linear(f"{net}.final_layer.linear", 2 * channels, width)
    )


def seeded(layout: Layout, seed: int = 0) -> dict[str, Tensor]:
    return {key: seeded_tensor(key, shape, seed) for key, shape in layout.items()}


def meta(layout: Layout) -> dict[str, Tensor]:
    return {key: torch.empty(shape, device="meta") for key, shape in layout.items()}


def levels(scales: tuple[int, ...]) -> Tensor:
    """VAR's buffer lvl_1L: each position's scale."""
    return torch.cat([torch.full((side * side,), i) for i, side in enumerate(scales)])[None]


def saved(path: Path, content: Any, **options: Any) -> Path:
    torch.save(content, path, **options)
    return path


TEXT = (120, 2048)
PUBLISHED: dict[str, tuple[Layout, Layout]] = {  # name -> generator's layout, tokenizer's
    "llamagen_b_256": (llamagen(768, 12), vq()),
    "llamagen_l_256": (llamagen(1024, 24), vq()),
    "llamagen_b_384": (llamagen(768, 12), vq()),
    "llamagen_l_384": (llamagen(1024, 24), vq()),
    "llamagen_xl_384": (llamagen(1280, 36), vq()),
    "llamagen_xxl_384": (llamagen(1536, 48), vq()),
    "llamagen_3b_384": (llamagen(3200, 24), vq()),
    "llamagen_xl_t2i_256": (llamagen(1280, 36, text=TEXT), vq()),
    "llamagen_xl_t2i_512": (llamagen(1280, 36, text=TEXT), vq()),
    "var_d16": (var(16), var_tokenizer()),
    "var_d20": (var(20), var_tokenizer()),
    "var_d24": (var(24), var_tokenizer()),
    "var_d30": (var(30), var_tokenizer()),
    "var_d36": (var(36, (1, 2, 3, 4, 6, 9, 13, 18, 24, 32), shared=True), var_tokenizer()),
    "mar_b": (mar(), kl()),
    "mar_l": (mar(1024, 16, 1280, 8), kl()),
    "mar_h": (mar(1280, 20, 1536, 12), kl()),
}


def family_of(name: str) -> str:
    return name.split("_")[0]


SCALES = (1, 2, 3, 4)
SMALL = {
    ("llamagen", "generator"): llamagen(64, 2, 128, 10),
    ("llamagen", "tokenizer"): vq(32, (1, 1, 2), 32, 128, 8),
    ("var", "generator"): var(2, SCALES, vocab=64, dim=8, classes=10),
    ("var", "tokenizer"): var_tokenizer(32, (1, 1, 2), 64, 8),
    ("mar", "generator"): mar(64, 2, 64, 2, 16, 8, 4, 10),
    ("mar", "tokenizer"): kl(32, (1, 1, 2), 8),
}
TOLD: dict[str, dict[str, Any]] = {"llamagen": {"num_heads": 2, "scales": [4]}, "var": {"scales": SCALES}, "mar": {"num_heads": 2}}


def state(family: str, kind: str) -> dict[str, torch.Tensor]:
    return seeded(SMALL[family, kind])
