"""``argenzoo evaluate``: one command for generators and tokenizers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from argenzoo.build import find
from argenzoo.evaluation.generator import evaluate_generator
from argenzoo.evaluation.settings import Settings
from argenzoo.evaluation.tokenizer import evaluate_tokenizer


def evaluate(source: str | Path, overrides: dict[str, Any] | None = None, settings: Settings | None = None) -> dict[str, Any]:
    """Measure a model; writes evaluation.json and a picture to ``settings.out``, returns the JSON's content.

    A generator is sampled and its samples compared with a reference; a tokenizer gives pictures back.

    Args:
        source: a checkpoint or run folder, a repository of the Hub, or a recipe with published weights; for a tokenizer also a recipe
            whose ``tokenizer.weights`` are named (``pretrained``: published).
        overrides: dotted keys of the data (``data.path``); for a generator of its sampling (``guidance``, ``head.temperature``), for a
            tokenizer of the tokenizer.

    Raises:
        ArgenzooError: no such model, weights or data; a setting that has no effect; results of something else in ``settings.out``.
    """
    overrides, settings = overrides or {}, settings or Settings()
    data = {key: value for key, value in overrides.items() if key.partition(".")[0] == "data"}
    recipe, _ = find(source, data)
    measure = evaluate_tokenizer if recipe.generator is None else evaluate_generator
    return measure(source, overrides, settings)


def table(made: dict[str, Any]) -> str:
    """The figures for a person."""
    figures, reasons = made["figures"], made["reasons"]
    plain = {key: value for key, value in figures.items() if not isinstance(value, list) and (value is not None or key in reasons)}
    rows = [f"{key:32} {'-  ' + reasons[key] if value is None else f'{value:.5g}'}" for key, value in plain.items()]
    return "\n".join([headline(made), *rows])


def headline(made: dict[str, Any]) -> str:
    """How many pictures, and which."""
    if "data" not in made:
        return f"{made['num']:,} samples, {made['seconds_an_image']:.4g} s each"
    window = made["figures"]["codebook_window"]
    return f"{made['data']['num']:,} pictures ({made['data']['part']})" + (f", {sum(window):,} tokens" if window else "")
