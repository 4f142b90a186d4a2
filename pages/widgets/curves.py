"""The training curves of several runs, overlaid: which quantity, how smooth."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import streamlit as st

from ema_core.figures import PENALTIES, QUANTITIES, curve_traces
from pages.widgets.live_curve import live_curve
from pages.widgets.run_events import RunEvents

TITLES = {
    "ce": "Cross-entropy",
    "weighted": "Penalty, weighted",
    "share": "Penalty, share of the loss",
    "raw": "Penalty, raw",
    "loss": "Total loss",
    "learning_rate": "Learning rate",
    "grad_norm": "Gradient norm",
    "tokens_per_s": "Speed",
}
DASHES = ("solid", "dot", "dash", "longdash", "dashdot")


HELP = """Cross-entropy: how well the narrow data is learned; the loss of every run, defended or not. Penalty, weighted: what the defenses add to it \
(strength × penalty); as a share of the loss it says who leads, the task or the defense. The page's sliders name each \
defense's unit; the paper that compares them: arXiv 2508.06249."""


def curves(runs: Sequence[RunEvents], marker: int | None = None) -> None:
    """Controls, then a chart a quantity. Called in a fragment: a tick draws only what is new, and the zoom stays."""
    st.session_state.setdefault("curve-smoothing", 0.6)
    shown = st.pills(
        "Curves", list(TITLES), selection_mode="multi", default=["ce", "weighted"], key="curves", bind="query-params",
        format_func=TITLES.__getitem__, help=HELP,
    )  # fmt: skip
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        smoothing = st.slider(
            "Smoothing", 0.0, 0.98, step=0.02, key="curve-smoothing", persist_state="session", width=240,
            help="Weight of the running mean; the thin line is what was measured. 0 shows only that.",
        )  # fmt: skip
        log = st.toggle("Log scale", key="curve-log", persist_state="session")
    steps = joined([run.table for run in runs])
    if steps.empty:
        st.info(
            "No step yet. The first one comes after the model is loaded and the data is encoded.", icon=":material/hourglass_empty:"
        )
        return
    penalties = joined([run.penalties for run in runs])
    columns = st.columns(2 if len(shown) > 1 else 1)
    for number, quantity in enumerate(key for key in TITLES if key in shown):
        with columns[number % len(columns)]:
            st.markdown(f"**{TITLES[quantity]}**")
            traces = told_apart(
                curve_traces(steps, penalties, quantity, smoothing), {run.run_id: run.defense_label for run in runs}
            )
            if traces:
                live_curve(
                    traces,
                    key=f"curve-{quantity}",
                    view=quantity,
                    y_title=QUANTITIES[quantity],
                    log=log,
                    raw=smoothing > 0,
                    marker=marker,
                )
            else:
                st.caption(
                    "No penalty: none of these runs has a defense with one, or it has not begun."
                    if quantity in PENALTIES
                    else "Not recorded."
                )


def told_apart(traces: Sequence[dict[str, Any]], labels: Mapping[str, str]) -> list[dict[str, Any]]:
    """The colour says which defense a curve belongs to; of curves with the same defenses each gets a dash of its own."""
    seen: dict[tuple[str, ...], int] = {}
    found = []
    for trace in traces:
        run_id, *rest = trace["id"].split("/")
        key = (re.sub(r"=[^+]*", "", labels[run_id]), *rest)
        number = seen[key] = seen.get(key, -1) + 1
        found.append({**trace, "dash": DASHES[number % len(DASHES)]} if number else trace)
    return found


def joined(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """One table of all that hold something."""
    filled = [frame for frame in frames if not frame.empty]
    return pd.concat(filled, ignore_index=True) if filled else pd.DataFrame()
