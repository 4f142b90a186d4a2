"""Is a worker alive, and what is it doing? Torch-free."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path

from ema_core.files import read_json
from ema_core.processes import alive
from ema_core.settings import settings

STALE_SECONDS = 15


@dataclass(frozen=True)
class WorkerStatus:
    alive: bool
    pid: int | None = None
    activity: str = ""
    job: str | None = None
    stuck: bool = False
    """Alive, but it has given no sign for a while (a long single operation, or a stopped process)."""


def beat_path() -> Path:
    return settings().queue / "worker.json"


def worker_status() -> WorkerStatus:
    """From the heartbeat and the process table; a dead worker's leftovers do not count as one."""
    try:
        beat = read_json(beat_path())
        pid, when = int(beat["pid"]), float(beat["time"])
    except (FileNotFoundError, json.JSONDecodeError, KeyError, TypeError, ValueError):
        return WorkerStatus(False)
    if not alive(pid, when):
        return WorkerStatus(False)
    return WorkerStatus(True, pid, beat.get("activity", ""), beat.get("job"), time.time() - when > STALE_SECONDS)
