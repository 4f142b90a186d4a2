"""Whose job is next, where several people share one worker: that of whom it worked for least in the last hour. Torch-free.

Everybody's own jobs keep their order, nothing goes before what it needs, and with one owner all is as it was: by rank.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ema_core.jobs.queue import Job

LATELY = 3600.0
"""Seconds of the past that count."""
GUESS = 120.0
"""Seconds of a job of which nothing is known."""


@dataclass(frozen=True)
class Place:
    """A waiting job's: how many come before it, and in about how many seconds it begins."""

    job: Job
    before: int
    seconds: float


def used(jobs: Sequence[Job], now: float) -> dict[str, float]:
    """Seconds that the worker spent lately, by owner."""
    found: dict[str, float] = {}
    for job in jobs:
        if job.started is None or job.status == "queued":
            continue
        end = now if job.status == "running" else job.finished or job.started
        if (seconds := min(end, now) - max(job.started, now - LATELY)) > 0:
            found[job.owner] = found.get(job.owner, 0.0) + seconds
    return found


def choose(
    jobs: Sequence[Job], ready: Callable[[Job], bool], now: float | None = None, spent: dict[str, float] | None = None
) -> Job | None:
    """The waiting job that the worker takes next: what was moved to the front for all, then the next one of who had least. ``jobs`` are by
    rank. A person whose jobs all wait for something is passed over."""
    waiting = [job for job in jobs if job.status == "queued"]
    for job in waiting:
        if job.first and ready(job):
            return job
    spent = used(jobs, now or time.time()) if spent is None else spent
    of: dict[str, list[Job]] = {}
    for job in waiting:
        if not job.first:
            of.setdefault(job.owner, []).append(job)
    for owner in sorted(of, key=lambda name: (spent.get(name, 0.0), of[name][0].rank, of[name][0].id)):
        for job in of[owner]:
            if ready(job):
                return job
    return None


def in_order(jobs: Sequence[Job], now: float | None = None) -> list[Place]:
    """The waiting jobs as they will be taken, if nothing else comes; ``jobs`` are by rank."""
    now = now or time.time()
    typical = _typical(jobs)
    waiting = {job.id: job for job in jobs if job.status == "queued"}
    running = [job for job in jobs if job.status == "running"]
    spent, begins = used(jobs, now), 0.0
    for job in running:
        left = _left(job, typical, now)
        begins += left
        spent[job.owner] = spent.get(job.owner, 0.0) + left
    trains = {run: job.id for job in waiting.values() if job.kind == "train" for run in job.runs}
    found: list[Place] = []
    while waiting:

        def ready(job: Job) -> bool:
            first = [*job.after, *(trains.get(run, "") for run in job.runs if job.kind == "evaluate")]
            return not any(name in waiting for name in first if name != job.id)

        rest = [job for job in jobs if job.id in waiting]
        taken = choose(rest, ready, now, spent) or rest[0]  # what waits for each other, nobody can help
        found.append(Place(taken, len(found) + len(running), begins))
        seconds = _seconds(taken, typical)
        begins += seconds
        spent[taken.owner] = spent.get(taken.owner, 0.0) + seconds
        del waiting[taken.id]
    return found


def _typical(jobs: Sequence[Job]) -> dict[str, float]:
    """Median seconds of the jobs that are done, by kind."""
    took: dict[str, list[float]] = {}
    for job in jobs:
        if job.status == "done" and job.started and job.finished:
            took.setdefault(job.kind, []).append(job.finished - job.started)
    return {kind: statistics.median(seconds) for kind, seconds in took.items()}


def _seconds(job: Job, typical: dict[str, float]) -> float:
    return job.seconds or typical.get(job.kind, GUESS)


def _left(job: Job, typical: dict[str, float], now: float) -> float:
    """By how far it is, once that says something; else by what was estimated."""
    gone = now - (job.started or now)
    if job.share > 0.05:
        return gone * (1 - job.share) / job.share
    return max(0.0, _seconds(job, typical) - gone)
