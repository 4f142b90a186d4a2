"""Is the worker there, is the model ready: in the sidebar of every page, and at length on Home."""

from __future__ import annotations

import streamlit as st

from ema_core.jobs import launch, queue
from ema_core.jobs.status import WorkerStatus, worker_status
from ema_core.models import EMBEDDED, find
from ema_core.shared import why_not
from pages.widgets.chrome import Color, act, errors, notices, plain
from pages.widgets.run_ends import run_ends


def preparing() -> queue.Job | None:
    """The job that gets the embedded model ready, waiting or running; the newest failed one where there is none."""
    found = [job for job in queue.jobs() if job.kind == "prepare"]
    under_way = [job for job in found if job.status in ("queued", "running")]
    failed = [job for job in found if job.status == "failed"]
    return (under_way or failed[-1:] or [None])[0]


@st.fragment(run_every=2)
def sidebar() -> None:
    """Worker and model in a few lines; anew every two seconds."""
    with errors():
        run_ends()
    with errors():
        worker_line("sidebar")
        if not find(EMBEDDED).ready:
            model_progress("sidebar")


def worker_line(where: str) -> None:
    """What the worker does, or a button that starts one. ``where`` tells two such places on one page apart."""
    status = worker_status()
    with st.container(horizontal=True, vertical_alignment="center", gap="xsmall"):
        st.caption("Worker", width="content")
        label, color = _badge(status)
        st.badge(label, color=color)
    if status.alive and status.job and status.activity:
        st.caption(plain(status.activity))
    if status.stuck:
        st.caption("It has given no sign for a while: in a long step, or stopped. `ema doctor` says more.")
    if not status.alive:
        st.caption("Runs wait until it is there. `ema app` restarts it, or:")
        started = "The worker is starting; that takes some seconds."
        st.button(
            "Start the worker", disabled=bool(why_not()), key=f"start-worker-{where}", on_click=act, args=(launch.start_worker,),
            kwargs={"slot": f"worker-{where}", "done": started},
        )  # fmt: skip
    notices(f"worker-{where}")


def model_progress(where: str) -> None:
    """How far the embedded model is, where it is not ready; a button where nothing is under way."""
    job = preparing()
    if job is not None and job.status != "failed":
        waiting = "waiting for the worker" if job.status == "queued" else job.activity or "preparing"
        st.progress(min(1.0, max(0.0, job.share)), text=f"Embedded model: {plain(waiting)} ({job.share:.0%})")
        return
    if job is None:
        st.caption("The embedded model is not here yet (93 MB, then half a minute to convert).")
    else:
        st.caption(f"Preparing the embedded model failed: {plain(job.error)} {plain(job.hint)}")
    st.button(
        "Prepare the model",
        disabled=bool(why_not()),
        key=f"prepare-model-{where}",
        on_click=act,
        args=(_prepare,),
        kwargs={"slot": f"worker-{where}"},
    )


def _prepare() -> None:
    launch.prepare_embedded()
    launch.start_worker()


def _badge(status: WorkerStatus) -> tuple[str, Color]:
    if not status.alive:
        return "not running", "red"
    if status.stuck:
        return "no sign of life", "orange"
    return ("working", "blue") if status.job else ("ready", "green")
