"""What people call a run: its name, tags and a note. ``label.json`` beside the spec, changed at any time; no number depends on it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

from filelock import FileLock
from pydantic import BaseModel

from ema_core.errors import EmaError
from ema_core.files import read_json, write_json
from ema_core.runs.directory import RunDirectory
from ema_core.shared import allow

LABEL = "label.json"
MAX_NAME, MAX_TAG, MAX_TAGS, MAX_NOTE = 80, 40, 20, 10_000


class Label(BaseModel):
    """``name`` None: the one that the run was launched with."""

    name: str | None = None
    tags: tuple[str, ...] = ()
    note: str = ""
    updated: float = 0.0


def read_label(run: RunDirectory) -> Label:
    """What the run is called now; a damaged file reads as none."""
    found = _kept(run)
    return found if found.name is not None else found.model_copy(update={"name": run.state().name})


def write_label(run: RunDirectory, *, name: str | None = None, tags: Iterable[str] | None = None, note: str | None = None) -> Label:
    """Change what is given; the rest stays as it is.

    Raises:
        EmaError: too long, too many tags, somebody else's run, or the folder cannot be written.
    """
    allow(run.state().owner)
    changes: dict[str, object] = {"updated": time.time()}
    if name is not None:
        changes["name"] = _short(" ".join(name.split()), MAX_NAME, "name")
    if tags is not None:
        changes["tags"] = tidy(tags)
    if note is not None:
        changes["note"] = _short(note.strip(), MAX_NOTE, "note")
    with FileLock(run.path / ".label.lock"):
        label = _kept(run).model_copy(update=changes)
        write_json(run.path / LABEL, label.model_dump(mode="json"))
    return read_label(run)


def tidy(tags: Iterable[str]) -> tuple[str, ...]:
    """Each tag once, whatever its case, without spaces around it; in the order in which they were given.

    Raises:
        EmaError: one is too long or has a comma, or they are too many.
    """
    found: dict[str, str] = {}
    for tag in (" ".join(tag.split()) for tag in tags):
        if "," in tag:
            raise EmaError(f'The tag "{tag}" has a comma.', "Give the tags one by one.")
        if tag:
            found.setdefault(tag.casefold(), _short(tag, MAX_TAG, "tag"))
    if len(found) > MAX_TAGS:
        raise EmaError(f"A run has at most {MAX_TAGS} tags.", "Take some away.")
    return tuple(found.values())


def tags_of(runs: Sequence[RunDirectory]) -> list[str]:
    """All tags of these runs, in the order of the alphabet."""
    return sorted({tag for run in runs for tag in _kept(run).tags}, key=str.casefold)


def _kept(run: RunDirectory) -> Label:
    try:
        return Label.model_validate(read_json(run.path / LABEL))
    except (OSError, ValueError):
        return Label()


def _short(text: str, most: int, what: str) -> str:
    if len(text) > most:
        raise EmaError(f"The {what} has {len(text):,} characters; {most:,} is the most.", "Make it shorter.")
    return text
