"""The architecture: imports go one way, the package is light, files are short."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "argenzoo"

# who may import whom, layer by layer; a module may also import its own folder
BASE = {"errors", "registry", "rng", "device", "protocols", "versions", "published"}
PARTS = BASE | {"layers", "guidance"}
MODEL = PARTS | {"branches", "decoding", "options", "speculative", "train_options", "model", "condition"}
BUILD = MODEL | {"recipe", "weights", "checkpoint", "build", "counting", "summary", "grids"}
EDGES = {
    "errors": set(),
    "versions": set(),
    "registry": {"errors"},
    "published": {"registry"},
    "rng": set(),
    "device": {"errors"},
    "protocols": {"errors", "registry", "rng"},
    "guidance": BASE,
    "layers": BASE,
    "losses": BASE | {"weights"},
    "condition": BASE,
    "tokenizers": BASE | {"losses"},
    "generators": BASE | {"layers"},
    "heads": PARTS,
    "options": PARTS,
    "branches": {"protocols"},
    "speculative": PARTS | {"branches", "options"},
    "decoding": PARTS | {"branches", "options", "speculative"},
    "model": PARTS | {"decoding", "device", "options"},
    "train_options": {"registry"},
    "recipe": BASE | {"options", "train_options"},
    "weights": {"errors"},
    "checkpoint": {"errors", "weights"},
    "build": MODEL | {"recipe", "weights", "checkpoint"},
    "counting": set(),
    "summary": {"branches", "build", "counting", "layers", "model", "protocols", "recipe", "rng", "train_options"},
    "report": {"data", "recipe", "summary"},
    "grids": set(),
    "hub": BUILD | {"tokenizers"},
    "data": BASE,
    "training": BUILD | {"data", "losses"},
    "caching": BUILD | {"data"},
    "sampling": BUILD,
    "evaluation": BUILD | {"data", "hub", "losses", "sampling"},
    "benchmarking": BUILD | {"training"},
    "comparison": BUILD | {"caching", "data", "evaluation", "sampling", "training"},
    "demo": BUILD | {"data", "training", "sampling"},
    "commands": BUILD | {"benchmarking", "caching", "comparison", "data", "demo", "evaluation", "hub", "report", "sampling", "training"},
    "cli": BASE | {"commands"},
    "__init__": MODEL | {"build", "recipe"},
    "__main__": {"cli"},
}
# methods of convenience look upwards when they are called, never when a module is imported
LATE = {"model": {"hub"}, "build": {"hub"}}
ONLY = {
    "accelerate": {"caching", "evaluation", "training"},
    "lpips": {"losses"},
    "torch_fidelity": {"evaluation"},
    "skimage": {"evaluation"},
    "scipy": {"comparison"},
    "matplotlib": {"comparison"},
    "jinja2": {"comparison"},
    "diffusers": {"heads", "hub", "tokenizers"},
    "huggingface_hub": {"data", "hub", "weights"},
    "datasets": {"data"},
    "pyarrow": {"data"},
}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def imports(path: Path, late: bool) -> set[str]:
    """What a module imports at its top, or inside functions."""
    tree = ast.parse(path.read_text())
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    inside = {id(node) for function in functions for node in ast.walk(function)}
    found = set()
    for node in ast.walk(tree):
        if (id(node) in inside) is not late:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            found.add(str(node.module))
    return found


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_one_way(path: Path):
    here = part_of(path)
    for name, late in [(name, inside) for inside in (False, True) for name in imports(path, inside)]:
        root, _, rest = name.partition(".")
        if root == "argenzoo":
            there = rest.split(".")[0]
            allowed = EDGES[here] | (LATE.get(here, set()) if late else set())
            assert there == here or there in allowed, f"{here} may not import {name}"
        assert here in ONLY.get(root, {here}), f"{here} may not import {root}"


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_are_short_and_quiet(path: Path):
    text = path.read_text()
    assert text.count("\n") <= 320
    for word in (".cuda(", "strict=False,", "weights_only=False", "except Exception", "TODO", "NotImplementedError", "**kwargs"):
        assert word not in text, word


def test_import_is_light():
    heavy = ["timm", "torchvision", "diffusers", "transformers", "accelerate", "torch_fidelity", "huggingface_hub"]
    code = f"import sys, argenzoo; argenzoo.list_models(); print([m for m in {heavy} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
