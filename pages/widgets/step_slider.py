"""A step of training to look at: a marker through all curves, and the values of each run there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import streamlit as st

from ema_core.runs import RunState
from pages.widgets.run_events import Event, RunEvents

KEY, MAX = "curve-step", "curve-step-max"


def step_slider(runs: Sequence[RunEvents], states: Mapping[str, RunState]) -> int | None:
    """The slider and the table; the step it stands at, or None at its right end, which means the newest."""
    total = max((int(run.last.get("total_steps") or states[run.run_id].total_steps or 0) for run in runs), default=0)
    if total < 2 or not any(run.steps for run in runs):
        return None
    state = st.session_state
    if state.get(KEY) is None or state[KEY] >= state.get(MAX, 0) or state[KEY] > total:
        state[KEY] = total  # it stood at the right end, wherever that was
    state[MAX] = total
    step = st.slider(
        "Step", 0, total, key=KEY, persist_state="session",
        help="A marker through all curves, with the values and the answers there. At the right end: the newest.",
    )  # fmt: skip
    marker = None if step >= total else step
    st.dataframe(
        pd.DataFrame([_values(run, marker) for run in runs]), hide_index=True, key="step-values", placeholder="",
        column_config={
            "Run": st.column_config.TextColumn("Run", width=220, pinned=True),
            **{
                name: st.column_config.NumberColumn(name, format=form, help=help)
                for name, form, help in (
                    ("Cross-entropy", "%.3f", "Nats a response token."),
                    ("Penalty", "%.4g", "Of all defenses, as added to the loss."),
                    ("Share of loss", "%.1f %%", "The penalty in % of the total loss."),
                    ("General margin", "%+.2f", "Nats a token, change from the base, at the newest live probe up to this step."),
                    ("In-domain margin", "%+.2f", "The same on pairs of the narrow domain."),
                )
            },
        },
    )  # fmt: skip
    return marker


def _values(run: RunEvents, marker: int | None) -> dict[str, Any]:
    at, probe = event_at(run.steps, marker), event_at(run.probes, marker)
    penalties = at.get("penalties") or {}
    added = sum(value.get("weighted") or 0.0 for value in penalties.values()) if penalties else None
    loss = at.get("loss") or 0.0
    return {
        "Run": run.name, "Step": at.get("step"), "Cross-entropy": at.get("ce"), "Penalty": added,
        "Share of loss": 100 * added / loss if added is not None and loss > 0 else None,
        "Probed at": probe.get("step"), "General margin": probe.get("general"), "In-domain margin": probe.get("in_domain"),
    }  # fmt: skip


def event_at(events: Sequence[Event], marker: int | None) -> Event:
    """The newest event up to the marker; an empty one where there is none."""
    return next((event for event in reversed(events) if marker is None or event["step"] <= marker), {})
