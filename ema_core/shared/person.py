"""Who acts now, and whether they may."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Literal

from ema_core.errors import EmaError

Role = Literal["participant", "viewer", "instructor"]
HOST = ""
"""The owner of what was made without a person: by the command line, or before the room was shared."""
VIEWER_HINT = "Take part under your name, in the sidebar, to do that."


@dataclass(frozen=True)
class Person:
    """Somebody at a browser. A viewer may have no name."""

    name: str
    role: Role = "participant"


_NOT_SAID = Person("", "viewer")
_acting: ContextVar[Person | None] = ContextVar("acting", default=_NOT_SAID)
_who: Callable[[], Person | None] = lambda: None  # noqa: E731


def enabled() -> bool:
    """Is this process started for several people (``ema app --shared``, ``EMA_SHARED=1``)?"""
    return os.environ.get("EMA_SHARED", "").strip() not in ("", "0")


def identify_by(who: Callable[[], Person | None]) -> None:
    """``who`` says who acts in the calling thread; None: nobody in particular, who may do everything."""
    global _who
    _who = who


@contextmanager
def acting_as(person: Person | None) -> Iterator[None]:
    """Everything inside is done by ``person``, whoever asked for it: by a thread on somebody's behalf, or (None) by nobody in particular."""
    token = _acting.set(person)
    try:
        yield
    finally:
        _acting.reset(token)


def current() -> Person | None:
    """Who acts; None where this is the command line, the worker, or a dashboard that is not shared."""
    acting = _acting.get()
    return _who() if acting is _NOT_SAID else acting


def owner() -> str:
    """Whose something is that is made now."""
    person = current()
    return person.name if person else HOST


def exempt() -> bool:
    """Limits are for participants."""
    person = current()
    return person is None or person.role == "instructor"


def mine(of: str) -> bool:
    """Is it the acting person's own? Where nobody in particular acts, all is."""
    person = current()
    return person is None or (person.name == of and bool(of))


def said_owner(of: str) -> str:
    """``Ann's``, in words that stand before "run"; "" for what nobody in particular made."""
    return f"{of}'s" if of else ""


def why_not(of: str | None = None) -> str:
    """Why the acting person may not change what ``of`` owns (None: may not start anything); "" where they may."""
    person = current()
    if person is None or person.role == "instructor":
        return ""
    if person.role == "viewer":
        return "You are looking on: nothing is started or changed from here."
    if of is None or of == person.name:
        return ""
    return f"This is {said_owner(of)}, not yours." if of else "This belongs to the room, not to you."


def allow(of: str | None = None) -> None:
    """Raises:
    EmaError: the acting person may not start anything, or not change what ``of`` owns.
    """
    if why := why_not(of):
        person = current()
        viewer = person is not None and person.role == "viewer"
        raise EmaError(
            why, VIEWER_HINT if viewer else f"Only {of or 'the instructor'} can change it; look, compare and chat as you like."
        )


def allow_host(what: str) -> None:
    """What concerns the machine or everybody: files by their path, keys that are paid for, the index, imports of others.

    Raises:
        EmaError: it is neither the instructor nor the command line that acts.
    """
    allow()
    if not exempt():
        raise EmaError(f"{what} is for the instructor in a shared room.", "Ask them to do it for you.")
