"""The queue: one JSON file a job, changed under one lock. The app and the CLI write it, the worker reads it. Torch-free."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock
from pydantic import BaseModel, Field

from ema_core.errors import EmaError
from ema_core.files import read_json, write_json
from ema_core.runs import RunDirectory, Status
from ema_core.settings import settings, writable

Kind = Literal["prepare", "train", "evaluate", "persona", "gap", "substitute-base", "judge", "inside"]
JobStatus = Literal["queued", "running", "done", "failed", "cancelled"]
KEEP_ENDED = 200
RANK_STEP = 1e-3


class Job(BaseModel):
    """``share`` (0 to 1) and ``activity`` say how far it is; ``rank`` orders the queue, ``after`` names jobs that come first."""

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
    """Every job, in the order in which they run; ended ones keep their place."""
    found = []
    for path in folder().glob("*.json"):
        try:
            found.append(Job.model_validate(read_json(path)))
        except (ValueError, OSError):
            continue  # torn by a full disk, or just taken away
    return sorted(found, key=lambda job: (job.rank, job.id))


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


def enqueue(kind: Kind, payload: dict[str, Any], after: Sequence[str] = ()) -> Job:
    """Add a job at the end of the queue; it waits for the jobs ``after``, and fails if one of them does."""
    now = time.time()
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime(now))
    name = f"{stamp}-{kind}-{random.SystemRandom().randrange(16**5):05x}"
    job = Job(id=name, kind=kind, payload=payload, rank=now, created=now, after=list(after))
    with _locked():
        return _write(job)


def change(job_id: str, **changes: Any) -> Job:
    """Change fields of a job as it is on disk now."""
    with _locked():
        return _write(get(job_id).model_copy(update=changes))


def cancel(job_id: str) -> Job:
    """Take a waiting job out of the queue, or ask a running one to end."""
    with _locked():
        job = get(job_id)
        if job.status == "queued":
            return _write(job.model_copy(update={"status": "cancelled", "finished": time.time()}))
        return _write(job.model_copy(update={"cancel": True})) if job.status == "running" else job


def put_back(job: Job) -> Job:
    """Queue a cancelled job again, at its old place."""
    with _locked():
        return _write(job.model_copy(update={"status": "queued", "finished": None, "cancel": False, "activity": ""}))


def to_front(job_id: str) -> Job:
    """Let a waiting job run next."""
    with _locked():
        first = min((job.rank for job in jobs() if job.status == "queued"), default=0.0)
        return _write(get(job_id).model_copy(update={"rank": first - 1}))


Move = Literal["up", "down", "first", "last"]


def move(job_id: str, where: Move) -> Job:
    """Give a waiting job another place among the waiting ones; where it has that place already nothing changes.

    Raises:
        EmaError: there is no such job, or it does not wait any more.
    """
    with _locked():
        waiting = [job for job in jobs() if job.status == "queued"]
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
    """The next job that need not wait, now ``running``. Only the holder of the worker's lock calls this."""
    with _locked():
        known = jobs()
        _clear(known)
        for job in known:
            if job.status != "queued":
                continue
            try:
                if not waits_for(job):
                    return _write(
                        job.model_copy(update={"status": "running", "started": time.time(), "share": 0.0, "activity": ""})
                    )
            except EmaError as error:
                _write(
                    job.model_copy(update={"status": "failed", "finished": time.time(), "error": error.message, "hint": error.hint})
                )
                run_never_began(job, error)
    return None


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
