"""A chat's file, ``EMA_HOME/chats/<id>.jsonl``: lines are only ever added; reading folds them into a ``Chat``. Torch-free.

Every line has ``kind`` and ``time``; those of a column ``turn``, ``model``, ``attempt``:
``opened`` (``owner`` in a shared room), ``asked`` (the question), ``joined`` (``models`` that answer it, too), ``began`` (who writes it: ``pid``; ``n``, ``seed``, ``server``),
``waits`` (``why``),
``heard`` (who answers: ``ema``), ``text`` (``pieces``: text by sample; ``first``: seconds to the first of it), ``ended`` (a sample ``k``: ``finish``, ``tokens``,
``seconds``, ``message``, ``hint``), ``judged`` (``judgments``), ``projected`` (``trait``, ``vector``, ``layer``, ``projections``), ``diverged``
(a sample ``k``: ``total``, ``tokens``), ``kept`` (``name``, ``answers``).
"""

from __future__ import annotations

import json
import os
import re
import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from ema_core.chats.view import Answers, Chat, Divergence, Finish, Projection, Question, Sample, Score, Token, Turn
from ema_core.errors import EmaError
from ema_core.files import append_lines, disk_errors, read_lines
from ema_core.generation import SamplingSettings
from ema_core.processes import alive
from ema_core.settings import settings
from ema_core.shared import allow, current, mine, owner

VERSION = 1
LONGEST = 200_000
"""Characters of a question or a system prompt."""
DELETED = "deleted"
_ID = re.compile(r"\d{8}-\d{6}-[a-km-z2-9]{12}")
_ALPHABET = "abcdefghijkmnpqrstuvwxyz23456789"

Key = tuple[int, str, int]
"""Turn, model, attempt."""
WRITING: set[tuple[str, int, str, int]] = set()
"""Chat and key of what this process is writing: its being alive alone does not say so."""


def new_id() -> str:
    """Sorts by time, and is not to be guessed: whoever has the address of a chat reads it."""
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{''.join(secrets.choice(_ALPHABET) for _ in range(12))}"


def path_of(chat_id: str) -> Path:
    """The chat's file, there or not.

    Raises:
        EmaError: this is no chat id.
    """
    if not _ID.fullmatch(chat_id):
        raise EmaError(f'"{chat_id[:80]}" is not a chat.', "Start a new one.")
    return settings().chats / f"{chat_id}.jsonl"


def open_chat() -> str:
    """A new, empty chat; returns its id."""
    chat_id = new_id()
    append(chat_id, {"kind": "opened", "version": VERSION, **({"owner": owner()} if owner() else {})})
    return chat_id


def append(chat_id: str, *lines: dict[str, Any]) -> None:
    now = time.time()
    append_lines(path_of(chat_id), [{"time": now, **line} for line in lines])


def asked(turn: int, question: Question) -> dict[str, Any]:
    """The line of a question."""
    return {
        "kind": "asked", "turn": turn, "text": question.text, "system": question.system, "models": list(question.models),
        "sampling": vars(question.how), "seed": question.seed, "n": question.samples, "suite": question.suite,
        "question_id": question.question_id, "topic": question.topic, **({"by": question.by, "along": question.along} if question.by else {}),
    }  # fmt: skip


def clean(text: str) -> str:
    """Text that can be kept in a file and read again: no lone surrogates, no control characters but tab and line feed."""
    text = unbroken(text).replace("\r\n", "\n").replace("\r", "\n")
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", "", text)


def unbroken(text: str) -> str:
    """A surrogate that stands alone cannot be written as UTF-8."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


@dataclass
class _Stream:
    """An attempt of a column while its lines come in."""

    key: Key
    n: int
    seed: int
    pid: int
    began: float
    server: str = ""
    texts: dict[int, list[str]] = field(default_factory=dict)
    ends: dict[int, dict[str, Any]] = field(default_factory=dict)
    scores: dict[int, list[Score]] = field(default_factory=dict)
    kept: dict[int, list[str]] = field(default_factory=dict)
    projections: dict[int, Projection] = field(default_factory=dict)
    divergences: dict[int, Divergence] = field(default_factory=dict)
    ema: dict[str, Any] = field(default_factory=dict)
    first: float | None = None
    heard: bool = False
    note: str = ""

    def answers(self, chat_id: str) -> Answers:
        over = len(self.ends) >= self.n
        lost = not over and not self._written(chat_id)
        errors = [end for end in self.ends.values() if end.get("message")]
        error = (str(errors[0]["message"]), str(errors[0].get("hint") or "")) if errors else None
        if lost:
            error = ("The process that wrote this answer ended before it was done.", "What was there is kept; ask once more.")
        samples = tuple(self._sample(k, lost) for k in range(self.n))
        turn, model, attempt = self.key
        waits = "" if over or lost or self.heard else self.note
        return Answers(
            turn, model, attempt, self.seed, samples, self.began, self.server, self.heard, self.first, self.ema, waits, error
        )  # fmt: skip

    def _sample(self, k: int, lost: bool) -> Sample:
        end = self.ends.get(k, {})
        finish: Finish | None = end.get("finish") or ("cut" if lost else None)
        text = "".join(self.texts.get(k, []))
        scores, kept = tuple(self.scores.get(k, [])), tuple(self.kept.get(k, []))
        read = self.projections.get(k), self.divergences.get(k)
        return Sample(k, text, finish, end.get("tokens"), end.get("seconds"), scores, kept, *read)

    def _written(self, chat_id: str) -> bool:
        if self.pid == os.getpid():
            return (chat_id, *self.key) in WRITING
        return alive(self.pid, self.began)


class Log:
    """A chat's file, read on from where the last reading ended. Not for several threads at once."""

    def __init__(self, chat_id: str) -> None:
        self.id, self.path = chat_id, path_of(chat_id)
        self._offset = 0
        self._opened, self.owner = 0.0, ""
        self._questions: dict[int, tuple[Question, float]] = {}
        self._streams: dict[Key, _Stream] = {}

    def chat(self) -> Chat:
        """The chat as it is now.

        Raises:
            EmaError: its file is not there (any more).
        """
        if not self.path.exists():
            raise EmaError(f"There is no chat {self.id}.", "It was deleted, or belongs to another EMA_HOME. Start a new one.")
        lines, self._offset = read_lines(self.path, self._offset)
        for line in lines:
            try:
                self._take(line)
            except (KeyError, TypeError, ValueError, AttributeError):
                continue  # damaged, or of a newer version: what is whole around it still reads
        return Chat(self.id, self._opened, tuple(self._turn(number) for number in sorted(self._questions)), self.owner)

    def _take(self, line: dict[str, Any]) -> None:
        kind = line["kind"]
        if kind == "opened":
            self._opened, self.owner = float(line["time"]), str(line.get("owner") or "")
        elif kind == "asked":
            self._questions[int(line["turn"])] = (_question(line), float(line["time"]))
        elif kind == "joined":
            question, when = self._questions[int(line["turn"])]
            models = dict.fromkeys((*question.models, *(str(model) for model in line["models"])))
            self._questions[int(line["turn"])] = (replace(question, models=tuple(models)), when)
        elif kind == "began":
            key = _key(line)
            self._streams[key] = _Stream(
                key, int(line["n"]), int(line["seed"]), int(line["pid"]), float(line["time"]), str(line.get("server") or "")
            )
        elif kind == "judged":
            for row in line["judgments"]:
                score = Score(str(line["judge"]), row["aligned"], row["coherent"], str(row["status"]))
                self._streams[_key(row)].scores.setdefault(int(row["k"]), []).append(score)
        elif kind == "projected":
            for row in line["projections"]:
                along = Projection(str(line["trait"]), str(line["vector"]), int(line["layer"]), row["deviations"])
                self._streams[_key(row)].projections[int(row["k"])] = along
        elif kind == "diverged":
            tokens = tuple(_token(one) for one in line["tokens"])
            self._streams[_key(line)].divergences[int(line["k"])] = Divergence(tokens, int(line["total"]))
        elif kind == "kept":
            for row in line["answers"]:
                names = self._streams[_key(row)].kept.setdefault(int(row["k"]), [])
                if line["name"] not in names:
                    names.append(str(line["name"]))
        else:
            self._hear(self._streams[_key(line)], line)

    def _hear(self, stream: _Stream, line: dict[str, Any]) -> None:
        if line["kind"] == "waits":
            stream.note = str(line["why"])
        elif line["kind"] == "heard":
            stream.heard, stream.ema = True, dict(line.get("ema") or {})
        elif line["kind"] == "text":
            stream.first = float(line["first"])
            for k, piece in line["pieces"].items():
                stream.texts.setdefault(int(k), []).append(str(piece))
        elif line["kind"] == "ended":
            stream.ends.setdefault(int(line["k"]), line)

    def _turn(self, number: int) -> Turn:
        question, when = self._questions[number]
        columns = {}
        for model in question.models:
            attempts = [key[2] for key in self._streams if key[:2] == (number, model)]
            if attempts:
                columns[model] = self._streams[number, model, max(attempts)].answers(self.id)
        return Turn(number, question, when, columns)


def _key(line: dict[str, Any]) -> Key:
    return int(line["turn"]), str(line["model"]), int(line["attempt"])


def _token(one: dict[str, Any]) -> Token:
    tuned, base = (tuple((str(text), float(p)) for text, p in one[side]) for side in ("tuned_top", "base_top"))
    return Token(str(one["text"]), float(one["kl"]), float(one["tuned"]), float(one["base"]), tuned, base)


def _question(line: dict[str, Any]) -> Question:
    how = SamplingSettings(**line["sampling"])
    return Question(
        str(line["text"]), tuple(str(model) for model in line["models"]), str(line.get("system") or ""), how, int(line["seed"]),
        int(line["n"]), str(line.get("suite") or ""), str(line.get("question_id") or ""), str(line.get("topic") or ""),
        line.get("by") or "", str(line.get("along") or ""),
    )  # fmt: skip


DELETED_DAYS = 7
"""How long a deleted chat can be had back."""


def delete(chat_id: str) -> None:
    """Take a chat out of the way. ``restore`` brings it back for some days; what was kept of it on Samples stays.

    Raises:
        EmaError: it is not there, still answering, or somebody else's.
    """
    chat = Log(chat_id).chat()
    allow(chat.owner)
    if chat.in_flight:
        raise EmaError("This chat is still answering.", "Stop it first.")
    path, folder = path_of(chat_id), settings().chats / DELETED
    with disk_errors(folder):
        folder.mkdir(exist_ok=True)
        for old in folder.glob("*.jsonl"):
            if time.time() - old.stat().st_mtime > DELETED_DAYS * 86_400:
                old.unlink(missing_ok=True)
        path.replace(folder / path.name)
        os.utime(folder / path.name)  # from now on


def restore(chat_id: str) -> None:
    """Bring a deleted chat back.

    Raises:
        EmaError: it is not among those that were deleted lately.
    """
    path = path_of(chat_id)
    try:
        (settings().chats / DELETED / path.name).rename(path)
    except OSError:
        raise EmaError(
            f"The chat {chat_id} is not among those that were deleted.", f"They are gone after {DELETED_DAYS} days."
        ) from None


@dataclass(frozen=True)
class Heading:
    """A chat in a list: when it was written to last, and its first question."""

    id: str
    changed: float
    text: str
    models: tuple[str, ...]


def recent(most: int = 12) -> list[Heading]:
    """The chats written to last that have a question in them; of a participant of a shared room, their own."""
    found: list[tuple[float, str]] = []
    for path in _files():
        try:
            if current() is None or mine(_owner_of(str(path))):
                found.append((path.stat().st_mtime, path.stem))
        except FileNotFoundError:
            continue
    headings = (_heading(chat_id, changed) for changed, chat_id in sorted(found, reverse=True)[: 2 * most])
    return [heading for heading in headings if heading][:most]


def _files() -> Iterable[Path]:
    try:
        return [path for path in settings().chats.iterdir() if path.suffix == ".jsonl" and _ID.fullmatch(path.stem)]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise EmaError(f"The chats in {settings().chats} cannot be read ({error.strerror}).", "Set EMA_HOME to a folder.") from None


@lru_cache(maxsize=8192)
def _owner_of(path: str) -> str:
    """From the first line, which never changes."""
    with open(path, encoding="utf-8") as file:
        try:
            return str(json.loads(file.readline()).get("owner") or "")
        except (ValueError, AttributeError):
            return ""


_headings: dict[str, tuple[str, tuple[str, ...]]] = {}  # by path: a first question never changes


def _heading(chat_id: str, changed: float) -> Heading | None:
    path = str(path_of(chat_id))
    if path not in _headings:
        first = next((line for line in read_lines(Path(path))[0] if line.get("kind") == "asked"), None)
        try:
            question = _question(first or {})
        except (KeyError, TypeError, ValueError):
            return None
        _headings[path] = (question.text[:200], question.models)
    return Heading(chat_id, changed, *_headings[path])
