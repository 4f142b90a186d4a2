"""How far a person is: ``tours/<key>.json`` under ``EMA_HOME``, made with the first thing that was done."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ema_core.files import read_json, write_json
from ema_core.settings import settings, writable

_KEY = re.compile(r"[0-9a-f]{16}")
_LONGEST = 200


class Progress(BaseModel):
    """What one person has done.

    Attributes:
        started: when the first thing was done; verdicts from then on count.
        reviewer: the name under which the person gives verdicts.
        answers: what was answered, by ``<stop>.<check>``.
        visits: pages that were opened from a stop in the state that it asks for, by stop.
        done: when a stop was done, by stop.
    """

    model_config = ConfigDict(extra="ignore")

    started: float = 0.0
    reviewer: str = ""
    answers: dict[str, str] = Field(default_factory=dict)
    visits: dict[str, list[str]] = Field(default_factory=dict)
    done: dict[str, float] = Field(default_factory=dict)

    def answer(self, stop: int, check: int) -> str:
        return self.answers.get(f"{stop}.{check}", "")


def new_key() -> str:
    """A key that nobody can guess: it is what a person's progress is found by."""
    return secrets.token_hex(8)


def is_key(text: object) -> bool:
    return isinstance(text, str) and bool(_KEY.fullmatch(text))


def read(key: str) -> Progress:
    """The progress under a key; an empty one where there is none, or none that can be read."""
    try:
        return Progress.model_validate(read_json(_path(key)))
    except (OSError, ValueError, ValidationError):
        return Progress()


def answered(key: str, stop: int, check: int, answer: str) -> Progress:
    """Keep an answer, right or wrong; "" takes it back."""

    def change(progress: Progress) -> None:
        progress.answers.pop(f"{stop}.{check}", None)
        if answer:
            progress.answers[f"{stop}.{check}"] = answer[:_LONGEST]

    return _change(key, change)


def visited(key: str, stop: int, page: str) -> Progress:
    """The page of a stop was opened as it asks for."""
    return _change(key, lambda progress: progress.visits.update({str(stop): [page]}))


def reviews_as(key: str, name: str) -> Progress:
    """The name that the person's verdicts stand under."""
    return _change(key, lambda progress: setattr(progress, "reviewer", name))


def finished(key: str, stop: int) -> Progress:
    """A stop is done; the first time counts."""
    return _change(key, lambda progress: progress.done.setdefault(str(stop), time.time()))


def reset(key: str) -> None:
    """Begin again: nothing is kept."""
    path = _path(key)
    if path.exists():
        with _lock(path):
            path.unlink(missing_ok=True)


def _change(key: str, change: Callable[[Progress], object]) -> Progress:
    path = _path(key)
    writable(path.parent)
    with _lock(path):
        progress = read(key)
        progress.started = progress.started or time.time()
        change(progress)
        write_json(path, progress.model_dump(mode="json"))
    return progress


def _lock(path: Path) -> FileLock:
    return FileLock(path.parent / ".lock", timeout=10)


def _path(key: str) -> Path:
    if not is_key(key):
        raise ValueError(f"{key!r} is no key of a tour")
    return settings().home / "tours" / f"{key}.json"
