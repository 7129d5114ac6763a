"""Golden cases as models: seeded checkpoints under the authors' keys, through ``import_official``."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from golden.seeded import load_case
from torch import Tensor

from argenzoo.hub import import_official
from argenzoo.model import ARModel

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
    """With the buffers that official files also hold, as nonsense: they must not be read."""
    case = Golden(*load_case(FOLDER / name))
    buffers = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))["buffers_not_seeded"]
    case.checkpoint |= {key: torch.full(shape, torch.nan) for key, shape in buffers.items() if not key.endswith("lvl_1L")}
    return case


def split(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): tensor for key, tensor in state.items() if key.startswith(prefix)}


def llamagen_vq() -> tuple[Golden, Any]:
    case = golden("llamagen_vq")
    return case, import_official("llamagen", tokenizer=case.checkpoint, scales=[case.config["grid"]]).tokenizer


def greedy(model: ARModel, sampling: dict[str, Any] | None = None) -> ARModel:
    model.sampling = model.sampling.override({"head.temperature": 0, **(sampling or {})})
    return model


def llamagen(name: str) -> tuple[Golden, ARModel]:
    case = golden(name)
    side = int(case.config["block_size"] ** 0.5)
    return case, greedy(import_official("llamagen", generator=case.checkpoint, num_heads=case.config["n_head"], scales=[side]))


def var(name: str) -> tuple[Golden, ARModel]:
    case = golden(name)
    files = split(case.checkpoint, "var."), split(case.checkpoint, "vae.")
    return case, greedy(import_official("var", *files, scales=case.config["patch_nums"]))


def mar_kl() -> tuple[Golden, Any]:
    case = golden("mar_kl")
    side = case.config["resolution"] // 2 ** (len(case.config["ch_mult"]) - 1)
    return case, import_official("mar", tokenizer=case.checkpoint, scales=[side]).tokenizer


def mar() -> tuple[Golden, ARModel]:
    case = golden("mar")
    c = case.config
    model = import_official(
        "mar", generator=case.checkpoint, num_heads=c["num_heads"], patch_size=c["patch_size"], buffer_size=c["buffer_size"]
    )
    return case, greedy(model, {"guidance": 3.0, "order.num_steps": c["num_iter"], "head.num_steps": int(c["num_sampling_steps"])})
