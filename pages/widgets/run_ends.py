"""Says when a run has ended, on whatever page is open: once as a toast, and as a line in the sidebar until it was looked at."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import streamlit as st

from ema_core.runs import RunDirectory, RunState, Status, run_ids
from ema_core.settings import settings
from pages.widgets.chrome import duration, plain
from pages.widgets.run_picker import run_info

KEY = "run-ends"
MOST_LINES = 4
ENDS: dict[Status, tuple[str, str]] = {
    Status.DONE: ("is done", ":material/check_circle:"),
    Status.FAILED: ("failed", ":material/error:"),
    Status.STOPPED: ("was stopped", ":material/stop_circle:"),
    Status.INTERRUPTED: ("was interrupted", ":material/power_off:"),
}


@dataclass
class Watch:
    """What a session knows: the state in which each run was seen last, and the ends that nobody looked at."""

    seen: dict[str, Status] = field(default_factory=dict)
    written: dict[str, int] = field(default_factory=dict)
    lines: dict[str, str] = field(default_factory=dict)
    begun: bool = False
    since: float = field(default_factory=time.time)

    def look(self, versions: Mapping[str, int] | None = None) -> list[str]:
        """Runs that ended since the last look, in which only states are read that may have changed. What had ended before the first
        look is not told. ``versions``: of each run's state, as they are now."""
        ended, runs = [], settings().runs
        versions = _versions(runs) if versions is None else versions
        for run_id, version in versions.items():
            before, run = self.seen.get(run_id), RunDirectory(runs / run_id)
            if before is not None and not before.active and version == self.written[run_id]:
                continue
            state = run.state()
            new = (
                before is None and max(state.finished or 0.0, state.updated) > self.since
            )  # not one that was brought from elsewhere
            if self.begun and state.status in ENDS and (new or (before is not None and before.active)):
                ended.append(run_id)
            self.seen[run_id], self.written[run_id] = state.status, version
        for gone in {*self.seen, *self.lines} - set(versions):
            for known in (self.seen, self.written, self.lines):
                known.pop(gone, None)
        self.begun = True
        return ended


def _versions(runs: Path) -> dict[str, int]:
    return {run_id: _written(runs / run_id) for run_id in run_ids()}


def _written(run: Path) -> int:
    try:
        return (run / "state.json").stat().st_mtime_ns
    except OSError:
        return 0


_shared_versions = st.cache_resource(_versions, ttl=1.0, max_entries=4, show_spinner=False)
"""One look at the disk for all browsers of a room."""


def run_ends() -> None:
    """Stands in the sidebar's fragment, so it looks every two seconds."""
    watch: Watch = st.session_state.setdefault(KEY, Watch())
    for run_id in watch.look(_shared_versions(settings().runs)):
        state = RunDirectory(settings().runs / run_id).state()
        watch.lines[run_id] = _words(state)
        st.toast(
            f"{_name(run_id)} {plain(watch.lines[run_id])}", icon=ENDS.get(state.status, ENDS[Status.DONE])[1], duration="long"
        )
    _lines(watch)


def _lines(watch: Watch) -> None:
    if not watch.lines:
        return
    with st.container(border=True, key="run-ends", gap="xsmall"):
        for run_id in list(watch.lines)[::-1][:MOST_LINES]:
            icon = ENDS.get(watch.seen.get(run_id, Status.DONE), ENDS[Status.DONE])[1]
            st.page_link("pages/fine_tune.py", label=_name(run_id), icon=icon, query_params={"run": run_id, "part": "Runs"})
            st.caption(plain(watch.lines[run_id]))
        if (more := len(watch.lines) - MOST_LINES) > 0:
            st.caption(f"and {more} more")
        st.button("Seen", key="run-ends-seen", type="tertiary", icon=":material/done_all:", on_click=watch.lines.clear)


def looked_at(run_ids: Iterable[str]) -> None:
    """These runs are on the page: nothing more to say of them."""
    watch: Watch = st.session_state.setdefault(KEY, Watch())
    for run_id in run_ids:
        watch.lines.pop(run_id, None)


def _words(state: RunState) -> str:
    words = ENDS.get(state.status, ENDS[Status.DONE])[0]
    at = f" at step {state.step} of {state.total_steps}" if state.total_steps and state.status is not Status.DONE else ""
    parts = [f"{words}{at}"]
    if state.status is Status.DONE and state.seconds:
        parts.append(f"after {duration(state.seconds)} of training")
    if state.status is Status.FAILED:
        parts.append(f": {state.error or 'no reason was written'} {state.hint}".rstrip())
    elif state.notes and "Ended early by its rule" in state.notes[-1]:
        parts.append(f". {state.notes[-1]}")
    return " ".join(parts).replace(" :", ":").replace(" .", ".")


def _name(run_id: str) -> str:
    info = run_info(run_id)
    return plain(info.name or f"{info.defense}, {info.dataset}, seed {info.seed}")
