"""Worker and engine as processes of their own: started, looked for, ended. Torch-free."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Sequence

import psutil

from ema_core.settings import settings, writable


def alive(pid: int, since: float) -> bool:
    """Is it the process that was there at ``since`` (seconds since the epoch), and not another one of the same number?"""
    try:
        process = psutil.Process(pid)
        return process.status() != psutil.STATUS_ZOMBIE and process.create_time() <= since + 1
    except psutil.Error:
        return False


def spawn(words: Sequence[str], log: str) -> int:
    """Start ``ema <words>`` in a process session of its own, so that it outlives us; returns its process id."""
    environment = {**os.environ, "OMP_WAIT_POLICY": "passive", "TOKENIZERS_PARALLELISM": "false"}
    with open(writable(settings().logs) / log, "ab") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "ema_core.cli.main", *words],
            stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True, env=environment,
        )  # fmt: skip
    return process.pid


def end(pid: int, seconds: float) -> bool:
    """SIGTERM; True when it is gone within ``seconds``."""
    try:
        os.kill(pid, signal.SIGTERM)
        psutil.Process(pid).wait(seconds)
    except (ProcessLookupError, psutil.NoSuchProcess):
        return True
    except psutil.TimeoutExpired:
        return False
    return True


def die_with_parent() -> None:
    """In a child, before it begins: SIGTERM when its parent dies, however that dies (Linux)."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
