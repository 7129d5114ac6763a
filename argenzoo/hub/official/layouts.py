"""Official keys -> ours: one table of renames a file, and the few tensors that change shape.

A table is a list of (pattern, replacement), applied in order to each key.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor

from argenzoo.errors import ArgenzooError

Table = list[tuple[str, str]]
State = dict[str, Tensor]

# buffers of official files that are rebuilt or never used
IGNORED = {
    "llamagen": (r"quantize\.codebook_used", r"freqs_cis"),
    "var": (r"quantize\.ema_vocab_hit_SV", r"lvl_1L", r"attn_bias_for_masking", r"blocks\.\d+\.attn\.zero_k_bias"),
    "mar": (),
}
# what the authors keep in parts: MAR its null class
JOINED: dict[str, dict[str, tuple[str, ...]]] = {"mar": {"class_emb.weight": ("class_emb.weight", "fake_latent")}}
WRAPPED = r"^(?:module\.|_orig_mod\.)+"  # DistributedDataParallel and torch.compile put these in front

TRUNK: Table = [
    (r"^(encoder|decoder|quant_conv|post_quant_conv)\.", r"autoencoder.\1."),
    (r"\.(?:down|conv_blocks)\.(\d+)\.(?:block|res)\.", r".down_blocks.\1.resnets."),
    (r"\.(?:down|conv_blocks)\.(\d+)\.attn\.", r".down_blocks.\1.attentions."),
    (r"\.(?:down|conv_blocks)\.(\d+)\.(down|up)sample\.", r".down_blocks.\1.\2samplers.0."),
    (r"\.up\.(\d+)\.block\.", r".up_blocks.\1.resnets."),
    (r"\.up\.(\d+)\.attn\.", r".up_blocks.\1.attentions."),
    (r"\.up\.(\d+)\.upsample\.", r".up_blocks.\1.upsamplers.0."),
    (r"decoder\.down_blocks", r"decoder.up_blocks"),
    (r"\.mid\.(?:block_1|0)\.", ".mid_block.resnets.0."),
    (r"\.mid\.(?:attn_1|1)\.", ".mid_block.attentions.0."),
    (r"\.mid\.(?:block_2|2)\.", ".mid_block.resnets.1."),
    (r"\.nin_shortcut\.", ".conv_shortcut."),
    (r"(attentions\.\d+)\.norm\.", r"\1.group_norm."),
    (r"(attentions\.\d+)\.(q|k|v|qkv)\.", r"\1.to_\2."),
    (r"(attentions\.\d+)\.proj_out\.", r"\1.to_out.0."),
    (r"\.norm_out\.", ".conv_norm_out."),
    (r"^quantize\.embedding\.", "codebook."),
    (r"^quantize\.quant_resi\.qresi_ls\.(\d+)\.", r"phis.\1.conv."),
]

LLAMAGEN: Table = [
    (r"^cls_embedding\.embedding_table\.", "conditioner.table."),
    (r"^cls_embedding\.cap_proj\.fc1\.", "conditioner.project.0."),
    (r"^cls_embedding\.cap_proj\.fc2\.", "conditioner.project.2."),
    (r"^cls_embedding\.uncond_embedding$", "conditioner.null_features"),
    (r"^tok_embeddings\.", "generator.embed."),
    (r"^layers\.(\d+)\.attention\.wqkv\.", r"generator.blocks.\1.attention.qkv."),
    (r"^layers\.(\d+)\.attention\.wo\.", r"generator.blocks.\1.attention.proj."),
    (r"^layers\.(\d+)\.feed_forward\.", r"generator.blocks.\1.ffn."),
    (r"^layers\.(\d+)\.", r"generator.blocks.\1."),
    (r"^norm\.", "generator.norm."),
    (r"^output\.", "head.linear."),
]

VAR: Table = [
    (r"^class_emb\.", "conditioner.table."),
    (r"^pos_start$", "generator.start_token"),
    (r"^pos_1LC$", "generator.position"),
    (r"^word_embed\.", "generator.embed."),
    (r"^lvl_embed\.", "generator.level."),
    (r"^shared_ada_lin\.1\.", "generator.shared.linear."),
    (r"^blocks\.(\d+)\.attn\.scale_mul_1H11$", r"generator.blocks.\1.attention.log_scale"),
    (r"^blocks\.(\d+)\.attn\.mat_qkv\.", r"generator.blocks.\1.attention.qkv."),
    (r"^blocks\.(\d+)\.attn\.", r"generator.blocks.\1.attention."),
    (r"^blocks\.(\d+)\.ffn\.", r"generator.blocks.\1.mlp."),
    (r"^blocks\.(\d+)\.ada_lin\.1\.", r"generator.blocks.\1.modulation.linear."),
    (r"^blocks\.(\d+)\.ada_gss$", r"generator.blocks.\1.offset"),
    (r"^head_nm\.ada_lin\.1\.", "generator.out.linear."),
    (r"^head\.", "head.linear."),
]

MAR: Table = [
    (r"^class_emb\.", "conditioner.table."),
    (r"^(encoder|decoder)_pos_embed_learned$", r"generator.\1_position"),
    (r"^diffusion_pos_embed_learned$", "generator.out_position"),
    (r"^mask_token$", "generator.mask_token"),
    (r"^z_proj\.", "generator.embed."),
    (r"^z_proj_ln\.", "generator.embed_norm."),
    (r"^(encoder|decoder)_blocks\.", r"generator.\1."),
    (r"^(encoder|decoder)_norm\.", r"generator.\1_norm."),
    (r"^decoder_embed\.", "generator.bridge."),
    (r"^diffloss\.net\.time_embed\.mlp\.", "head.mlp.time_embed."),
    (r"^diffloss\.net\.cond_embed\.", "head.mlp.z_embed."),
    (r"^diffloss\.net\.input_proj\.", "head.mlp.in_proj."),
    (r"^diffloss\.net\.res_blocks\.(\d+)\.in_ln\.", r"head.mlp.blocks.\1.norm."),
    (r"^diffloss\.net\.res_blocks\.(\d+)\.adaLN_modulation\.1\.", r"head.mlp.blocks.\1.modulation."),
    (r"^diffloss\.net\.res_blocks\.", "head.mlp.blocks."),
    (r"^diffloss\.net\.final_layer\.adaLN_modulation\.1\.", "head.mlp.out_modulation."),
    (r"^diffloss\.net\.final_layer\.linear\.", "head.mlp.out_proj."),
]

RESHAPED = {  # learned embeddings with leading dimensions of 1 in the official files: how many dimensions ours have
    "start_token": 2,
    "position": 2,
    "offset": 2,
    "encoder_position": 2,
    "decoder_position": 2,
    "out_position": 2,
    "mask_token": 2,
    "log_scale": 3,
}


def renamed(state: State, table: Table) -> State:
    """The tensors under our names. Raises ArgenzooError where two become one."""
    out: State = {}
    for official, tensor in state.items():
        key = official
        for pattern, replacement in table:
            key = re.sub(pattern, replacement, key)
        if key in out:
            raise ArgenzooError(f"two tensors of the file become {key}: {official} is one")
        out[key] = tensor
    return out


def kept(state: State, ignored: tuple[str, ...]) -> State:
    """Without the prefixes of wrappers that the authors' scripts may have saved through, and without ignorable buffers."""
    plain = renamed(state, [(WRAPPED, "")])
    return {key: tensor for key, tensor in plain.items() if not any(re.fullmatch(pattern, key) for pattern in ignored)}


def joined(state: State, joins: dict[str, tuple[str, ...]]) -> State:
    """With tables that the authors keep in parts put together. Raises KeyError where a part is missing."""
    state = dict(state)
    for whole, parts in joins.items():
        state[whole] = torch.cat([state.pop(part) for part in parts])
    return state


def tokenizer_state(state: State, table: Table) -> State:
    """A tokenizer of LlamaGen, VAR or MAR -> ours, without ``scale.factors``: 1x1 convolutions of the attention become
    Linear weights, VAR's fused q, k, v is split, LDM's decoder levels are counted from the coarse end."""
    levels = 1 + max((int(m[1]) for key in state if (m := re.match(r"decoder\.up\.(\d+)\.", key))), default=-1)
    flipped = {
        re.sub(r"^decoder\.up\.(\d+)\.", lambda m: f"decoder.up.{levels - 1 - int(m[1])}.", key): tensor for key, tensor in state.items()
    }
    out: State = {}
    for key, tensor in renamed(flipped, table).items():
        flat = tensor.flatten(1) if re.search(r"\.to_\w+(\.0)?\.weight$", key) else tensor
        if ".to_qkv." in key:
            out.update({key.replace("to_qkv", f"to_{name}"): part.clone() for name, part in zip("qkv", flat.chunk(3), strict=True)})
        else:
            out[key] = flat
    return out


def network_state(state: State, table: Table) -> State:
    """A generator with its condition and head -> the state of an ARNetwork."""
    return {key: _reshaped(key, tensor) for key, tensor in renamed(state, table).items()}


def _reshaped(key: str, tensor: Tensor) -> Tensor:
    """Without leading dimensions of 1, where ours has fewer."""
    extra = max(0, tensor.dim() - RESHAPED.get(key.rsplit(".", 1)[-1], tensor.dim()))
    return tensor.reshape(tensor.shape[extra:]) if set(tensor.shape[:extra]) == {1} else tensor
