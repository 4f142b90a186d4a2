"""The queue: what runs, what waits, what failed; cancel and run next."""

from __future__ import annotations

import time

import streamlit as st

from ema_core.jobs import launch, queue
from ema_core.runs import RunDirectory
from ema_core.shared import why_not
from pages.widgets.chrome import act, ago, errors, notices, plain, show_error
from pages.widgets.person import whose
from pages.widgets.run_picker import run_info

WORDS = {
    "prepare": "Prepare the model",
    "train": "Train",
    "evaluate": "Evaluate",
    "persona": "Build the persona vector",
    "gap": "Score the safe pool",
    "substitute-base": "Make a substitute base",
    "judge": "Judge answers",
}
SHOWN_FAILED_SECONDS = 3600
SHOWN = 5
"""So many jobs stand in the open; a study queues dozens."""


@st.fragment(run_every=2)
def queue_list() -> None:
    """Waiting and running jobs in their order, and what failed in the last hour; anew every two seconds."""
    with errors():
        jobs = queue.jobs()
        notices("queue")
        open_jobs = [job for job in jobs if job.status in ("queued", "running")]
        if not open_jobs:
            st.caption("The queue is empty.")
        for place, job in enumerate(open_jobs[:SHOWN]):
            _row(job, first=place == 0)
        if more := open_jobs[SHOWN:]:
            with st.expander(f"{len(more)} more in the queue", key="queue-more"):
                for job in more:
                    _row(job, first=False)
        for job in jobs:
            if job.status == "failed" and time.time() - (job.finished or 0) < SHOWN_FAILED_SECONDS:
                show_error(f"{_title(job)} failed {ago(job.finished or 0)}: {job.error}", job.hint)


def title_of(job: queue.Job) -> str:
    """What the job does, without whose it is."""
    names = [_name(run_id) for run_id in job.runs]
    return f"{WORDS[job.kind]} {'; '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}".strip()


def _title(job: queue.Job) -> str:
    return whose(job.owner) + title_of(job)


def _name(run_id: str) -> str:
    """What it was called, else what it is: an id says it less well."""
    info = run_info(run_id)
    return info.name or (f"{info.defense}, {info.dataset}, seed {info.seed}" if info.defense and info.dataset else run_id)


def _row(job: queue.Job, first: bool) -> None:
    with st.container(border=True, key=f"job-{job.id}", gap="xsmall"):
        if job.status == "running":
            st.progress(min(1.0, max(0.0, job.share)), text=f"{plain(_title(job))} · {plain(job.activity or 'starting')}")
            if job.cancel:
                st.caption("Asked to end.")
        else:
            waiting = f" · waits for {len(job.runs)} run(s) to finish" if job.kind == "evaluate" and _waits(job) else ""
            st.markdown(f"{plain(_title(job))}{waiting}")
        if why_not(job.owner):
            return
        with st.container(horizontal=True):
            st.button(
                "Cancel",
                key=f"cancel-{job.id}",
                on_click=act,
                args=(cancel_job, job),
                kwargs={"slot": "queue"},
                disabled=job.cancel,
            )
            if job.status == "queued" and not first:
                st.button("Run next", key=f"front-{job.id}", on_click=act, args=(queue.to_front, job.id), kwargs={"slot": "queue"})


def cancel_job(job: queue.Job) -> None:
    """A run in training is stopped (and says so); anything else leaves the queue."""
    if job.kind == "train":
        launch.request(RunDirectory.open(job.runs[0]), "stop")
    else:
        queue.cancel(job.id)


def _waits(job: queue.Job) -> bool:
    with errors():
        return bool(queue.waits_for(job))
    return False
