"""argenzoo: a modular zoo of autoregressive image generators."""

from argenzoo.build import build_model, build_tokenizer
from argenzoo.errors import ArgenzooError
from argenzoo.model import ARModel
from argenzoo.recipe import list_models, load_recipe
from argenzoo.registry import conditioners, datasets, generators, heads, tokenizers

__version__ = "0.1.0"

__all__ = [
    "ARModel",
    "ArgenzooError",
    "build_model",
    "build_tokenizer",
    "conditioners",
    "datasets",
    "generators",
    "heads",
    "list_models",
    "load_recipe",
    "tokenizers",
]
