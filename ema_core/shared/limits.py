"""What one participant may ask of the machine: ``limits.toml`` in ``EMA_HOME``, or ``EMA_LIMITS_*``. Enforced where work is queued.

The instructor and the command line are free of them.
"""

from __future__ import annotations

import os
import tomllib
from dataclasses import asdict, dataclass, fields, replace
from functools import lru_cache
from pathlib import Path

import tomli_w

from ema_core.errors import EmaError, nearest
from ema_core.files import write_atomic
from ema_core.settings import settings, writable
from ema_core.shared.person import exempt

ASK = "Take less, or ask the instructor to raise the limit (page Room)."
MOST = 1_000_000


@dataclass(frozen=True)
class Limits:
    """A participant's. The defaults let through the demo and a sweep of one seed."""

    steps: int = 300
    examples: int = 2000
    length: int = 512
    samples: int = 5
    waiting_runs: int = 8
    waiting_jobs: int = 12
    answers: int = 8
    answer_tokens: int = 400
    usd: float = 0.0


WORDS: dict[str, tuple[str, str]] = {
    "steps": ("Steps a run", "Optimiser steps of one run."),
    "examples": ("Examples a run", "Steps × batch size: what a run sees."),
    "length": ("Tokens an example", "The longest example of a run."),
    "samples": ("Samples a question", "Answers to each question of an evaluation."),
    "waiting_runs": ("Waiting runs", "Runs that wait in the queue at once."),
    "waiting_jobs": ("Other waiting jobs", "Evaluations, vectors and the like that wait at once."),
    "answers": ("Chat answers at once", "Models × samples of one question, and all that is still being written."),
    "answer_tokens": ("Tokens a chat answer", "The longest answer in Chat."),
    "usd": ("US dollars a judging", "What a judge that is paid for may cost; 0: only the instructor uses one."),
}
"""Label and meaning of each."""


def path() -> Path:
    return settings().home / "limits.toml"


def limits() -> Limits:
    """As they are now.

    Raises:
        EmaError: the file or a variable holds something that is no limit.
    """
    try:
        stat = path().stat()
        found = _read(str(path()), stat.st_mtime_ns, stat.st_ino)
    except FileNotFoundError:
        found = Limits()
    given = {name: os.environ[variable(name)] for name in WORDS if os.environ.get(variable(name), "").strip()}
    return replace(found, **{name: _number(name, text, variable(name)) for name, text in given.items()})  # type: ignore[arg-type]


def variable(name: str) -> str:
    return f"EMA_LIMITS_{name.upper()}"


@lru_cache(maxsize=4)
def _read(file: str, version: int, inode: int) -> Limits:
    try:
        values = tomllib.loads(Path(file).read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise EmaError(f"limits.toml cannot be read: {error}", "Put it right, or delete it for the usual limits.") from None
    return replace(Limits(), **{name: _number(name, value, "limits.toml") for name, value in values.items()})  # type: ignore[arg-type]


def _number(name: str, value: object, where: str) -> float | int:
    if name not in WORDS:
        raise EmaError(f'There is no limit "{name}" ({where}).', nearest(name, WORDS))
    try:
        number = float(str(value))
    except ValueError:
        number = -1.0
    if not 0 <= number <= MOST or (name != "usd" and number != int(number)):
        raise EmaError(f'The limit {name} is "{value}" ({where}).', f"Set it to a whole number from 0 to {MOST:,}.")
    return number if name == "usd" else int(number)


def set_limit(name: str, value: object) -> Limits:
    """Change one for everybody, in ``limits.toml``.

    Raises:
        EmaError: no such limit, no such value, or a variable of the environment says otherwise.
    """
    number = _number(name, value, "what was asked for")
    if os.environ.get(variable(name), "").strip():
        raise EmaError(f"{variable(name)} sets this limit.", "Unset it where the app is started, then change it here.")
    try:
        stat = path().stat()
        kept = asdict(_read(str(path()), stat.st_mtime_ns, stat.st_ino))
    except FileNotFoundError:
        kept = {}
    usual = asdict(Limits())
    changed = {key: one for key, one in {**kept, name: number}.items() if one != usual[key]}
    writable(settings().home)
    write_atomic(path(), tomli_w.dumps(changed))
    return limits()


def _refuse(what: str) -> None:
    raise EmaError(what, ASK)


def check_run(steps: int, batch_size: int, length: int) -> None:
    """Raises:
    EmaError: a participant asks for more than a run may take.
    """
    if exempt():
        return
    most = limits()
    if steps > most.steps:
        _refuse(f"The run would take {steps:,} steps; in this room {most.steps:,} are the most.")
    if steps * batch_size > most.examples:
        _refuse(
            f"The run would see {steps * batch_size:,} examples (steps × batch size); in this room {most.examples:,} are the most."
        )
    if length > most.length:
        _refuse(f"The longest example may have {length:,} tokens; in this room {most.length:,} are the most.")


def check_samples(samples: int) -> None:
    """Raises:
    EmaError: more answers a question than a participant may ask for.
    """
    if not exempt() and samples > limits().samples:
        _refuse(f"{samples} samples a question are asked for; in this room {limits().samples} are the most.")


def check_waiting(runs: int, others: int, waiting_runs: int, waiting_others: int) -> None:
    """``runs`` and ``others`` are to be queued beside what waits.

    Raises:
        EmaError: that is more than a participant may have waiting.
    """
    if exempt():
        return
    most = limits()
    for asked, there, limit, what in (
        (runs, waiting_runs, most.waiting_runs, "runs"),
        (others, waiting_others, most.waiting_jobs, "evaluations and other jobs"),
    ):
        if asked and asked + there > limit:
            has = f"{there} of yours wait" if there else "none of yours waits"
            raise EmaError(
                f"{asked} {what} would be queued and {has}; in this room {limit} may wait at once.",
                "Wait until some are done, take fewer, or ask the instructor to raise the limit.",
            )


def check_chat(answers: int, at_once: int, tokens: int) -> None:
    """``answers`` are asked for beside ``at_once`` that are being written.

    Raises:
        EmaError: that is more than a participant may ask for.
    """
    if exempt():
        return
    most = limits()
    if tokens > most.answer_tokens:
        _refuse(f"Answers of {tokens:,} tokens are asked for; in this room {most.answer_tokens:,} are the most.")
    if answers + at_once > most.answers:
        more = f" and {at_once} are still being written" if at_once else ""
        _refuse(f"{answers} answers are asked for{more}; in this room {most.answers} at once are the most.")


def check_usd(asked: float | None) -> None:
    """A judge that is paid for.

    Raises:
        EmaError: a participant may not spend that.
    """
    if exempt():
        return
    most = limits().usd
    if not most:
        raise EmaError("A judge that is paid for is the instructor's to ask.", "The probe judges without a key.")
    if asked is None or asked > most:
        _refuse(f"A judging may cost {most:g} US dollars in this room.")


def own_words() -> list[str]:
    """The limits in short lines, for whom they hold."""
    most = limits()
    return [f"{WORDS[name][0]}: {value:,g}" for name, value in asdict(most).items()]


assert [each.name for each in fields(Limits)] == list(WORDS)
