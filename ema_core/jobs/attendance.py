"""Everybody in the room with their runs, what waits of theirs and what the worker did for them: for the page Room and ``ema room``."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

from ema_core.jobs import fair, queue
from ema_core.runs import origin_of, run_ids
from ema_core.shared import people


def attendance() -> list[dict[str, Any]]:
    """A row a person, who was seen last at the front: ``name, role, here, seen, page, runs, waiting, at_work, seconds`` (of the worker, in the
    last hour)."""
    now, jobs, seen = time.time(), queue.jobs(), people.seen()
    spent = fair.used(jobs, now)
    waiting = Counter(job.owner for job in jobs if job.status == "queued")
    at_work = {job.owner for job in jobs if job.status == "running"}
    runs = owned()
    rows = []
    for known in people.everybody():
        last = seen.get(known.name, {})
        when = float(last.get("time") or known.created)
        rows.append(
            {
                "name": known.name, "role": known.person.role, "here": now - when < people.HERE_SECONDS, "seen": when,
                "page": str(last.get("page") or ""), "runs": runs[known.name], "waiting": waiting[known.name],
                "at_work": known.name in at_work, "seconds": round(spent.get(known.name, 0.0), 1),
            }
        )  # fmt: skip
    return sorted(rows, key=lambda row: (not row["here"], row["name"].casefold()))


def owned() -> Counter[str]:
    """How many runs each has."""
    return Counter(origin_of(run_id)[0] for run_id in run_ids())
