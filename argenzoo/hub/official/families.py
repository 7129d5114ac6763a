"""The three families of published files: which parts they are, which tables rename them, how they are told apart."""

from __future__ import annotations

from dataclasses import dataclass, field

from argenzoo.errors import ArgenzooError, suggestion
from argenzoo.hub.official.layouts import (
    IGNORED,
    JOINED,
    LLAMAGEN,
    MAR,
    TRUNK,
    VAR,
    State,
    Table,
    joined,
    kept,
    network_state,
    tokenizer_state,
)

KINDS = ("generator", "tokenizer")
CONVERT = {"generator": network_state, "tokenizer": tokenizer_state}


@dataclass(frozen=True)
class Family:
    """The published files of one paper.

    Args:
        parts: the tokenizer, generator and head they become.
        tables: official keys -> ours, by kind.
        marks: a key that a generator, or tokenizer, of this family has, by kind.
        never: a key that none of them has.
        templates: by conditioner, the recipe that says what neither file nor caller does.
        head_width: of an attention head, where the family fixes it; heads are counted from it where the file does not tell.
    """

    name: str
    parts: dict[str, str]
    tables: dict[str, Table] = field(repr=False)
    marks: dict[str, str]
    templates: dict[str, str]
    never: str | None = None
    head_width: int | None = None

    def ours(self, kind: str, state: State, what: str) -> State:
        """Official keys -> ours. Raises ArgenzooError where the file is another family's or kind's, and says whose; and where tensors
        have shapes that can't be."""
        try:
            state = kept(state, IGNORED[self.name])
            self.check(kind, state, what)
            whole = joined(state, JOINED.get(self.name, {})) if kind == "generator" else state
            return CONVERT[kind](whole, self.tables[kind])
        except KeyError as error:
            raise ArgenzooError(f"{what} is no complete checkpoint: {error.args[0]} is missing") from None
        except (RuntimeError, IndexError, TypeError) as error:
            raise ArgenzooError(f"{what} has tensors of shapes that can't be ({' '.join(str(error).split())[:120]})") from None

    def check(self, kind: str, state: State, what: str) -> None:
        """Raises ArgenzooError unless the keys are those of this family's ``kind``."""
        found = [(family.name, part) for family in FAMILIES.values() for part in KINDS if family.has(part, state)]
        if found and found[0] != (self.name, kind):
            raise ArgenzooError(f"{what} is {found[0][0]}'s {found[0][1]}, not {self.name}'s {kind}: {advice(found[0], self.name)}")
        if not found:
            keys = ", ".join(sorted(state)[:3])
            raise ArgenzooError(f"{what} is no {kind} of {self.name}: it has no {self.marks[kind]}, but {keys}, ...")

    def has(self, kind: str, state: State) -> bool:
        """Whether the keys are those of this family's ``kind``."""
        return self.marks[kind] in state and self.never not in state


FAMILIES = {
    family.name: family
    for family in (
        Family(
            "llamagen",
            {"tokenizer": "vq", "generator": "raster", "head": "cross_entropy"},
            {"generator": LLAMAGEN, "tokenizer": TRUNK},
            {"generator": "tok_embeddings.weight", "tokenizer": "encoder.conv_blocks.0.res.0.conv1.weight"},
            {"class_labels": "llamagen_b_256", "text_features": "llamagen_xl_t2i_256"},
        ),
        Family(
            "var",
            {"tokenizer": "multiscale_vq", "generator": "var", "head": "cross_entropy"},
            {"generator": VAR, "tokenizer": TRUNK},
            {"generator": "pos_1LC", "tokenizer": "quantize.quant_resi.qresi_ls.0.weight"},
            {"class_labels": "var_d16"},
            head_width=64,
        ),
        Family(
            "mar",
            {"tokenizer": "kl", "generator": "mar", "head": "diffusion"},
            {"generator": MAR, "tokenizer": TRUNK},
            {"generator": "encoder_pos_embed_learned", "tokenizer": "encoder.down.0.block.0.conv1.weight"},
            {"class_labels": "mar_b"},
            never="quantize.embedding.weight",  # LDM's keys alone are MAR's tokenizer; others have them too, and a codebook
        ),
    )
}


def family_of(name: str) -> Family:
    """Raises ArgenzooError on an unknown name, with the nearest."""
    if not isinstance(name, str) or name not in FAMILIES:
        raise ArgenzooError(f"unknown family '{name}'{suggestion(str(name), FAMILIES)}")
    return FAMILIES[name]


def advice(found: tuple[str, str], family: str) -> str:
    """What to do with a file that is something else."""
    return f"pass it as {found[1]}" if found[0] == family else f"import it as family '{found[0]}'"
