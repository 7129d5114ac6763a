"""Runs the command line that a JSON file holds: started on several processes, where torchrun would take ``--num`` for one of its own."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from argenzoo.cli import main

if __name__ == "__main__":
    sys.exit(main(json.loads(Path(sys.argv[1]).read_text())))
