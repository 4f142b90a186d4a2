"""Runs as they go: progress, buttons, curves. Anew every second while one of them is at work."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress

import streamlit as st

from ema_core.errors import EmaError
from ema_core.jobs import launch, queue
from ema_core.jobs.cells import has_adapter
from ema_core.jobs.status import worker_status
from ema_core.runs import RunDirectory, RunState, Status
from ema_core.settings import settings
from ema_core.shared import why_not
from ema_core.training.best import best_state
from pages.widgets.chat_models import beside
from pages.widgets.chrome import act, ago, duration, errors, notices, plain, show_error, size, status_badge
from pages.widgets.curves import curves
from pages.widgets.person import read_only
from pages.widgets.probe_curves import probe_curves
from pages.widgets.recorded import BARE
from pages.widgets.run_events import RunEvents
from pages.widgets.run_picker import newest_first, remembered, run_info, show_runs
from pages.widgets.step_slider import step_slider

ACTIVE_TICK, IDLE_TICK = 1.0, 5.0
"""Seconds between looks at the files: while a run is at work, and else (someone may resume it elsewhere)."""
QUIET_SECONDS = 30


def live_runs(run_ids: Sequence[str]) -> None:
    """The chosen runs' cards and curves, as a fragment of its own."""
    active = _any_active(run_ids)
    st.fragment(_panel, run_every=ACTIVE_TICK if active else IDLE_TICK)(tuple(run_ids), active)


def _any_active(run_ids: Sequence[str]) -> bool:
    """A run that is gone counts as over."""
    return any(RunDirectory(settings().runs / run_id).state().status.active for run_id in run_ids)


def _panel(run_ids: tuple[str, ...], active: bool) -> None:
    with errors():
        runs = []
        for run_id in run_ids:
            with errors():  # one may have been deleted elsewhere
                runs.append(RunDirectory.open(run_id))
        states = {run.id: run.state() for run in runs}
        if any(state.status.active for state in states.values()) != active:
            st.rerun()  # another pace from here on, and what stands around the panel shows the new state
        events = {run.id: events_of(run) for run in runs}
        for run in runs:
            with errors():
                _card(run, states[run.id], events[run.id])
        if events:
            marker = step_slider(list(events.values()), states)
            curves(list(events.values()), marker)
            probe_curves(list(events.values()), states, marker)


def events_of(run: RunDirectory) -> RunEvents:
    """The session's copy of the run's events, brought up to date."""
    cache: dict[str, RunEvents] = st.session_state.setdefault("run-events", {})
    if run.id not in cache:
        info = run_info(run.id)
        facts = {"name": info.name, "defense_label": info.defense, "seed": info.seed, "recorded": info.recorded}
        stop = info.probes.stop_margin if info.probes else None
        cache[run.id] = RunEvents(run.id, facts, probed=info.probes is not None, stop_margin=stop, projected=info.projected)
    events = cache[run.id]
    events.advance(run)
    return events


def _card(run: RunDirectory, state: RunState, events: RunEvents) -> None:
    """Where the run stands, and what can be done about it, in as little room as it takes."""
    info = run_info(run.id)
    events.facts["name"] = info.name  # it may be renamed while it is on the page
    last = events.last
    total = last.get("total_steps") or state.total_steps
    step = max(state.step, last.get("step", 0))
    with st.container(border=True, key=f"card-{run.id}", gap="xsmall"):
        with st.container(horizontal=True, vertical_alignment="center", gap="small"):
            status_badge(state.status)
            if info.recorded:
                st.badge("recorded", color="violet", help="Trained elsewhere; it came with a recorded study.")
            st.markdown(f"**{plain(info.name or info.defense)}**", width="content")
            st.caption(plain(info.id), width="content")
            for tag in info.tags:
                st.badge(plain(tag), color="gray", icon=":material/sell:")
            if total and state.status is Status.DONE:
                st.caption(_progress(state, last, step, total), width="content")
        if info.problem:
            show_error(info.problem)
        if total and state.status is not Status.DONE:
            st.progress(min(1.0, step / total), text=_progress(state, last, step, total))
        for line in _lines(run, state, events):
            st.caption(plain(line))
        if state.status is Status.FAILED:
            show_error(state.error or "The run failed.", state.hint)
        notices(run.id)
        if state.status is Status.DONE:
            _next_steps(run)
        elif not read_only(state.owner):
            with st.container(horizontal=True, key=f"buttons-{run.id}"):
                _buttons(run, state)


def _next_steps(run: RunDirectory) -> None:
    """Where to go with a run that is done."""
    asked, there = has_adapter(run), run.evals.is_dir() and any(run.evals.glob("*/samples.jsonl"))
    with st.container(horizontal=True, gap="medium", key=f"next-{run.id}"):
        st.page_link(
            "pages/chat.py", label="Ask it", icon=":material/forum:", disabled=not asked,
            query_params={"m": beside(run.id, newest_first())} if asked else None,
            help="Beside its base and its undefended twin." if asked else BARE,
        )  # fmt: skip
        st.page_link(
            "pages/samples.py", label="Its answers", icon=":material/manage_search:", query_params={"run": run.id}, disabled=not there,
            help=None if there else "It has none yet: they come with its evaluation (Evaluate).",
        )  # fmt: skip
        if not there and asked:
            st.page_link("pages/evaluate.py", label="Evaluate", icon=":material/fact_check:", query_params={"run": run.id})
        st.page_link("pages/compare.py", label="Compare", icon=":material/compare_arrows:", query_params={"run": run.id})
        st.page_link("pages/inside.py", label="Inside", icon=":material/neurology:", query_params={"run": run.id})


def _progress(state: RunState, last: dict[str, float], step: int, total: int) -> str:
    parts = [f"step {step} of {total}"]
    if state.status is Status.RUNNING and last:
        parts += [f"{duration(last['seconds_left'])} left", f"{last['tokens_per_s']:.0f} tokens/s"]
    elif state.seconds:
        parts.append(f"{duration(state.seconds)} of training")
        if state.peak_memory:
            said = f" (estimated: {size(state.estimated['memory'])})" if "memory" in state.estimated else ""
            parts.append(f"{size(state.peak_memory)} of memory{said}")
    return " · ".join(parts)


def _lines(run: RunDirectory, state: RunState, events: RunEvents) -> list[str]:
    """What else there is to say about where the run stands."""
    lines, last = list(state.notes), events.last
    if state.status in (Status.DONE, Status.STOPPED) and len(events.probes) > 1:
        with suppress(EmaError):  # a spec that cannot be read is said above
            found = best_state(run, looks=events.probes)
            if found.step is not None and not found.final:
                lines.append(f"The best kept state is not its end. {found.words} It can be asked below, beside its settings.")
    if state.status is Status.QUEUED:
        lines.append(_place(run))
    if state.status is Status.PAUSED and not state.step:
        lines.append(
            "It never began: its place in the queue was given up. Resume it to queue it again; Delete is among its settings below."
        )
    if state.status is Status.RUNNING:
        if asked := run.requested():
            lines.append(f"Asked to {asked}: it does after this step, with a checkpoint.")
        elif state.activity not in ("", "training"):
            lines.append(state.activity.capitalize() + " …")
        elif last and time.time() - last["time"] > QUIET_SECONDS:
            lines.append(f"The last step ended {ago(last['time'])}.")
    if state.status is Status.INTERRUPTED:
        saved = run.checkpoint_steps()
        where = f"after step {saved[-1]}" if saved else "at the beginning"
        lines.append(f"Its process ended without a word. Resume it: it goes on {where}; a starting worker does so by itself.")
    return lines


def _place(run: RunDirectory) -> str:
    waiting = [job for job in queue.jobs() if job.status in ("queued", "running")]
    place = next((number for number, job in enumerate(waiting) if job.kind == "train" and run.id in job.runs), None)
    if place is None:
        return "It is in no queue: resume it to queue it again."
    if not worker_status().alive:
        return f"Place {place + 1} in the queue; no worker is running (see the sidebar)."
    return "Next in the queue." if place == 0 else f"In the queue behind {place} other job{'s' if place > 1 else ''}."


def _buttons(run: RunDirectory, state: RunState) -> None:
    """Only what this state allows. Pressing one reruns the page, so that its pace fits."""
    kwargs = {"slot": run.id, "rerun": True}
    if state.status.active:
        st.button(
            "Pause",
            key=f"pause-{run.id}",
            icon=":material/pause:",
            on_click=act,
            args=(launch.request, run, "pause"),
            kwargs=kwargs,
        )
    if state.status.active or state.status in (Status.PAUSED, Status.INTERRUPTED):
        st.button(
            "Stop", key=f"stop-{run.id}", icon=":material/stop:", on_click=act, args=(launch.request, run, "stop"), kwargs=kwargs,
            help="Ends it here and keeps the adapter so far, which can be evaluated. It can be resumed later.",
        )  # fmt: skip
    waits_nowhere = state.status is Status.QUEUED and launch.train_job(run) is None
    if state.status.resumable or waits_nowhere:
        st.button(
            "Resume", key=f"resume-{run.id}", icon=":material/play_arrow:", on_click=act, args=(launch.resume, run), kwargs=kwargs,
            help="Goes on from the last checkpoint.",
        )  # fmt: skip


def delete_button(run: RunDirectory, state: RunState) -> None:
    """Asks before it deletes. Stands outside the panel that updates, so that the question stays open."""
    if why_not(state.owner):
        return
    running = state.status is Status.RUNNING
    reason = "Stop it first." if running else None
    with st.popover("Delete", icon=":material/delete:", key=f"delete-{run.id}", disabled=running, help=reason):
        st.text("Delete this run with its checkpoints and evaluations? It cannot be brought back.")
        st.button("Delete for good", key=f"really-delete-{run.id}", type="primary", on_click=act, args=(_delete, run))


def _delete(run: RunDirectory) -> None:
    launch.delete(run)
    st.session_state.get("run-events", {}).pop(run.id, None)
    show_runs([run_id for run_id in remembered() if run_id != run.id])
    st.session_state["notice-page"] = ("done", f"Deleted {run.id}.", "")
