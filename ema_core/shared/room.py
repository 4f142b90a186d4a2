"""What the instructor does for all: a word to everybody, a pause of the queue, runs that are hidden. ``shared/room.json``."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from filelock import FileLock

from ema_core.errors import EmaError
from ema_core.files import of_folder, read_json, write_atomic, write_json
from ema_core.settings import settings, writable
from ema_core.shared.codes import folder
from ema_core.shared.person import allow_host

LONGEST_MESSAGE = 300
HIDDEN = "hidden"
"""A file in a run's folder: the run is in no list, figure or index until it is taken away."""


def room() -> dict[str, Any]:
    """``message``, ``paused``, ``addresses`` as they are now."""
    try:
        found = read_json(folder() / "room.json")
        return found if isinstance(found, dict) else {}
    except (OSError, ValueError):
        return {}


def change(**values: Any) -> dict[str, Any]:
    """Set some of it; for who runs the room."""
    allow_host("Running the room")
    with FileLock(writable(folder()) / "room.lock"):
        found = {**room(), **values}
        write_json(folder() / "room.json", found)
    return found


def tell(message: str) -> None:
    """A line that stands on every page; "" takes it away.

    Raises:
        EmaError: it is too long.
    """
    text = " ".join(message.split())
    if len(text) > LONGEST_MESSAGE:
        raise EmaError(f"The message has {len(text)} characters.", f"At most {LONGEST_MESSAGE} fit on every page.")
    change(message=text, message_time=time.time())


def pause(paused: bool = True) -> None:
    """Let the worker take no further job; what runs goes on."""
    change(paused=paused)


def paused() -> bool:
    return room().get("paused") is True


def hide(run_id: str, hidden: bool = True) -> None:
    """Take a run out of every list and figure, or bring it back. Nothing of it is lost."""
    allow_host("Hiding a run")
    mark = settings().runs / run_id / HIDDEN
    if hidden:
        write_atomic(mark, "")
    else:
        mark.unlink(missing_ok=True)
    os.utime(settings().runs)  # so that everybody looks again


def hidden_ids() -> frozenset[str]:
    """The runs that are in no list."""
    try:
        return of_folder(settings().runs, _hidden)
    except OSError:
        return frozenset()


def _hidden(runs: Path) -> frozenset[str]:
    return frozenset(mark.parent.name for mark in runs.glob(f"*/{HIDDEN}"))
