"""How long answers take, told before they are asked for: a stated rate, replaced by what was measured here. Torch-free."""

from __future__ import annotations

from ema_core.chats.view import COMPLETE, Turn
from ema_core.files import read_json, write_json
from ema_core.settings import settings

STEP_SECONDS, ROW_SECONDS = 0.09, 0.0065
"""One decoding step of the embedded model on two cores, and what each answer in the batch adds to it."""
FEWEST_TOKENS = 16


def estimate(answers: int, max_tokens: int) -> tuple[float, bool]:
    """Seconds that so many answers take together if none ends early, and whether that was measured on this machine."""
    stated = max_tokens * (STEP_SECONDS + ROW_SECONDS * answers)
    try:
        return stated * float(read_json(_path())[_server()]), True
    except (OSError, ValueError, TypeError, KeyError):
        return stated, False


def record(turn: Turn) -> None:
    """Remember how a turn's time compares with the stated rate; one that was cut short says nothing."""
    samples = [sample for column in turn.columns.values() for sample in column.samples]
    longest = max((sample.tokens or 0 for sample in samples), default=0)
    if longest < FEWEST_TOKENS or any(sample.finish not in COMPLETE for sample in samples):
        return
    loading = min(column.first or 0 for column in turn.columns.values())
    seconds = max(sample.seconds or 0 for sample in samples) - loading
    try:
        rates = dict(read_json(_path()))
    except (OSError, ValueError, TypeError):
        rates = {}
    rates[_server()] = seconds / (longest * (STEP_SECONDS + ROW_SECONDS * len(samples)))
    write_json(_path(), rates)


def _path():
    return settings().cache / "chat-speed.json"


def _server() -> str:
    return settings().engine_url or "engine"
