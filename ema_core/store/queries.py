"""The reader's SQL by name, from ``queries.sql``."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path


@cache
def queries() -> dict[str, str]:
    """Each statement under the name in its ``-- name:`` line; ``@name`` in one stands for another above it."""
    text = Path(__file__).with_name("queries.sql").read_text(encoding="utf-8")
    _, *parts = re.split(r"^-- name: (\w+)\n", text, flags=re.MULTILINE)
    found: dict[str, str] = {}
    for name, sql in zip(parts[::2], parts[1::2], strict=True):
        found[name] = re.sub(r"@(\w+)", lambda other: found[other[1]], sql.strip())
    return found
