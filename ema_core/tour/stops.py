"""The stops of the tour and the words of the field, as ``data/learn`` has them."""

from __future__ import annotations

import tomllib
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from ema_core.errors import EmaError
from ema_core.settings import DATA

FOLDER = DATA / "learn"
Kind = Literal["visit", "choice", "setting", "number", "verdicts"]
Figure = Literal["example", "loss", "leak", "trade-off", "counts", "judge"]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Option(_Part):
    """A possible answer. ``right``: "yes", "no", or the name of one of ``Facts.truths`` ("!" before it: its opposite)."""

    text: str
    right: str


class Check(_Part):
    """How it is known that a task was done: a page opened, a question answered, a number read off, verdicts given.

    Attributes:
        number: which of ``Facts.numbers`` is asked for; of a setting which of ``Facts.settings``; of verdicts how many.
        decimals: to how many places a number is shown on the page where it is read off.
        why: said once it was answered.
    """

    kind: Kind
    ask: str
    why: str = ""
    number: str = ""
    decimals: int = 2
    options: tuple[Option, ...] = ()


class Stop(_Part):
    """One stop (``name``: its title in few words): what is told, what is shown, the real page to go to (in which ``state``), and how it is known to be done."""

    title: str
    name: str
    minutes: int
    figure: Figure
    text: str
    task: str
    short: str
    button: str
    page: str
    state: str
    icon: str
    demo: bool = False
    checks: tuple[Check, ...] = Field(alias="check", min_length=1)


class Term(_Part):
    """A word of the field; ``where`` to read more."""

    title: str
    text: str
    where: str


def read_stops() -> tuple[Stop, ...]:
    """The stops in their order.

    Raises:
        EmaError: the file is missing or damaged.
    """
    return _stops(FOLDER / "stops.toml")


def read_terms() -> dict[str, Term]:
    """The words of the field by their short names.

    Raises:
        EmaError: the file is missing or damaged.
    """
    return _terms(FOLDER / "terms.toml")


@cache
def _stops(path: Path) -> tuple[Stop, ...]:
    try:
        return tuple(Stop.model_validate(stop) for stop in _toml(path)["stop"])
    except (KeyError, ValueError) as error:
        raise _damaged(path) from error


@cache
def _terms(path: Path) -> dict[str, Term]:
    try:
        return {name: Term.model_validate(term) for name, term in _toml(path).items()}
    except ValueError as error:
        raise _damaged(path) from error


def _toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _damaged(path) from error


def _damaged(path: Path) -> EmaError:
    return EmaError(f"The tour's file {path.name} is missing or damaged.", "Restore data/learn from the project.")
