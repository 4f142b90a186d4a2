"""Codes: of the room, of the instructor, of a person. Compared in constant time; wrong ones are slowed down."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import threading
import time
from collections import defaultdict, deque
from pathlib import Path

from ema_core.errors import EmaError
from ema_core.files import disk_errors, read_json
from ema_core.settings import settings, writable

ALPHABET = "abcdefghjkmnpqrstuvwxyz23456789"
"""Without letters and digits that are mistaken for one another."""
TRIES, WINDOW = 8, 60.0
ALL_TRIES = 60
"""Wrong codes from one place, and from all together, in so many seconds. A code has 10 characters, 49 bits."""


def new_code() -> str:
    """``k7xm2-9qptr``: 49 bits, said aloud or typed without mistakes."""
    letters = "".join(secrets.choice(ALPHABET) for _ in range(10))
    return f"{letters[:5]}-{letters[5:]}"


def plain_code(text: str) -> str:
    """As it is compared: without spaces, hyphens and capitals."""
    return "".join(letter for letter in text.lower()[:80] if letter in ALPHABET)


def folder() -> Path:
    return settings().home / "shared"


def write_private(path: Path, value: object) -> None:
    """A JSON file that this user alone can read, replaced as a whole."""
    with disk_errors(path):
        partial = writable(path.parent) / f".{path.name}.{os.getpid()}.{threading.get_ident()}"
        partial.unlink(missing_ok=True)
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            json.dump(value, file, ensure_ascii=False, indent=1)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)


def codes(renew: bool = False) -> dict[str, str]:
    """The codes of ``room`` and ``instructor``; made where there are none, or anew."""
    path = folder() / "codes.json"
    try:
        found = read_json(path)
        if not renew and all(len(plain_code(found[name])) == 10 for name in ("room", "instructor")):
            return {name: str(found[name]) for name in ("room", "instructor")}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass
    made = {"room": new_code(), "instructor": new_code()}
    write_private(path, made)
    return made


def hashed(code: str, salt: str = "") -> dict[str, str]:
    """What is kept of a person's code."""
    salt = salt or secrets.token_hex(16)
    digest = hashlib.scrypt(plain_code(code).encode(), salt=bytes.fromhex(salt), n=2**12, r=8, p=1).hex()
    return {"salt": salt, "hash": digest}


class Slow:
    """Counts wrong codes of the last minute, by what is guessed at and from where, and refuses further ones for a while."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._wrong: dict[tuple[str, str], deque[float]] = defaultdict(deque)

    def ready(self, what: str, place: str) -> None:
        """Raises:
        EmaError: too many wrong ones lately.
        """
        now = time.monotonic()
        with self._guard:
            waits = [self._left(key, most, now) for key, most in self._keys(what, place)]
        if (wait := max(waits)) > 0:
            raise EmaError("Too many wrong codes.", f"Wait {round(wait) + 1} s, then type it once more.")

    def wrong(self, what: str, place: str) -> None:
        now = time.monotonic()
        with self._guard:
            for key, most in self._keys(what, place):
                times = self._wrong[key]
                times.append(now)
                while len(times) > most:
                    times.popleft()

    @staticmethod
    def _keys(what: str, place: str) -> list[tuple[tuple[str, str], int]]:
        return [((what, place), TRIES), ((what, "*"), ALL_TRIES)]

    def _left(self, key: tuple[str, str], most: int, now: float) -> float:
        times = self._wrong[key]
        while times and now - times[0] > WINDOW:
            times.popleft()
        return WINDOW - (now - times[0]) if len(times) >= most else 0.0


slow = Slow()


def right(what: str, given: str, place: str = "") -> bool:
    """Is it the code of ``what`` (``room``, ``instructor``)? ``place``: where it was typed, for counting wrong ones.

    Raises:
        EmaError: too many wrong ones lately.
    """
    slow.ready(what, place)
    if secrets.compare_digest(plain_code(given).encode(), plain_code(codes()[what]).encode()):
        return True
    slow.wrong(what, place)
    return False
