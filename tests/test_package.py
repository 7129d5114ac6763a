"""The wheel holds the recipes and py.typed, and works from any folder."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

from argenzoo.comparison.study import list_studies
from argenzoo.recipe import list_models

ROOT = Path(__file__).parents[1]


def test_wheel(tmp_path: Path):
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(tmp_path / "installed")
    assert "argenzoo/py.typed" in names
    assert {f"argenzoo/recipes/{name}.yaml" for name in list_models()} <= set(names)
    assert {f"argenzoo/recipes/studies/{name}.yaml" for name in list_studies()} <= set(names)
    assert "argenzoo/comparison/report.html.j2" in names
    code = "import argenzoo; print(argenzoo.__file__, argenzoo.build_model('fruit_mar').generate([3]).shape)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path / "installed", capture_output=True, text=True, check=True)
    assert str(tmp_path) in done.stdout
    assert "[1, 3, 32, 32]" in done.stdout
