"""The room that the reference's states take on the disk: a limit, and the files used longest ago go first. Torch-free."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ema_core.processes import alive
from ema_core.settings import settings

MIN_FREE_BYTES = 2 << 30
"""So much of the disk is left to others, whatever the limit says."""
SLICE = 64 << 20
"""Bytes that one run writes before the cache is looked at again: two runs at once pass the limit by so much at most."""


def folder() -> Path:
    return settings().cache / "reference"


def limit() -> int:
    """Bytes, as set by ``EMA_REFERENCE_CACHE_GB``."""
    return int(settings().reference_cache_gb * 1e9)


def entries() -> list[tuple[float, int, Path]]:
    """When each file was last used, its size, where it lies; the one used longest ago first."""
    found = []
    for name, _, files in os.walk(folder()):
        if Path(name) == _pins():
            continue
        for file in files:
            path = Path(name, file)
            with suppress(OSError):  # another process has just dropped it
                known = path.stat()
                found.append((known.st_mtime, known.st_size, path))
    return sorted(found)


def taken() -> int:
    """Bytes that are kept now."""
    return sum(size for _, size, _ in entries())


def most(now: int) -> int:
    """Bytes that may be kept in all, where ``now`` are: the limit, or less on a disk with less room."""
    there = next(each for each in (folder(), *folder().parents) if each.exists())
    return max(0, min(limit(), now + shutil.disk_usage(there).free - MIN_FREE_BYTES))


def fits(size: int) -> bool:
    """Whether a run's states of ``size`` bytes are kept: all of them or none."""
    return size <= most(taken())


def drop(leave: int) -> int:
    """Drop files until ``leave`` bytes are left, the one used longest ago first, none that a run at work uses. Returns what is left."""
    known = entries()
    left, begun = sum(size for _, size, _ in known), _begun()
    for used, size, path in known:
        if left <= leave or used >= begun:
            break
        with suppress(OSError):
            path.unlink()
            left -= size
    return left


def make_room(size: int) -> int:
    """Bytes that may be written before this is asked again; less than ``size`` where runs at work use all there is."""
    wanted, now = max(size, min(SLICE, limit() // 8)), taken()
    if now + wanted > most(now):
        now = drop(most(now) - wanted)
    return min(wanted, most(now) - now)


def use(path: Path) -> None:
    """Note that a file is used now."""
    with suppress(OSError):
        os.utime(path)


@contextmanager
def at_work() -> Iterator[None]:
    """While it lasts, no process drops what was used since it began."""
    pin = _pins() / f"{os.getpid()}-{time.time_ns()}"
    with suppress(OSError):  # a full disk: then nothing is written here, either
        pin.parent.mkdir(parents=True, exist_ok=True)
        pin.touch()
    try:
        yield
    finally:
        pin.unlink(missing_ok=True)


def _pins() -> Path:
    return folder() / "at-work"


def _begun() -> float:
    """When the first of the runs at work began; pins of dead processes are swept away."""
    first = float("inf")
    for pin in _pins().glob("*-*"):
        with suppress(OSError):
            since = pin.stat().st_mtime
            if alive(int(pin.name.split("-")[0]), since):
                first = min(first, since)
            else:
                pin.unlink(missing_ok=True)
    return first


def told(size: int) -> str:
    """What a run's states of ``size`` bytes mean for the disk, in words."""
    now = taken()
    there = f"{amount(now)} of at most {amount(most(now))} are taken"
    if size > most(now):
        short = "the disk has room for" if most(now) < limit() else "are kept in all (EMA_REFERENCE_CACHE_GB)"
        return f"The reference's states would take {amount(size)}, more than the {amount(most(now))} that {short}: they are computed anew in each step."
    over = now + size - most(now)
    dropped = f", up to {amount(over)} used longest ago will be dropped" if over > 0 else ""
    return f"The reference's states are kept on disk for later runs on the same data (at most {amount(size)}; {there}{dropped})."


def amount(size: float) -> str:
    return f"{size / 1e9:,.1f} GB" if size >= 5e8 else f"{size / 1e6:,.0f} MB" if size >= 1e6 else f"{size / 1e3:,.0f} kB"
