"""Who is in the room: names, each once, with a personal code to come back by; who was seen where.

``shared/people.json`` (this user alone can read it; of a code only its hash), ``shared/seen.json``.
"""

from __future__ import annotations

import re
import secrets
import threading
import time
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from filelock import FileLock

from ema_core.errors import EmaError
from ema_core.files import read_json, write_json
from ema_core.settings import writable
from ema_core.shared.codes import folder, hashed, new_code, slow, write_private
from ema_core.shared.person import Person

LONGEST = 30
MOST_PEOPLE = 300
HERE_SECONDS = 90.0
"""So long after the last sign of a browser somebody counts as there."""
_NAME = re.compile(r"[^\W_](?:[\w .'-]*[\w.])?")
_TAKEN = {"instructor", "host", "room", "recorded", "base", "everybody", "everyone", "me"}
_FLUSH_SECONDS = 5.0


@dataclass
class Known:
    """One person. ``identity``: by which an identity provider knows them."""

    name: str
    created: float
    code: dict[str, str] = field(default_factory=dict)
    identity: str = ""
    instructor: bool = False

    @property
    def person(self) -> Person:
        return Person(self.name, "instructor" if self.instructor else "participant")


class Taken(EmaError):
    """The name belongs to somebody; ``free`` is one that does not."""

    def __init__(self, name: str, free: str) -> None:
        super().__init__(f'"{name}" is in the room already.', f'If that is you, type your personal code; else join as "{free}".')
        self.name, self.free = name, free


def clean_name(text: str) -> str:
    """A person's name as it is kept.

    Raises:
        EmaError: it cannot be one.
    """
    name = " ".join(unicodedata.normalize("NFKC", text).split())
    if "@" in name:
        raise EmaError("Take a first name or a pseudonym, no e-mail address.", "It stands beside your runs, for all to read.")
    if len(name) > LONGEST or not _NAME.fullmatch(name) or name.casefold() in _TAKEN:
        raise EmaError(
            f'"{name[:40]}" cannot be your name here.', f"Up to {LONGEST} letters, digits, spaces, dots and hyphens will do."
        )
    return name


def everybody() -> list[Known]:
    """All who ever joined, in that order."""
    path = folder() / "people.json"
    try:
        stat = path.stat()
        return list(_read(str(path), stat.st_mtime_ns, stat.st_ino))
    except FileNotFoundError:
        return []


@lru_cache(maxsize=4)
def _read(path: str, version: int, inode: int) -> tuple[Known, ...]:
    try:
        return tuple(Known(**row) for row in read_json(Path(path))["people"])
    except (ValueError, KeyError, TypeError) as error:
        raise EmaError("The list of people is damaged.", f"Put {path} right, or delete it: everybody joins anew.") from error


@contextmanager
def _changing() -> Iterator[list[Known]]:
    with FileLock(writable(folder()) / "people.lock"):
        found = [Known(**asdict(known)) for known in everybody()]
        yield found
        write_private(folder() / "people.json", {"people": [asdict(known) for known in found]})


def _same(one: str, other: str) -> bool:
    return one.casefold() == other.casefold()


def find(name: str) -> Known | None:
    return next((known for known in everybody() if _same(known.name, name)), None)


def _free(name: str, people: list[Known]) -> str:
    names = {known.name.casefold() for known in people}
    number = 2
    while f"{name} {number}".casefold() in names:
        number += 1
    return f"{name[: LONGEST - 4]} {number}"


def join(text: str) -> tuple[Person, str]:
    """A new person and their personal code, which nobody can be told again.

    Raises:
        Taken: somebody has this name.
        EmaError: no name, or the room is full.
    """
    name, code = clean_name(text), new_code()
    with _changing() as people:
        if any(_same(known.name, name) for known in people):
            raise Taken(name, _free(name, people))
        if len(people) >= MOST_PEOPLE:
            raise EmaError("The room is full.", "The instructor can take names out of it.")
        made = Known(name, time.time(), hashed(code))
        people.append(made)
    return made.person, code


def come_back(name: str, code: str, place: str = "") -> Person:
    """The person of this name, by their code.

    Raises:
        EmaError: no such name, a wrong code, or too many wrong ones lately.
    """
    slow.ready(f"person {name.casefold()}", place)
    known = find(name)
    good = (
        known is not None
        and bool(known.code)
        and secrets.compare_digest(hashed(code, known.code["salt"])["hash"], known.code["hash"])
    )
    if known is None or not good:
        slow.wrong(f"person {name.casefold()}", place)
        raise EmaError(f'This is not the code of "{name[:LONGEST]}".', "The instructor can give out a new one.")
    return known.person


def signed_in(identity: str, name: str) -> Person:
    """Whom an identity provider names: the same identity is the same person, two of one name are kept apart."""
    with _changing() as people:
        for known in people:
            if known.identity and known.identity == identity:
                return known.person
        try:
            name = clean_name(name)
        except EmaError:
            name = "Guest"
        if any(_same(known.name, name) for known in people):
            name = _free(name, people)
        made = Known(name, time.time(), identity=identity)
        people.append(made)
    return made.person


def lead(name: str, instructor: bool = True) -> Person:
    """Make somebody an instructor (who typed its code), or a participant again."""
    with _changing() as people:
        known = _one(people, name)
        known.instructor = instructor
    return known.person


def new_code_for(name: str) -> str:
    """Another personal code, for somebody who lost theirs.

    Raises:
        EmaError: there is nobody of this name.
    """
    code = new_code()
    with _changing() as people:
        _one(people, name).code = hashed(code)
    return code


def remove(name: str) -> None:
    """Take a name out of the room; runs keep it.

    Raises:
        EmaError: there is nobody of this name.
    """
    with _changing() as people:
        people.remove(_one(people, name))


def _one(people: list[Known], name: str) -> Known:
    for known in people:
        if _same(known.name, name):
            return known
    raise EmaError(f'There is nobody called "{name[:LONGEST]}" in the room.', "`ema room people` lists who is.")


# Where people are: kept in this process, written now and then for the command line.
_seen: dict[str, dict[str, Any]] = {}
_seen_guard = threading.Lock()
_flushed = 0.0


def saw(name: str, page: str) -> None:
    """A browser of this person has drawn a page, or looked after one that is open (``page`` "": the same)."""
    global _flushed
    now = time.time()
    with _seen_guard:
        if not _seen:
            _seen.update(_seen_before())
        _seen[name] = {"time": now, "page": page or _seen.get(name, {}).get("page", "")}
        if now - _flushed < _FLUSH_SECONDS:
            return
        _flushed = now
        found = dict(_seen)
    write_json(writable(folder()) / "seen.json", found)


def seen() -> dict[str, dict[str, Any]]:
    """When each was last seen, and on which page."""
    with _seen_guard:
        return {**_seen_before(), **_seen}


def _seen_before() -> dict[str, dict[str, Any]]:
    try:
        found = read_json(folder() / "seen.json")
        return {name: dict(row) for name, row in found.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}
