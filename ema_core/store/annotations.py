"""What people say of answers: verdicts, tags and notes in ``annotations.jsonl``, where lines are only added.

A line holds all that its reviewer says of an answer then, so the newest line of a reviewer and an answer counts; an undo is a line that
names the one it takes back, and the one before counts again.
"""

from __future__ import annotations

import json
import re
import secrets
import time
from collections.abc import Container, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ema_core.errors import EmaError
from ema_core.files import append_line, disk_errors, read_lines
from ema_core.settings import settings, writable
from ema_core.shared import allow, current
from ema_core.store.answers import VERDICTS, AnswerKey

HUMAN = "human:"
"""A person as a judge: ``human:NAME``."""
MAX_TAGS, MAX_TAG, MAX_NOTE = 20, 40, 4000
_NAME = re.compile(r"[^\W_](?:[\w .'-]{0,38}[\w.])?")
Line = dict[str, Any]


@dataclass(frozen=True)
class Annotation:
    """What one reviewer says of one answer. ``blind``: said without knowing model, defense and scores."""

    id: str
    time: float
    reviewer: str
    key: AnswerKey
    verdict: str | None = None
    tags: tuple[str, ...] = ()
    note: str = ""
    blind: bool = False

    @property
    def empty(self) -> bool:
        """Everything was taken back."""
        return not (self.verdict or self.tags or self.note)


def annotations_path() -> Path:
    return settings().home / "annotations.jsonl"


def reviewer_name(text: str) -> str:
    """A reviewer's name as it is kept.

    Raises:
        EmaError: it is empty, too long, or an address.
    """
    name = " ".join(text.split())
    if "@" in name:
        raise EmaError(
            "A reviewer's name is no e-mail address.", "Take a first name or a pseudonym: it stands beside every verdict."
        )
    if not _NAME.fullmatch(name):
        raise EmaError(
            f'"{name[:40]}" cannot be a reviewer\'s name.', "Up to 40 letters, digits, spaces, dots and hyphens will do."
        )
    return name


def tag_name(text: str) -> str:
    """A tag as it is kept: small letters, one space between words.

    Raises:
        EmaError: it is empty or too long.
    """
    tag = " ".join(str(text).lower().split())
    if not tag or len(tag) > MAX_TAG or not tag.isprintable():
        raise EmaError(f'"{tag[:MAX_TAG]}" cannot be a tag.', f"A tag has 1 to {MAX_TAG} characters.")
    return tag


def annotate(
    key: AnswerKey, reviewer: str, verdict: str | None = None, tags: Iterable[str] = (), note: str = "", blind: bool = False
) -> Annotation:
    """Keep what ``reviewer`` says of an answer now; it takes the place of what they said before.

    Raises:
        EmaError: verdict, tags, note or name are not such, or the file cannot be written.
    """
    _allow(reviewer)
    if verdict is not None and verdict not in VERDICTS:
        raise EmaError(f'"{verdict}" is no verdict.', f"A verdict is one of {', '.join(VERDICTS)}.")
    words = tuple(dict.fromkeys(tag_name(tag) for tag in tags))
    if len(words) > MAX_TAGS or len(note) > MAX_NOTE:
        raise EmaError("That is too much for one answer.", f"At most {MAX_TAGS} tags, and a note of at most {MAX_NOTE} characters.")
    made = Annotation(
        secrets.token_hex(8), time.time(), reviewer_name(reviewer), AnswerKey(*key), verdict, words, note.strip(), blind
    )
    line = {
        "id": made.id, "time": made.time, "reviewer": made.reviewer, **made.key._asdict(), "verdict": verdict, "tags": list(words),
        "note": made.note, **({"blind": True} if blind else {}),
    }  # fmt: skip
    with _writing() as path:
        append_line(path, line)
    return made


def undo(reviewer: str, id: str = "", among: Container[AnswerKey] | None = None) -> Annotation | None:
    """Take back the newest line of this reviewer that stands (``among``: about one of these answers), or the one of this id; None where
    there is none."""
    _allow(reviewer)
    with _writing() as path:
        standing = [
            found
            for found in read(path)[0]
            if found.reviewer == reviewer and id in ("", found.id) and (among is None or found.key in among)
        ]
        if not standing:
            return None
        append_line(path, {"id": secrets.token_hex(8), "time": time.time(), "reviewer": reviewer, "undoes": standing[-1].id})
        return standing[-1]


def _allow(reviewer: str) -> None:
    """In a shared room everybody says what they think under their own name."""
    allow()
    if (person := current()) and person.name != reviewer:
        raise EmaError(f"You are {person.name} here, not {reviewer}.", "What you say of an answer stands under your own name.")


@contextmanager
def _writing() -> Iterator[Path]:
    """One writer at a time, so that no line is torn by another and an undo sees all before it."""
    path = annotations_path()
    lock = FileLock(writable(path.parent) / "annotations.lock")
    try:
        lock.acquire(timeout=60)
    except Timeout:
        raise EmaError("Another process has been writing annotations for a minute.", "Try again; nothing was saved.") from None
    try:
        with disk_errors(path):
            yield path
    finally:
        lock.release()


def read(path: Path, offset: int = 0, before: Sequence[Annotation] = ()) -> tuple[list[Annotation], int]:
    """The lines that stand (were not undone), as they were written, and the byte after the last whole one.

    ``before``: those that stood at ``offset``, where reading goes on.
    """
    lines, end = read_lines(path, offset)
    standing = {found.id: found for found in before}
    for line in lines:
        if isinstance(line.get("undoes"), str):
            undone = standing.get(line["undoes"])
            if undone is not None and undone.reviewer == line.get("reviewer"):
                del standing[undone.id]
        elif (found := _annotation(line)) is not None:
            standing[found.id] = found
    return list(standing.values()), end


def newest(standing: Iterable[Annotation]) -> list[Annotation]:
    """Of each reviewer and answer the newest, without those that say nothing any more."""
    last = {(found.reviewer, found.key): found for found in standing}
    return [found for found in last.values() if not found.empty]


def _annotation(line: Line) -> Annotation | None:
    """A line of the file, or None where it is none of ours."""
    texts = [line.get(name) for name in ("id", "reviewer", *AnswerKey._fields)]
    if not all(isinstance(text, str) and text for text in texts):
        return None
    verdict, tags, note, when = (line.get(name) for name in ("verdict", "tags", "note", "time"))
    return Annotation(
        str(texts[0]),
        float(when) if isinstance(when, int | float) else 0.0,
        str(texts[1]),
        AnswerKey(*map(str, texts[2:])),
        verdict if verdict in VERDICTS else None,
        tuple(tag for tag in tags if isinstance(tag, str)) if isinstance(tags, list) else (),
        note if isinstance(note, str) else "",
        line.get("blind") is True,
    )


def row(found: Annotation) -> Line:
    """As a row of the index."""
    return {
        "id": found.id, "time": found.time, "reviewer": found.reviewer, **found.key._asdict(), "verdict": found.verdict,
        "tags": json.dumps(found.tags, ensure_ascii=False), "note": found.note, "blind": found.blind,
    }  # fmt: skip


def of_row(values: Line) -> Annotation | None:
    """The annotation that a row of the index is."""
    return _annotation({**values, "tags": json.loads(values["tags"])})
