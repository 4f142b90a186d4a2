"""Taking waiting jobs out of the queue, and putting the last ones back. Torch-free.

``queue/undo.json`` remembers what went last, so that it comes back after a reload of the page and from the command line, too.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ema_core.errors import EmaError
from ema_core.files import read_json, write_json
from ema_core.jobs import launch, queue
from ema_core.runs import RunDirectory, Status
from ema_core.settings import settings
from ema_core.shared import allow, why_not

UNDO_SECONDS = 3600.0
"""So long a cancellation is offered to be undone."""


@dataclass(frozen=True)
class Cancelled:
    """What was taken out last, and when."""

    time: float
    jobs: list[queue.Job]


def cancel(job_ids: Iterable[str]) -> list[queue.Job]:
    """Take these waiting jobs out, with those that could not go on without them; returns all that went.

    A run that was to be trained rests as ``paused``. What runs already is left alone, and in a shared room what is somebody else's.
    """
    known = {job.id: job for job in queue.jobs() if job.status == "queued" and not why_not(job.owner)}
    chosen = _with_dependents(set(job_ids) & set(known), list(known.values()))
    gone = [job for job in known.values() if job.id in chosen and queue.cancel(job.id).status == "cancelled"]
    for job in gone:
        _rest(job)
    if gone:
        write_json(_path(), {"time": time.time(), "jobs": [job.model_dump(mode="json") for job in gone]})
    return gone


def cancel_all() -> list[queue.Job]:
    """Everything that waits."""
    return cancel(job.id for job in queue.jobs())


def last() -> Cancelled | None:
    """What can be put back: the last cancellation, unless that is long ago or all of it was queued again meanwhile."""
    try:
        kept = read_json(_path())
        found = Cancelled(float(kept["time"]), [queue.Job.model_validate(job) for job in kept["jobs"]])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    left = [job for job in found.jobs if not why_not(job.owner) and _can_return(job)]
    return Cancelled(found.time, left) if left and time.time() - found.time < UNDO_SECONDS else None


def undo() -> list[queue.Job]:
    """Put back what went last, each job at its old place; returns those that came back.

    Raises:
        EmaError: there is nothing to put back.
    """
    found = last()
    if found is None:
        raise EmaError("Nothing was cancelled in the last hour that could be put back.", "`ema queue list` shows what waits.")
    for job in found.jobs:
        allow(job.owner)
        if job.kind == "train":
            RunDirectory.open(job.runs[0]).update(status=Status.QUEUED)
        queue.put_back(job)
    _path().unlink(missing_ok=True)
    return found.jobs


def _path() -> Path:
    return settings().queue / "undo.json"


def _with_dependents(chosen: set[str], jobs: Sequence[queue.Job]) -> set[str]:
    """Those that come after a chosen one, and evaluations all of whose runs would not be trained."""
    while True:
        runs = {run for job in jobs if job.id in chosen and job.kind == "train" for run in job.runs}
        more = {
            job.id
            for job in jobs
            if job.id not in chosen and (chosen & set(job.after) or (job.kind == "evaluate" and job.runs and set(job.runs) <= runs))
        }
        if not more:
            return chosen
        chosen = chosen | more


def _rest(job: queue.Job) -> None:
    for run_id in job.runs if job.kind == "train" else ():
        with suppress(EmaError):
            run = RunDirectory.open(run_id)
            if run.state().status is Status.QUEUED:
                run.update(status=Status.PAUSED)


def _can_return(job: queue.Job) -> bool:
    now = queue.found(job.id)
    if now is not None and now.status != "cancelled":
        return False
    if job.kind != "train":
        return True
    try:
        run = RunDirectory.open(job.runs[0])
    except EmaError:
        return False  # deleted
    return run.state().status is Status.PAUSED and launch.train_job(run) is None
