"""Every reply of a judge that was paid for, kept so that it is never paid twice: ``EMA_HOME/judged/<server and model>.jsonl``.

A line is on disk before it counts. No text of a question or an answer stands in it, only their hash.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ema_core.errors import EmaError
from ema_core.files import disk_errors
from ema_core.judging.judge_id import LlmJudgeId
from ema_core.settings import settings, writable

VERSION = 1
"""Part of every key: raised when the same question to the judge is asked in another way."""
_KEY = re.compile(rb'\{"key":"([0-9a-f]{32})"')


def reply_key(judge: LlmJudgeId, rubric: str, question: str, answer: str) -> str:
    """By all that decides a reply. The rubric's text counts and not its set: two sets with the same text share what was paid."""
    parts = [VERSION, judge.server, judge.model, rubric, question, answer, judge.repeat]
    text = json.dumps(parts, ensure_ascii=False).encode("utf-8", "surrogatepass")
    return hashlib.sha256(text).hexdigest()[:32]


class Ledger:
    """The replies of one model at one server. Use ``opened`` to write; reading needs no lock."""

    def __init__(self, judge: LlmJudgeId) -> None:
        name = f"{judge.server}_{judge.model}"
        slug = re.sub(r"[^A-Za-z0-9._@+-]", "_", name)[:120]
        if slug != name:  # two judges never share a file
            slug += "-" + hashlib.sha256(name.encode()).hexdigest()[:6]
        self.path: Path = settings().home / "judged" / f"{slug}.jsonl"
        self._at: dict[str, tuple[int, int]] = {}
        self._read: int = 0
        self._handle: int | None = None
        self.refresh()

    def refresh(self) -> None:
        """See what was added since."""
        try:
            with open(self.path, "rb") as file:
                file.seek(self._read)
                for line in file:
                    if not line.endswith(b"\n"):
                        break
                    if found := _KEY.match(line):
                        self._at[found[1].decode()] = self._read, len(line)
                    self._read += len(line)
        except FileNotFoundError:
            pass

    def __contains__(self, key: str) -> bool:
        return self.get(key) is not None

    def get(self, key: str) -> dict[str, Any] | None:
        """A kept reply; None where there is none, or only a torn line of a killed writer."""
        place = self._at.get(key)
        if place is None:
            return None
        with open(self.path, "rb") as file:
            file.seek(place[0])
            raw = file.read(place[1])
        try:
            found = json.loads(raw)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            del self._at[key]
            return None
        return found

    @contextmanager
    def opened(self) -> Iterator[Ledger]:
        """Held by whoever asks this judge: two at once would pay for the same replies.

        Raises:
            EmaError: another process does.
        """
        writable(self.path.parent)
        lock = FileLock(self.path.with_suffix(".lock"))
        try:
            lock.acquire(timeout=2)
        except Timeout:
            raise EmaError(
                "Another process is asking this judge.", "Wait for it or cancel it: two at once would pay for the same answers."
            ) from None
        try:
            with disk_errors(self.path):
                self._handle = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
                size = os.fstat(self._handle).st_size
                if size and os.pread(self._handle, 1, size - 1) != b"\n":  # a killed writer's torn line is ended
                    os.write(self._handle, b"\n")
            self.refresh()
            yield self
        finally:
            if self._handle is not None:
                os.close(self._handle)
                self._handle = None
            lock.release()

    def add(self, key: str, reply: dict[str, Any]) -> None:
        """Keep a reply; it is on disk when this returns."""
        assert self._handle is not None, "only within opened()"
        line = json.dumps({"key": key, **reply, "time": time.time()}, ensure_ascii=False, separators=(",", ":"))
        raw = line.encode("utf-8", "replace") + b"\n"
        with disk_errors(self.path):
            done = 0
            while done < len(raw):
                done += os.write(self._handle, raw[done:])
            os.fsync(self._handle)
        self.refresh()

    def spent_since(self, when: float) -> float:
        """US dollars that replies have cost since ``when``, as far as that is known."""
        total = 0.0
        for key in list(self._at):
            reply = self.get(key)
            if reply and reply.get("time", 0) >= when:
                total += reply.get("usd") or 0.0
        return total
