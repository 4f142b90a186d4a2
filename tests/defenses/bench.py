"""What tests of penalties share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ema_core.datasets.formats import Example, Message

Bench = Callable[..., Any]
"""The fixture ``stepper``: ``stepper(defenses, safe, tokens)`` is the loop's own, on the tuned model."""


def examples(*answers: str, source: str = "safe") -> list[Example]:
    return [Example((Message("user", f"What is {a.split()[0]}?"), Message("assistant", a)), source=source) for a in answers]
