"""The queue: one JSON file a job, changed under one lock. The app and the CLI write it, the worker reads it. Torch-free."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock
from pydantic import BaseModel, Field

from ema_core.errors import EmaError
from ema_core.files import read_json, write_json
from ema_core.jobs import fair
from ema_core.runs import RunDirectory, Status
from ema_core.settings import settings, writable
from ema_core.shared import allow, current, exempt, owner, room
from ema_core.shared.limits import check_waiting

Kind = Literal["prepare", "train", "evaluate", "persona", "gap", "substitute-base", "judge", "inside"]
JobStatus = Literal["queued", "running", "done", "failed", "cancelled"]
KEEP_ENDED = 200
RANK_STEP = 1e-3


class Job(BaseModel):
    """``share`` (0 to 1) and ``activity`` say how far it is; ``rank`` orders the queue, ``after`` names jobs that come first.

    ``owner`` is who queued it in a shared room ("": nobody in particular), between whom ``fair`` decides; ``first``: it was moved before
    everybody's. ``seconds`` is what it was estimated to take, 0 where that is not known.
    """

    id: str
    kind: Kind
    payload: dict[str, Any] = Field(default_factory=dict)
    status: JobStatus = "queued"
    rank: float = 0.0
    created: float = 0.0
    started: float | None = None
    finished: float | None = None
    share: float = 0.0
    activity: str = ""
    error: str = ""
    hint: str = ""
    cancel: bool = False
    after: list[str] = Field(default_factory=list)
    owner: str = ""
    first: bool = False
    seconds: float = 0.0

    @property
    def runs(self) -> list[str]:
        return list(self.payload.get("runs", []))


def folder() -> Path:
    return settings().queue / "jobs"


@contextmanager
def _locked() -> Iterator[None]:
    writable(folder())
    with FileLock(settings().queue / "queue.lock"):
        yield


def _write(job: Job) -> Job:
    write_json(folder() / f"{job.id}.json", job.model_dump(mode="json"))
    return job


def jobs() -> list[Job]:
    """Every job, in the order in which they run; ended ones keep their place. Where several people wait, what runs stands before what
    waits, and that as ``fair`` will take it."""
    found = _by_rank()
    if len({job.owner for job in found if job.status in ("queued", "running")}) < 2:
        return found
    rest = [job for job in found if job.status not in ("queued", "running")]
    running = [job for job in found if job.status == "running"]
    return rest + running + [place.job for place in fair.in_order(found)]


def _by_rank() -> list[Job]:
    found = []
    try:
        entries = [(entry.path, entry.stat()) for entry in os.scandir(folder()) if entry.name.endswith(".json")]
    except OSError:
        return []
    for path, stat in entries:
        try:
            found.append(_read(path, stat.st_mtime_ns, stat.st_ino))
        except (ValueError, OSError):
            continue  # torn by a full disk, or just taken away
    return sorted(found, key=lambda job: (job.rank, job.id))


@lru_cache(maxsize=4096)
def _read(path: str, version: int, inode: int) -> Job:
    """A job's file, which is only ever replaced: thirty browsers ask every second."""
    return Job.model_validate(read_json(Path(path)))


def get(job_id: str) -> Job:
    """One job.

    Raises:
        EmaError: there is none.
    """
    try:
        return Job.model_validate(read_json(folder() / f"{job_id}.json"))
    except (FileNotFoundError, ValueError):
        raise EmaError(f'There is no job "{job_id}".', "It may have been cleared away after it ended.") from None


def found(job_id: str) -> Job | None:
    """One job; None where it ended long ago and was cleared away."""
    try:
        return get(job_id)
    except EmaError:
        return None


def allow_more(runs: int = 0, others: int = 0) -> None:
    """Ask before several are queued, so that not half of them are.

    Raises:
        EmaError: who acts may start nothing, or not have as many waiting.
    """
    allow()
    if not exempt():
        waiting = [job.kind for job in _by_rank() if job.status == "queued" and job.owner == owner()]
        trains = waiting.count("train")
        check_waiting(runs, others, trains, len(waiting) - trains)


def enqueue(kind: Kind, payload: dict[str, Any], after: Sequence[str] = (), seconds: float = 0.0) -> Job:
    """Add a job at the end of the queue; it waits for the jobs ``after``, and fails if one of them does.

    Raises:
        EmaError: who acts may start nothing, or not have more waiting.
    """
    allow_more(*((1, 0) if kind == "train" else (0, 1)))
    now = time.time()
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime(now))
    name = f"{stamp}-{kind}-{random.SystemRandom().randrange(16**5):05x}"
    job = Job(id=name, kind=kind, payload=payload, rank=now, created=now, after=list(after), owner=owner(), seconds=seconds)
    with _locked():
        return _write(job)


def change(job_id: str, **changes: Any) -> Job:
    """Change fields of a job as it is on disk now."""
    with _locked():
        return _write(get(job_id).model_copy(update=changes))


def cancel(job_id: str) -> Job:
    """Take a waiting job out of the queue, or ask a running one to end.

    Raises:
        EmaError: it is not the acting person's.
    """
    with _locked():
        job = get(job_id)
        allow(job.owner)
        if job.status == "queued":
            return _write(job.model_copy(update={"status": "cancelled", "finished": time.time()}))
        return _write(job.model_copy(update={"cancel": True})) if job.status == "running" else job


def put_back(job: Job) -> Job:
    """Queue a cancelled job again, at its old place.

    Raises:
        EmaError: it is not the acting person's, or more would wait than may.
    """
    allow(job.owner)
    allow_more(*((1, 0) if job.kind == "train" else (0, 1)))
    with _locked():
        return _write(job.model_copy(update={"status": "queued", "finished": None, "cancel": False, "activity": ""}))


def to_front(job_id: str) -> Job:
    """Let a waiting job run next; a participant's next of their own, in the places that these have.

    Raises:
        EmaError: it is not the acting person's.
    """
    with _locked():
        job = get(job_id)
        allow(job.owner)
        waiting = [other for other in _by_rank() if other.status == "queued"]
        if exempt():
            first = min((other.rank for other in waiting), default=0.0)
            return _write(job.model_copy(update={"rank": first - 1, "first": current() is not None}))
        own = [other for other in waiting if other.owner == job.owner]
        ranks = [other.rank for other in own]
        for other, rank in zip([job, *(other for other in own if other.id != job.id)], ranks, strict=False):
            _write(other.model_copy(update={"rank": rank}))
        return get(job_id)


Move = Literal["up", "down", "first", "last"]


def move(job_id: str, where: Move) -> Job:
    """Give a waiting job another place among the waiting ones, in a shared room among its owner's; where it has that place already
    nothing changes.

    Raises:
        EmaError: there is no such job, it does not wait any more, or it is not the acting person's.
    """
    if where == "first" and current() is not None:
        return to_front(job_id)
    with _locked():
        asked = get(job_id)
        allow(asked.owner)
        waiting = [job for job in _by_rank() if job.status == "queued" and (exempt() or job.owner == asked.owner)]
        old = next((place for place, job in enumerate(waiting) if job.id == job_id), None)
        if old is None:
            raise EmaError(f"The job {job_id} is {get(job_id).status}; only waiting jobs have a place in the queue.")
        new = {"up": max(0, old - 1), "down": min(len(waiting) - 1, old + 1), "first": 0, "last": len(waiting) - 1}[where]
        ranks = [job.rank for job in waiting]
        for place in range(1, len(ranks)):  # equal ones would fall back to the order of their ids
            ranks[place] = max(ranks[place], ranks[place - 1] + RANK_STEP)
        waiting.insert(new, waiting.pop(old))
        for job, rank in zip(waiting, ranks, strict=True):
            if job.rank != rank:
                _write(job.model_copy(update={"rank": rank}))
    return get(job_id)


def waits_for(job: Job) -> list[str]:
    """Jobs that it comes after, and runs that an evaluation still waits for: a paused one keeps its evaluation waiting, too.

    One ``despite_failures`` (of a study) goes on without the runs that failed or are gone.

    Raises:
        EmaError: one of them failed, or is gone.
    """
    waiting = []
    for before in filter(None, map(found, job.after)):
        if before.status in ("failed", "cancelled"):
            raise EmaError(
                f"What it needs first ({before.kind}) {before.status}. {before.error}".strip(), before.hint or "Start it again."
            )
        if before.status != "done":
            waiting.append(before.id)
    if waiting:
        return waiting
    if job.kind != "evaluate":
        return []
    tolerant = bool(job.payload.get("despite_failures"))
    for run_id in job.runs:
        try:
            state = RunDirectory.open(run_id).state()
        except EmaError:
            if tolerant:
                continue
            raise
        if state.status is Status.FAILED:
            if tolerant:
                continue
            raise EmaError(f"The run {run_id} failed, so there is nothing to evaluate.", "Resume it, then evaluate it.")
        if state.status not in (Status.DONE, Status.STOPPED):
            waiting.append(run_id)
    return waiting


def claim() -> Job | None:
    """The next job that need not wait (``fair``), now ``running``; none while the room's queue is paused. Only the holder of the worker's
    lock calls this."""
    if room.paused():
        return None
    with _locked():
        known = _by_rank()
        _clear(known)
        job = fair.choose(known, _ready)
        if job is None:
            return None
        return _write(job.model_copy(update={"status": "running", "started": time.time(), "share": 0.0, "activity": ""}))


def _ready(job: Job) -> bool:
    """Need it not wait? One whose forerunner failed fails here, too."""
    try:
        return not waits_for(job)
    except EmaError as error:
        _write(job.model_copy(update={"status": "failed", "finished": time.time(), "error": error.message, "hint": error.hint}))
        run_never_began(job, error)
        return False


def _clear(known: Sequence[Job]) -> None:
    """Of the ended jobs only the newest stay; failed ones all do."""
    ended = sorted((job for job in known if job.status in ("done", "cancelled")), key=lambda job: job.finished or 0)
    for old in ended[:-KEEP_ENDED]:
        (folder() / f"{old.id}.json").unlink(missing_ok=True)


def run_never_began(job: Job, error: EmaError) -> None:
    """The run of a training job that failed before the training says so itself, instead of waiting for ever."""
    for run_id in job.runs if job.kind == "train" else ():
        with suppress(EmaError):
            run = RunDirectory.open(run_id)
            if run.state().status is Status.QUEUED:
                run.update(status=Status.FAILED, error=error.message, hint=error.hint, finished=time.time())


def recover() -> list[Job]:
    """Put jobs that a dead worker left ``running`` back into the queue, at their old place."""
    with _locked():
        left = [job for job in jobs() if job.status == "running"]
        return [_write(job.model_copy(update={"status": "queued", "activity": ""})) for job in left]
