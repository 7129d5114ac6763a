"""Recipes: one complete YAML a model, typed; ``key=value`` overrides; unknown keys name the nearest valid one."""

from __future__ import annotations

from collections.abc import Iterable
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from argenzoo.errors import ArgenzooError, suggestion
from argenzoo.options import SamplingOptions
from argenzoo.published import Pretrained
from argenzoo.registry import Config, Registry, conditioners, datasets, generators, heads, losses, tokenizers
from argenzoo.train_options import CodebookConfig, TrainConfig

REGISTRIES = {"tokenizer": tokenizers, "conditioner": conditioners, "generator": generators, "head": heads, "data": datasets}


@dataclass(frozen=True)
class Part:
    """A part by name, with its typed configuration; a tokenizer also says where its weights are."""

    name: str
    config: Any
    weights: str | None = None
    sha256: str | None = None

    def dump(self) -> dict[str, Any]:
        extra = {key: value for key in ("weights", "sha256") if (value := getattr(self, key)) is not None}
        return {"name": self.name, **extra, **self.config.model_dump(mode="json")}


@dataclass(frozen=True)
class Recipe:
    """A resolved recipe. A tokenizer's has no conditioner, generator, head and sampling."""

    name: str
    tokenizer: Part
    conditioner: Part | None = None
    generator: Part | None = None
    head: Part | None = None
    sampling: SamplingOptions | None = None
    loss: dict[str, float | Config] | None = None
    codebook: CodebookConfig | None = None
    data: Part | None = None
    train: TrainConfig | None = None
    pretrained: Pretrained | None = None

    def dump(self) -> dict[str, Any]:
        """Nested plain values, as in YAML; ``parse_recipe`` reads them back."""
        out: dict[str, Any] = {"name": self.name}
        for key in ("tokenizer", "conditioner", "generator", "head", "sampling", "data"):
            section = getattr(self, key)
            if section is not None:
                out[key] = section.dump()
        if self.loss is not None:
            out["loss"] = {term: value.model_dump(mode="json") if isinstance(value, Config) else value for term, value in self.loss.items()}
        if self.codebook is not None:
            out["codebook"] = self.codebook.model_dump(mode="json")
        if self.train is not None:
            out["train"] = self.train.model_dump(mode="json")
        if self.pretrained is not None:
            out["pretrained"] = self.pretrained.model_dump(mode="json", exclude_none=True)
        return out

    def yaml(self) -> str:
        return yaml.safe_dump(self.dump(), sort_keys=False, width=120)

    def with_train(self, **changes: Any) -> Recipe:
        """A copy whose train section has ``changes``. Raises ArgenzooError where there is none, or on a value that can't be."""
        if self.train is None:
            raise ArgenzooError(f"recipe '{self.name}' has no train section")
        return replace(self, train=TrainConfig.parse({**self.train.model_dump(), **changes}, "train"))

    def with_part(self, kind: str, **changes: Any) -> Recipe:
        """A copy whose ``kind`` part's configuration has ``changes``."""
        part = getattr(self, kind)
        return replace(self, **{kind: replace(part, config=part.config.model_copy(update=changes))})


REPLACES = {"train.steps": "epochs", "train.epochs": "steps", "tokenizer.weights": "sha256"}  # naming one drops the other
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the same, in C where it is there: ten times as fast
SECTIONS = ("name", "tokenizer", "conditioner", "generator", "head", "sampling", "loss", "codebook", "data", "train", "pretrained")


def recipe_folder() -> Path:
    """Where the zoo's own recipes are: in the wheel beside the code, in a checkout beside the package."""
    packaged = Path(__file__).parent / "recipes"
    return packaged if packaged.is_dir() else Path(__file__).parents[1] / "recipes"


def list_models(pretrained: bool = False) -> list[str]:
    """The names of all recipes, sorted; of those alone whose weights are published, with ``pretrained``."""
    paths = recipe_folder().glob("*.yaml")
    return sorted(path.stem for path in paths if not pretrained or "generator" in (_values(path).get("pretrained") or {}))


def describe(name: str) -> tuple[list[str], str]:
    """(the parts' names, the first line of the comment) of a recipe, read without loading any part."""
    text = recipe_path(name).read_text(encoding="utf-8")
    values = yaml.safe_load(text)
    parts = [values[kind]["name"] for kind in ("tokenizer", "generator", "head") if kind in values]
    return parts, text.splitlines()[0].lstrip("# ")


def load_recipe(source: str | Path, overrides: dict[str, Any] | None = None) -> Recipe:
    """A recipe by name, or from a YAML file.

    Args:
        overrides: dotted keys, e.g. ``{"train.lr": 1e-4, "head.depth": 3}``. Naming another part (``head.name``)
            drops what the file says of the old one.

    Raises:
        ArgenzooError: unknown recipe or key (with the nearest), wrong type or value, a part that is missing.
    """
    path = recipe_path(source)
    values = _values(path)
    values.setdefault("name", path.stem)
    for key, value in sorted(deepcopy(overrides or {}).items(), key=override_order):  # sections are filled: not the caller's
        override(values, key, value)
    recipe = parse_recipe(values)
    beside = path.parent / (recipe.tokenizer.weights or "")
    if recipe.tokenizer.weights and "tokenizer.weights" not in (overrides or {}) and beside.is_file():  # a checkpoint's own tokenizer
        recipe = replace(recipe, tokenizer=replace(recipe.tokenizer, weights=str(beside)))
    return recipe


def _values(path: Path) -> dict[str, Any]:
    """A recipe file's nested values."""
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), Loader=LOADER)
    except (yaml.YAMLError, ValueError) as error:
        raise ArgenzooError(f"{path} is no YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise ArgenzooError(f"{path} is no recipe: expected sections {', '.join(SECTIONS)}")
    return values


def override_order(pair: tuple[str, Any]) -> int:
    """Names first, since naming another part drops the old one's keys; a hash last, since naming weights drops it."""
    return 0 if pair[0].endswith(".name") else 2 if pair[0].endswith(".sha256") else 1


def recipe_path(source: str | Path) -> Path:
    """The file of a recipe given by name or path."""
    path = Path(source)
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise ArgenzooError(f"no recipe file {path}")
        return path
    named = recipe_folder() / f"{source}.yaml"
    if not named.is_file():
        raise ArgenzooError(f"unknown recipe '{source}'{suggestion(str(source), list_models())}")
    return named


def override(values: dict[str, Any], key: str, value: Any) -> None:
    """Set one dotted key in nested recipe values."""
    section, _, name = key.partition(".")
    if section not in SECTIONS:
        raise ArgenzooError(f"unknown key '{key}': no section '{section}'{suggestion(section, SECTIONS)}")
    if not name:
        values[section] = value
        return
    target = values.get(section)
    if not isinstance(target, dict):
        target = values[section] = {}
    if name == "name" and target.get("name") != value:
        target.clear()
    *parents, last = name.split(".")
    for parent in parents:
        target = target.setdefault(parent, {})
        if not isinstance(target, dict):
            raise ArgenzooError(f"'{key}': '{parent}' is a value, not a section")
    target[last] = value
    if key in REPLACES:
        target.pop(REPLACES[key], None)


def parse_overrides(pairs: Iterable[str]) -> dict[str, Any]:
    """``["train.lr=1e-4", "head.top_p=null"]`` -> a dict of typed values, read as YAML."""
    out = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key:
            raise ArgenzooError(f"'{pair}' is no key=value")
        try:
            out[key] = yaml.safe_load(text) if text else None
        except (yaml.YAMLError, ValueError):
            raise ArgenzooError(f"'{pair}': the value is no YAML") from None
    return out


def parse_recipe(values: dict[str, Any]) -> Recipe:
    """Nested plain values -> a typed recipe. Raises ArgenzooError on anything unknown or wrong."""
    for key in values:
        if key not in SECTIONS:
            raise ArgenzooError(f"unknown key '{key}'{suggestion(str(key), SECTIONS)}")
    parts = {kind: _part(values[kind], registry) for kind, registry in REGISTRIES.items() if values.get(kind) is not None}
    if "tokenizer" not in parts:
        raise ArgenzooError("a recipe needs a tokenizer section")
    useless = next((section for section in ("loss", "codebook") if values.get(section) and "generator" in parts), None)
    if useless is not None:
        raise ArgenzooError(f"a generator's recipe has no {useless} section: its tokenizer is frozen, its head has the loss")
    return Recipe(
        name=str(values.get("name", "unnamed")),
        tokenizer=parts["tokenizer"],
        conditioner=parts.get("conditioner"),
        generator=parts.get("generator"),
        head=parts.get("head"),
        sampling=_sampling(values.get("sampling"), parts),
        loss=_losses(values["loss"]) if values.get("loss") else None,
        codebook=CodebookConfig.parse(values["codebook"], "codebook") if values.get("codebook") else None,
        data=parts.get("data"),
        train=_train(values["train"]) if values.get("train") else None,
        pretrained=Pretrained.parse(values["pretrained"], "pretrained") if values.get("pretrained") else None,
    )


def _sampling(values: Any, parts: dict[str, Part]) -> SamplingOptions | None:
    """Typed by the generator and the head, which come together with a conditioner or not at all."""
    missing = {"conditioner", "generator", "head"} - parts.keys()
    if len(missing) == 3:
        if values:
            raise ArgenzooError("a tokenizer's recipe has no sampling section")
        return None
    if missing:
        raise ArgenzooError(f"a generator's recipe needs conditioner, generator and head; missing: {', '.join(sorted(missing))}")
    return SamplingOptions.parse(values or {}, generators.get(parts["generator"].name), heads.get(parts["head"].name))


def _train(values: Any) -> TrainConfig:
    train = TrainConfig.parse(values, "train")
    if (train.steps is None) == (train.epochs is None):
        raise ArgenzooError("train needs either steps or epochs")
    return train


def data_part(values: dict[str, Any]) -> Part:
    """A data section alone. Raises ArgenzooError on an unknown set or key."""
    return _part(values, datasets)


def _part(values: Any, registry: Registry) -> Part:
    if not isinstance(values, dict) or "name" not in values:
        section = "data" if registry is datasets else registry.kind
        raise ArgenzooError(f"section '{section}' needs a name (choices: {', '.join(registry.names())})")
    rest = dict(values)
    name, extra = rest.pop("name"), {}
    if registry is tokenizers:
        extra = {key: rest.pop(key) for key in ("weights", "sha256") if key in rest}
        wrong = next((key for key, value in extra.items() if value is not None and not isinstance(value, str)), None)
        if wrong is not None:
            raise ArgenzooError(f"tokenizer.{wrong}: expected text, got {extra[wrong]!r}")
    where = "data" if registry is datasets else registry.kind
    return Part(name, registry.get(str(name)).Config.parse(rest, where), **extra)


def _losses(values: Any) -> dict[str, float | Config]:
    """The loss section: term -> weight, or weight and settings where the term is a registered part."""
    if not isinstance(values, dict):
        raise ArgenzooError(f"loss: expected a weight for each term, got {values!r}")
    return {str(term): _loss(str(term), value) for term, value in values.items() if value is not None}


def _loss(term: str, value: Any) -> float | Config:
    if term in losses.names():
        return losses.get(term).Config.parse(value if isinstance(value, dict) else {"weight": value}, f"loss.{term}")
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ArgenzooError(f"loss.{term}: expected a weight, got {value!r}")
    return float(value)
