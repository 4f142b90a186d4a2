"""Numbers that others published (``data/published/*.toml``): with source, model, judge and n as far as they are given.

They stand in tables of their own, or as hollow grey marks where somebody asks for them and the unit is the same; no average, no
interval and no mark of ours is ever made of them.
"""

from __future__ import annotations

import math
import tomllib
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import pandas as pd

from ema_core.errors import EmaError
from ema_core.settings import DATA

FOLDER = DATA / "published"
CRITERIA = ("general", "narrow")
"""Columns of a table in per cent that mean what ours do: misaligned of the general, and of the in-domain answers."""
_NEEDED = ("title", "source", "taken_from", "model", "data", "judge", "judge_short", "n", "unit", "columns", "rows")


@dataclass(frozen=True)
class Published:
    """One table. ``columns`` are its headings by key; a row has those keys, and ``defense``, ``model``, ``judge``, ``n``, ``note`` where
    they are its own."""

    name: str
    title: str
    source: str
    taken_from: str
    model: str
    data: str
    judge: str
    judge_short: str
    n: str
    unit: str
    columns: dict[str, str]
    rows: tuple[dict[str, Any], ...]

    @property
    def mark(self) -> str:
        """What its marks are called on a figure."""
        return f"published: {self.model.removesuffix('-Instruct')}, {self.judge_short}, EM %"

    def table(self) -> pd.DataFrame:
        """As it was published: first what a row is of, then the numbers, then notes."""
        about = [name for name in ("defense", "model", "judge") if any(name in row for row in self.rows)]
        names = {name: name.capitalize() for name in (*about, "n", "note")} | {"n": "n"} | self.columns
        wanted = [*about, *self.columns, *(name for name in ("n", "note") if any(name in row for row in self.rows))]
        return pd.DataFrame([{names[name]: row.get(name) for name in wanted} for row in self.rows])

    def json(self) -> dict[str, Any]:
        return {**vars(self), "rows": list(self.rows)}


@lru_cache(maxsize=1)
def published() -> tuple[Published, ...]:
    """All tables, by file name.

    Raises:
        EmaError: a file cannot be read or lacks a field.
    """
    found = []
    for path in sorted(FOLDER.glob("*.toml")):
        try:
            told = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise EmaError(f"{path.name} cannot be read: {error}", "Restore it from the project.") from error
        if missing := [name for name in _NEEDED if name not in told]:
            raise EmaError(f"{path.name} lacks {', '.join(missing)}.", "Every published number has its source, model, judge and n.")
        found.append(Published(path.stem, **{name: told[name] for name in _NEEDED if name != "rows"}, rows=tuple(told["rows"])))
    return tuple(found)


def marks() -> pd.DataFrame:
    """What may lie over a figure in per cent, of tables whose judge is known: ``name, label, criterion, strength, value, told``, a row a published number."""
    rows = []
    for table in published():
        if not table.unit.startswith("% of answers") or table.judge.startswith("not given"):
            continue
        for row in table.rows:
            label = str(row.get("defense", table.model))
            for criterion in CRITERIA:
                value = row.get(criterion)
                if isinstance(value, int | float):
                    rows.append(
                        {
                            "name": table.mark, "table": table.name, "label": label, "criterion": criterion, "value": float(value),
                            "strength": _strength(label), "defense": label.partition("=")[0], "told": _told(table, label, criterion, value),
                            "source": table.source, "model": table.model, "judge": table.judge, "n": table.n,
                        }
                    )  # fmt: skip
    return pd.DataFrame(rows)


def _strength(label: str) -> float:
    try:
        return 0.0 if label == "none" else float(label.partition("=")[2])
    except ValueError:
        return math.nan


def _told(table: Published, label: str, criterion: str, value: float) -> str:
    return f"published, not ours: {label}<br>{table.columns[criterion]} {value:g} %<br>{table.model}, {table.data}<br>judge: {table.judge_short}; n {table.n}"
