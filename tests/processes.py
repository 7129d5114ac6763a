"""Trains the recipes that are named, one after the other: started on several processes by test_processes.py."""

from __future__ import annotations

import sys

from argenzoo.device import leave
from argenzoo.recipe import load_recipe
from argenzoo.training.trainer import train

if __name__ == "__main__":
    for path in sys.argv[1:]:
        train(load_recipe(path))
    leave()
