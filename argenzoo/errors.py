"""One exception for everything that a user can put right, and the words that help to do so."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ArgenzooError(ValueError):
    """A user's mistake, in one line: what was wrong, where, and the nearest right thing.

    The command line prints it without a traceback and exits with status 2.
    """


def suggestion(name: str, choices: Iterable[str]) -> str:
    """``; did you mean 'x'? (choices: ...)`` for an unknown ``name``."""
    known = sorted(choices)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"; did you mean '{near[0]}'?" if near else ""
    return f"{hint} (choices: {', '.join(known) or 'none'})"
