"""The three families of published files: which parts they are, which table renames them, how they are told apart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

from argenzoo.errors import ArgenzooError, suggestion
from argenzoo.hub.layouts import LLAMAGEN, MAR, VAR, Table, network_state, stripped, tokenizer_state

State = dict[str, Tensor]
KINDS = ("generator", "tokenizer")


@dataclass(frozen=True)
class Family:
    """The published files of one paper.

    Args:
        parts: the tokenizer, generator and head they become.
        marks: a key that only this family's generator, or tokenizer, has.
        templates: by conditioner, the recipe that says what neither file nor caller does.
    """

    name: str
    parts: dict[str, str]
    table: Table = field(repr=False)
    marks: dict[str, str]
    templates: dict[str, str]

    def ours(self, kind: str, state: State, what: str) -> State:
        """Official keys -> ours. Raises ArgenzooError where the file is another family's or kind's, and says whose."""
        found = identify(state)
        if found is not None and found != (self.name, kind):
            raise ArgenzooError(f"{what} is {found[0]}'s {found[1]}, not {self.name}'s {kind}: {advice(found, self.name, kind)}")
        if found is None:
            keys = ", ".join(sorted(state)[:3])
            raise ArgenzooError(f"{what} is no {kind} of {self.name}: it has no {self.marks[kind]}, but {keys}, ...")
        return CONVERT[kind](state, self.table)


CONVERT: dict[str, Callable[[State, Table], State]] = {"generator": network_state, "tokenizer": lambda state, table: tokenizer_state(state)}

FAMILIES = {
    family.name: family
    for family in (
        Family(
            "llamagen",
            {"tokenizer": "vq", "generator": "raster", "head": "cross_entropy"},
            LLAMAGEN,
            {"generator": "tok_embeddings.weight", "tokenizer": "encoder.conv_blocks.0.res.0.conv1.weight"},
            {"class_labels": "llamagen_b_256", "text_features": "llamagen_xl_t2i_256"},
        ),
        Family(
            "var",
            {"tokenizer": "multiscale_vq", "generator": "var", "head": "cross_entropy"},
            VAR,
            {"generator": "pos_1LC", "tokenizer": "quantize.quant_resi.qresi_ls.0.weight"},
            {"class_labels": "var_d16"},
        ),
        Family(
            "mar",
            {"tokenizer": "kl", "generator": "mar", "head": "diffusion"},
            MAR,
            {"generator": "encoder_pos_embed_learned", "tokenizer": "encoder.down.0.block.0.conv1.weight"},
            {"class_labels": "mar_b"},
        ),
    )
}


def family_of(name: str) -> Family:
    """Raises ArgenzooError on an unknown name, with the nearest."""
    if name not in FAMILIES:
        raise ArgenzooError(f"unknown family '{name}'{suggestion(str(name), FAMILIES)}")
    return FAMILIES[name]


def identify(state: State) -> tuple[str, str] | None:
    """(family, kind) that a state dict's official keys belong to."""
    keys = stripped(state)
    found = [(family.name, kind) for family in FAMILIES.values() for kind in KINDS if family.marks[kind] in keys]
    if "quantize.embedding.weight" in keys:  # LDM's keys alone are MAR's tokenizer; others have them too, and a codebook
        found = [entry for entry in found if entry != ("mar", "tokenizer")]
    return found[0] if found else None


def advice(found: tuple[str, str], family: str, kind: str) -> str:
    """What to do with a file that is something else."""
    return f"pass it as {found[1]}" if found[0] == family else f"import it as family '{found[0]}'"
