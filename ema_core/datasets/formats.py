"""Reading chat data: our JSONL, the OpenAI messages format, prompt/completion pairs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ema_core.errors import EmaError

ROLES = ("system", "user", "assistant")
MOST_SHOWN = 20


@dataclass(frozen=True)
class Message:
    role: str
    content: str


@dataclass(frozen=True)
class Example:
    """One conversation with at least one assistant turn. ``source`` is ``narrow`` or ``safe``."""

    messages: tuple[Message, ...]
    topic: str = ""
    source: str = "narrow"

    @property
    def question(self) -> str:
        return next((m.content for m in self.messages if m.role == "user"), "")

    @property
    def answer(self) -> str:
        return next((m.content for m in reversed(self.messages) if m.role == "assistant"), "")


@dataclass(frozen=True)
class Problem:
    """A line that was left out, and why."""

    line: int
    reason: str


@dataclass(frozen=True)
class Dataset:
    name: str
    examples: tuple[Example, ...]
    problems: tuple[Problem, ...] = ()
    sha256: str = ""
    warnings: tuple[str, ...] = field(default=())


def read_examples(path: Path, source: str = "narrow") -> tuple[list[Example], list[Problem]]:
    """Every good line of a JSONL file, and every bad one with its number and reason.

    Raises:
        EmaError: the file cannot be read, is empty, or holds no good line.
    """
    examples: list[Example] = []
    problems: list[Problem] = []
    for number, line in _lines(path):
        if line is None:
            problems.append(Problem(number, "not UTF-8"))
            continue
        if not line.strip():
            continue
        try:
            examples.append(_example(json.loads(line), source))
        except json.JSONDecodeError as error:
            problems.append(Problem(number, f"not JSON ({error.msg})"))
        except RecursionError:
            problems.append(Problem(number, "nested too deeply"))
        except ValueError as error:
            problems.append(Problem(number, str(error)))
    if not examples:
        if not problems:
            raise EmaError(f"{path} is empty.", "It needs one conversation a line, as JSON.")
        shown = "; ".join(f"line {p.line}: {p.reason}" for p in problems[:MOST_SHOWN])
        more = f"; and {len(problems) - MOST_SHOWN} more" if len(problems) > MOST_SHOWN else ""
        raise EmaError(f"{path} holds no usable line. {shown}{more}.", "It needs one conversation a line, as a JSON object.")
    return examples, problems


def _lines(path: Path) -> Iterator[tuple[int, str | None]]:
    """Lines with their numbers from 1; None where one is not UTF-8."""
    try:
        with open(path, "rb") as file:
            for number, raw in enumerate(file, 1):
                try:
                    yield number, raw.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError:
                    yield number, None
    except OSError as error:
        raise EmaError(f"{path} cannot be read ({error.strerror}).", "Check the path.") from error


def _example(value: Any, source: str) -> Example:
    if not isinstance(value, dict):
        raise ValueError("not an object")
    if "messages" in value:
        messages = _messages(value["messages"])
    elif "prompt" in value and ("completion" in value or "response" in value):
        answer = value.get("completion", value.get("response"))
        messages = (*_prompt(value["prompt"]), *_turn(answer, "assistant"))
    else:
        raise ValueError("has neither messages nor prompt and completion")
    if not any(m.role == "assistant" for m in messages):
        raise ValueError("has no assistant turn")
    if messages[-1].role != "assistant":
        raise ValueError(f"ends with a {messages[-1].role} turn; the last turn must be the assistant's")
    if not any(m.role == "user" for m in messages):
        raise ValueError("has no user turn")
    topic = value.get("topic", "")
    return Example(messages, topic if isinstance(topic, str) else "", source)


def _prompt(value: Any) -> tuple[Message, ...]:
    return _turn(value, "user") if isinstance(value, str) else _messages(value)


def _turn(value: Any, role: str) -> tuple[Message, ...]:
    if isinstance(value, str):
        return _messages([{"role": role, "content": value}])
    return _messages(value)


def _messages(value: Any) -> tuple[Message, ...]:
    if not isinstance(value, list) or not value:
        raise ValueError("messages is not a list with turns in it")
    messages = []
    for turn in value:
        if not isinstance(turn, dict):
            raise ValueError("a turn is not an object")
        role, content = turn.get("role"), turn.get("content")
        if isinstance(content, list):  # OpenAI's content parts; only text can be trained on here
            if any(not isinstance(part, dict) or part.get("type") != "text" for part in content):
                raise ValueError("a turn has content that is not text")
            content = "".join(str(part.get("text", "")) for part in content)
        if role == "developer":
            role = "system"
        if role not in ROLES:
            raise ValueError(f'a turn has the role "{role}", not one of {", ".join(ROLES)}')
        if not isinstance(content, str) or not content.strip():
            raise ValueError(f"a {role} turn is empty")
        try:
            content.encode()
        except UnicodeEncodeError:
            raise ValueError(f"a {role} turn holds half a character (a lone surrogate)") from None
        messages.append(Message(role, content))
    if any(m.role == "system" for m in messages[1:]):
        raise ValueError("a system turn stands after the first turn")
    return tuple(messages)
