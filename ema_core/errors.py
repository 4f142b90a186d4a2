"""What can go wrong in a way that a user can mend."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

MOST_NAMES = 12


class EmaError(Exception):
    """A mistake or a condition that the user can do something about.

    ``message`` says what happened, ``hint`` what to do. Shown once, without a traceback.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message if not hint else f"{message} {hint}")
        self.message = message
        self.hint = hint


def nearest(name: str, known: Iterable[str]) -> str:
    """``' Did you mean "x"?'`` for the known name closest to ``name``, or a list of the known ones."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if close:
        return f'Did you mean "{close[0]}"?'
    if not known:
        return ""
    return f"Known: {', '.join(known[:MOST_NAMES])}{' …' if len(known) > MOST_NAMES else ''}."
