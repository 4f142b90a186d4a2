"""What the parts of Vectors and scores share: jobs at work with their progress, and a choice that is in the address."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import streamlit as st

from ema_core.jobs import queue
from pages.widgets.chrome import act, ago, by_user, errors, plain, show_error


def progress(kind: str, what: Callable[[queue.Job], str], failed: str) -> None:
    """Jobs of this kind, followed; the page shows what came of them as soon as one has ended. ``failed`` begins the last one's reason."""
    before = _under_way(kind)
    st.fragment(_progress, run_every=2 if before else 8)(kind, what, failed, before)


def _under_way(kind: str) -> list[str]:
    return [job.id for job in queue.jobs() if job.kind == kind and job.status in ("queued", "running")]


def _progress(kind: str, what: Callable[[queue.Job], str], failed: str, before: list[str]) -> None:
    with errors():
        if _under_way(kind) != before:
            st.rerun()
        for job_id in before:
            job = queue.get(job_id)
            first = [one for one in map(queue.found, job.after) if one is not None and one.status in ("queued", "running")]
            if first:
                now = first[0]
                run = (now.runs or [now.kind])[0]
                st.progress(now.share, text=f"{plain(what(job))}: first {plain(run)} · {plain(now.activity or now.status)}")
            else:
                st.progress(min(1.0, job.share), text=f"{plain(what(job))}: {plain(job.activity or 'waiting for the worker')}")
            st.button("Cancel", key=f"{kind}-cancel-{job.id}", on_click=act, args=(queue.cancel, job.id), kwargs={"slot": kind})
        ended = [job for job in queue.jobs() if job.kind == kind and job.status in ("failed", "done")]
        ended.sort(key=lambda job: job.finished or 0)
        if ended and not before and ended[-1].status == "failed":
            show_error(f"{failed} {ago(ended[-1].finished or 0)}: {ended[-1].error}", ended[-1].hint)


def chosen(title: str, known: Iterable[str], parameter: str, key: str, label: Callable[[str], str], missing: str) -> str:
    """One of what is there, the newest first; the address names it in ``parameter``. ``missing``: what the address names is not."""
    ids, wanted = list(known), st.query_params.get(parameter)
    if wanted and wanted not in ids:
        show_error(f'{missing} "{wanted}".', "Those that are there can be chosen below.")
    if st.session_state.get(key) not in ids:
        st.session_state[key] = wanted if wanted in ids else ids[0]

    @by_user
    def to_address() -> None:
        st.query_params[parameter] = st.session_state[key]

    return st.selectbox(title, ids, key=key, format_func=label, on_change=to_address, width=640)
