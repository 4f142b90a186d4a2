"""The reader's SQL by name, from ``queries.sql``."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path


@cache
def queries() -> dict[str, str]:
    """Each statement under the name in its ``-- name:`` line."""
    text = Path(__file__).with_name("queries.sql").read_text(encoding="utf-8")
    _, *parts = re.split(r"^-- name: (\w+)\n", text, flags=re.MULTILINE)
    return dict(zip(parts[::2], (sql.strip() for sql in parts[1::2]), strict=True))
