"""A study's figures as rows, for Markdown and HTML alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from argenzoo.comparison.cells import Outcome

COLUMNS = {
    "cell": "cell",
    "parts": "tokenizer, generator, head",
    "parameters": "parameters",
    "steps": "steps",
    "flops": "training FLOPs",
    "seconds": "training seconds",
    "loss": "held-out loss",
    "kid": "KID x 1000 (95 %)",
    "fid": "FID",
    "sfid": "sFID",
    "inception_score": "IS",
    "precision": "precision",
    "recall": "recall",
    "speed": "s / image",
    "sampling": "sampling FLOPs / image",
}


def rows(outcomes: Sequence[Outcome]) -> list[dict[str, str]]:
    """A row a cell; columns that nothing fills are left out."""
    made = [row(outcome) for outcome in outcomes]
    filled = [key for key in COLUMNS if any(one[key] != "-" for one in made)]
    return [{COLUMNS[key]: one[key] for key in filled} for one in made]


def row(outcome: Outcome) -> dict[str, str]:
    figures, recipe = outcome.evaluation["figures"], outcome.recipe
    assert recipe.generator is not None
    assert recipe.head is not None
    losses = outcome.held_out()
    return {
        "cell": outcome.name,
        "parts": f"{tokenizer_of(outcome)}, {recipe.generator.name}, {recipe.head.name}",
        "parameters": f"{outcome.network_parameters / 1e6:.2f}M",
        "steps": number(outcome.end.get("steps"), ",d"),
        "flops": number(outcome.training_flops, ".2e"),
        "seconds": number(outcome.training_seconds, ",.0f"),
        "loss": number(losses[-1][1] if losses else None, ".4f"),
        "kid": kid(figures),
        **{name: number(figures[name], ".2f") for name in ("fid", "sfid", "inception_score")},
        **{name: number(figures[name], ".3f") for name in ("precision", "recall")},
        "speed": number(outcome.evaluation["seconds_an_image"], ".4g"),
        "sampling": number(outcome.cost.sample, ".2e"),
    }


def tokenizer_of(outcome: Outcome) -> str:
    part = outcome.recipe.tokenizer
    return part.name + (" (vectors)" if getattr(part.config, "quantize", True) is False else "")


def kid(figures: dict[str, Any]) -> str:
    if figures["kid"] is None:
        return "-"
    low, high = figures["kid_interval"]
    return f"{1000 * figures['kid']:.1f} ({1000 * low:.1f} to {1000 * high:.1f})"


def number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def markdown(table: Sequence[dict[str, str]]) -> str:
    """A table of Markdown."""
    if not table:
        return ""
    columns = list(table[0])
    lines = [columns, ["---"] * len(columns), *([row[column].replace("|", "\\|") for column in columns] for row in table)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"
