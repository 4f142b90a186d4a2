"""One answer on its way from the server into the chat's file. Torch-free."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any

from ema_core.chats import log
from ema_core.chats.view import Finish, Question

WRITE_SECONDS = 0.2
"""Text is written this often: a line a token would make files that are slow to read."""


@dataclass
class Stream:
    """One request: a column of a turn. Lives in the event loop; ``stopped`` is set from any thread."""

    chat_id: str
    key: log.Key
    messages: list[dict[str, str]]
    question: Question
    seed: int
    began: float = field(default_factory=time.monotonic)
    stopped: asyncio.Event = field(default_factory=asyncio.Event)
    heard: bool = False
    first: float | None = None
    pending: dict[int, str] = field(default_factory=dict)
    pieces: dict[int, int] = field(default_factory=dict)
    tokens: dict[int, int] = field(default_factory=dict)
    finish: dict[int, Finish] = field(default_factory=dict)
    ended: set[int] = field(default_factory=set)
    usage: int | None = None

    @property
    def seconds(self) -> float:
        return round(time.monotonic() - self.began, 3)

    def line(self, kind: str, **more: Any) -> dict[str, Any]:
        turn, model, attempt = self.key
        return {"kind": kind, "turn": turn, "model": model, "attempt": attempt, **more}

    def say(self, kind: str, **more: Any) -> None:
        log.append(self.chat_id, self.line(kind, **more))


def take(stream: Stream, chunk: Any) -> None:
    """Take in a chunk of the stream."""
    if not stream.heard:
        stream.heard = True
        stream.say("heard", ema=getattr(chunk, "ema", None) or None, fingerprint=chunk.system_fingerprint)
    if chunk.usage:
        stream.usage = chunk.usage.completion_tokens
    for choice in chunk.choices:
        if not 0 <= choice.index < stream.question.samples:
            continue
        if choice.delta and choice.delta.content:
            stream.first = stream.seconds if stream.first is None else stream.first
            stream.pending[choice.index] = stream.pending.get(choice.index, "") + choice.delta.content
            stream.pieces[choice.index] = stream.pieces.get(choice.index, 0) + 1
        if choice.finish_reason:
            stream.finish[choice.index] = "length" if choice.finish_reason == "length" else "stop"
            if isinstance(count := getattr(choice, "ema_tokens", None), int):
                stream.tokens[choice.index] = count


async def write_on(stream: Stream) -> None:
    """Write what comes, for ever."""
    while True:
        await asyncio.sleep(WRITE_SECONDS)
        write(stream)


def write(stream: Stream, rest: tuple[Finish, str, str] | None = None) -> None:
    """What came since the last time; with ``rest`` also the end of the samples that have none."""
    lines = []
    if stream.pending:
        lines.append(
            stream.line(
                "text", first=stream.first, pieces={str(k): log.unbroken(text) for k, text in sorted(stream.pending.items())}
            )
        )
    for k in range(stream.question.samples):
        if k in stream.ended or (k not in stream.finish and rest is None):
            continue
        if rest is None and stream.question.samples == 1 and stream.usage is None:
            continue  # how many tokens it was comes right behind
        finish, message, hint = (stream.finish[k], "", "") if k in stream.finish else rest or ("cut", "", "")
        why = {"message": message, "hint": hint} if message else {}
        lines.append(stream.line("ended", k=k, finish=finish, tokens=_tokens(stream, k), seconds=stream.seconds, **why))
        stream.ended.add(k)
    if lines:
        stream.pending.clear()
        log.append(stream.chat_id, *lines)


def _tokens(stream: Stream, k: int) -> int:
    """As the server counts; of one among several samples it says nothing, and a piece is a token mostly."""
    if k in stream.tokens:
        return stream.tokens[k]
    return stream.usage if stream.usage is not None and stream.question.samples == 1 else stream.pieces.get(k, 0)
