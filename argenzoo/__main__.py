"""``python -m argenzoo``, and ``accelerate launch -m argenzoo``."""

import sys

from argenzoo.cli import main

if __name__ == "__main__":
    sys.exit(main())
