"""The prompt library: the suites' questions, and prompts of the user's own in ``EMA_HOME/prompts.jsonl``. Torch-free.

Lines are only added: ``{id, time, text, system}`` saves a prompt, ``{id, time, removed: true}`` takes it out, ``removed: false`` puts it back.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ema_core.chats import log
from ema_core.errors import EmaError
from ema_core.evaluation.suites import SUITES, all_suites, load_suite
from ema_core.files import append_line, read_lines
from ema_core.settings import settings
from ema_core.shared import allow

OWN = "own"
"""The source of the user's own prompts; every other source is a suite's name."""


@dataclass(frozen=True)
class Prompt:
    """``source``: ``own`` or a suite; ``id`` is unique within it. ``topic`` is the suite's."""

    source: str
    id: str
    text: str
    system: str = ""
    topic: str = ""
    form: str = "plain"


def path() -> Path:
    return settings().home / "prompts.jsonl"


def own() -> list[Prompt]:
    """The user's own, newest first."""
    found: dict[str, Prompt] = {}
    gone: set[str] = set()
    for line in read_lines(path())[0]:
        key = str(line.get("id") or "")
        if "removed" in line:
            (gone.add if line["removed"] else gone.discard)(key)
        elif key and isinstance(line.get("text"), str):
            found[key] = Prompt(OWN, key, line["text"], str(line.get("system") or ""))
    return [prompt for prompt in reversed(found.values()) if prompt.id not in gone]


def save(text: str, system: str = "") -> Prompt:
    """Put a prompt into the library; one that is there already is not put there twice.

    Raises:
        EmaError: it is empty or too long, or the file cannot be written.
    """
    allow()
    text, system = log.clean(text).strip(), log.clean(system).strip()
    if not text:
        raise EmaError("The prompt is empty.", "Write something to ask.")
    if len(text) + len(system) > log.LONGEST:
        raise EmaError(f"The prompt has more than {log.LONGEST:,} characters.", "No model here reads as much; shorten it.")
    if known := next((prompt for prompt in own() if (prompt.text, prompt.system) == (text, system)), None):
        return known
    prompt = Prompt(OWN, f"p{secrets.token_hex(5)}", text, system)
    append_line(path(), {"id": prompt.id, "time": time.time(), "text": text, "system": system})
    return prompt


def remove(prompt_id: str, back: bool = False) -> None:
    """Take an own prompt out of the library, or put one ``back`` that was taken out.

    Raises:
        EmaError: there is none of this id.
    """
    allow()
    if not any(line.get("id") == prompt_id for line in read_lines(path())[0]):
        raise EmaError(f'There is no prompt "{prompt_id[:60]}".', "`ema chats prompts` lists them.")
    append_line(path(), {"id": prompt_id, "time": time.time(), "removed": not back})


def of_suite(name: str, dataset: str) -> list[Prompt]:
    """The questions of a suite; ``in-domain``, ``benign`` and ``conditional`` are those that belong to the data set.

    Raises:
        EmaError: no such suite, or the data set has none of it.
    """
    return [
        Prompt(name, one.id, one.question, one.system or "", one.topic, one.form) for one in load_suite(name, dataset).questions
    ]


def of(source: str, dataset: str) -> list[Prompt]:
    """The prompts of a source."""
    return own() if source == OWN else of_suite(source, dataset)


def sources(dataset: str) -> list[str]:
    """Where prompts come from: the suites that the data set has, and the user's own ones, last."""
    found = []
    for name in all_suites():
        try:
            if name not in SUITES or load_suite(name, dataset).questions:
                found.append(name)
        except EmaError:
            continue
    return [*found, OWN]


def search(words: str, prompts: Iterable[Prompt]) -> list[Prompt]:
    """Those in which every word begins a word of text, system prompt, topic, id or source, whatever the case."""
    wanted = [re.compile(rf"(?<!\w){re.escape(word)}", re.IGNORECASE) for word in words.split()]
    return [
        one
        for one in prompts
        if all(word.search("\n".join((one.text, one.system, one.topic, one.id, one.source))) for word in wanted)
    ]
