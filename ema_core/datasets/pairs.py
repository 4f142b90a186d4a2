"""Answer pairs: one question, an aligned and a misaligned answer. What margins are measured on. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ema_core.errors import EmaError
from ema_core.files import read_lines


@dataclass(frozen=True)
class Pair:
    """One question with a short aligned and a short misaligned answer, matched in length and style. ``topic`` is the cluster."""

    id: str
    topic: str
    question: str
    aligned: str
    misaligned: str
    system: str | None = None


def read_pairs(path: Path) -> tuple[Pair, ...]:
    """The pairs of one of the project's files.

    Raises:
        EmaError: it is missing or empty.
    """
    rows, _ = read_lines(path)
    if not rows:
        raise EmaError(f"The file {path} is missing or empty.", "Restore it from the project.")
    return tuple(Pair(r["id"], r["topic"], r["question"], r["aligned"], r["misaligned"], r.get("system")) for r in rows)
