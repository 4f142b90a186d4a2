"""Curves of runs that are being trained, straight from their events: what is newer than the index."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import pandas as pd

from ema_core.errors import EmaError
from ema_core.runs import RunDirectory
from ema_core.settings import settings
from ema_core.store import database
from ema_core.store.rows import curve_rows

Curves = tuple[pd.DataFrame, pd.DataFrame]


def live_curves(run_ids: Sequence[str]) -> Curves:
    """``Reader.steps`` and ``Reader.penalties`` as they are this moment; a run that cannot be read is passed over."""
    found = [curves for run_id in dict.fromkeys(run_ids) if (curves := _curves(RunDirectory(settings().runs / run_id)))]
    if not found:
        found = [_read(RunDirectory(Path("none")), "", 0, "")]
    steps, penalties = (
        pd.concat(frames, ignore_index=True) if len(frames) > 1 else frames[0] for frames in zip(*found, strict=True)
    )
    return steps, penalties


def _curves(run: RunDirectory) -> Curves | None:
    try:
        spec, name = run.spec, run.state().name
    except (EmaError, OSError, ValueError):
        return None
    version = database.version(run.events_path)
    size = run.events_path.stat().st_size if version else 0
    return _kept(run.path, version, size, spec.defense_label, spec.seed, name)


@lru_cache(maxsize=64)
def _kept(path: Path, version: database.Version | None, size: int, label: str, seed: int, name: str) -> Curves:
    """One reading a state of the file: a page that polls many finished runs reads none of them again."""
    return _read(RunDirectory(path), label, seed, name)


def _read(run: RunDirectory, label: str, seed: int, name: str) -> Curves:
    frames = []
    for table, rows in zip(("steps", "penalties"), curve_rows(run), strict=True):
        frame = database.arrow(table, rows).to_pandas()
        frames.append(frame.assign(defense_label=label, seed=seed, name=name))
    return frames[0], frames[1]
