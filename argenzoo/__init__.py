"""argenzoo: a modular zoo of autoregressive image generators."""

from argenzoo.build import build_model, build_tokenizer
from argenzoo.errors import ArgenzooError
from argenzoo.model import ARModel
from argenzoo.recipe import list_models, load_recipe
from argenzoo.versions import __version__

__all__ = ["ARModel", "ArgenzooError", "__version__", "build_model", "build_tokenizer", "list_models", "load_recipe"]
