"""The queue: what runs, what waits and until when, what failed; order, cancel, and undo."""

from __future__ import annotations

import time

import streamlit as st

from ema_core.jobs import cancelled, launch, queue
from ema_core.jobs.forecast import Forecast, Turn, forecast
from ema_core.jobs.status import worker_status
from ema_core.runs import RunDirectory
from ema_core.shared import why_not
from pages.widgets.chrome import act, ago, duration, errors, notices, plain, show_error
from pages.widgets.person import whose
from pages.widgets.run_picker import run_info

WORDS = {
    "prepare": "Prepare the model",
    "train": "Train",
    "evaluate": "Evaluate",
    "persona": "Build the persona vector",
    "gap": "Score the safe pool",
    "substitute-base": "Make a substitute base",
    "judge": "Judge answers of",
    "inside": "Look inside",
}
SHOWN_FAILED_SECONDS = 3600
SHOWN = 5
"""So many jobs stand in the open; a study queues dozens."""
ARGS = {"slot": "queue"}


@st.fragment(run_every=2)
def queue_list() -> None:
    """Waiting and running jobs in their order, and what failed in the last hour; anew every two seconds."""
    with errors():
        jobs = queue.jobs()
        open_jobs = [job for job in jobs if job.status in ("queued", "running")]
        seen = forecast(open_jobs)
        _head(seen, any(job.status == "running" for job in open_jobs))
        notices("queue")
        waiting = [job.id for job in open_jobs if job.status == "queued"]
        for job in open_jobs[:SHOWN]:
            _row(job, seen.turns[job.id], waiting)
        if more := open_jobs[SHOWN:]:
            with st.expander(f"{len(more)} more in the queue", key="queue-more"):
                for job in more:
                    _row(job, seen.turns[job.id], waiting)
        for job in jobs:
            if job.status == "failed" and time.time() - (job.finished or 0) < SHOWN_FAILED_SECONDS:
                show_error(f"{_title(job)} failed {ago(job.finished or 0)}: {job.error}", job.hint)


def _head(seen: Forecast, working: bool) -> None:
    """What is left in all; cancel everything, and the way back. Stands there even when empty, so that nothing below jumps."""
    with st.container(horizontal=True, vertical_alignment="center", key="queue-head"):
        if not seen.waiting and not working:
            st.caption("The queue is empty. What is launched, swept or evaluated stands here with the time until it begins.")
        else:
            unknown = f", {seen.unknown} without an estimate" if seen.unknown else ""
            stands = "" if worker_status().alive else " No worker is running: nothing begins until it is there."
            st.markdown(f"**{seen.waiting} waiting · about {duration(seen.seconds)} in all**{unknown}.{stands}")
            st.button(
                "Cancel all waiting", key="queue-cancel-all", icon=":material/clear_all:", on_click=act, args=(cancelled.cancel_all,),
                kwargs=ARGS, disabled=not seen.waiting, help="What runs goes on. It can be undone.",
            )  # fmt: skip
        if gone := cancelled.last():
            count = len(gone.jobs)
            rests = (
                " A run that had not begun is kept, paused: resume or delete it in its card."
                if any(j.kind == "train" for j in gone.jobs)
                else ""
            )
            st.caption(f"{count} job{'s' if count > 1 else ''} cancelled {ago(gone.time)}.{rests}", width="content")
            st.button(
                "Undo", key="queue-undo", icon=":material/undo:", on_click=act, args=(cancelled.undo,), kwargs=ARGS,
                help="Puts them back, each at its old place.",
            )  # fmt: skip


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


def _row(job: queue.Job, turn: Turn, waiting: list[str]) -> None:
    with st.container(border=True, key=f"job-{job.id}", gap="xsmall"):
        if job.status == "running":
            left = "" if turn.takes is None else f" · {duration(turn.takes)} left"
            st.progress(min(1.0, max(0.0, job.share)), text=f"{plain(_title(job))} · {plain(job.activity or 'starting')}{left}")
            if job.cancel:
                st.caption("Asked to end.")
        else:
            st.markdown(f"{waiting.index(job.id) + 1}\\. {plain(_title(job))} · {_when(job, turn)}")
        if why_not(job.owner):
            return
        with st.container(horizontal=True):
            if job.status == "queued":
                for label, where, icon, off in (
                    ("Up", "up", "arrow_upward", job.id == waiting[0]),
                    ("Down", "down", "arrow_downward", job.id == waiting[-1]),
                    ("Run next", "first", "vertical_align_top", job.id == waiting[0]),
                ):
                    st.button(
                        label, key=f"{where}-{job.id}", icon=f":material/{icon}:", on_click=act, args=(queue.move, job.id, where),
                        kwargs=ARGS, disabled=off, type="tertiary",
                    )  # fmt: skip
            st.button(
                "Cancel", key=f"cancel-{job.id}", icon=":material/close:", on_click=act, args=(cancel_job, job), kwargs=ARGS,
                disabled=job.cancel, type="tertiary",
            )  # fmt: skip


def _when(job: queue.Job, turn: Turn) -> str:
    takes = "nobody can say how long" if turn.takes is None else f"takes about {duration(turn.takes)}"
    if turn.starts is None:
        what = "for its run: resume that, or cancel this" if job.kind == "evaluate" else "for what is not in the queue"
        return f"waits {what} · {takes}"
    return f"begins {'next' if turn.starts < 1 else f'in about {duration(turn.starts)}'} · {takes}"


def cancel_job(job: queue.Job) -> None:
    """A run in training is stopped (and says so); what waits leaves the queue, with what cannot go on without it."""
    if job.status == "queued":
        cancelled.cancel([job.id])
    elif job.kind == "train":
        launch.request(RunDirectory.open(job.runs[0]), "stop")
    else:
        queue.cancel(job.id)
