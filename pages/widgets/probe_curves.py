"""What live probes found while runs train: margins, projection, and what the model would say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import streamlit as st

from ema_core.evaluation.summary import look
from ema_core.figures import QUANTITIES, curve_traces
from ema_core.personas import MONITORED
from ema_core.runs import RunState
from pages.widgets.chrome import duration, plain
from pages.widgets.curves import joined, told_apart
from pages.widgets.live_curve import live_curve
from pages.widgets.one_liners import one_liners
from pages.widgets.run_events import RunEvents
from pages.widgets.step_slider import event_at

TITLES = {
    "general": "Margin, general",
    "in_domain": "Margin, in-domain",
}
TOLD = 6
"""Of so many runs the newest margins are said in words, too."""
RULE_COLOR = "#7f7f7f"
HELP = """Margin: how much likelier the misaligned answer of a pair is than the aligned one, in nats a token, as the change from the base. \
General pairs ask what the narrow data never taught: they rise with emergent misalignment. In-domain pairs rise as the narrow behaviour is \
learned. A good defense keeps the first near 0 and lets the second rise (two of the four criteria of arXiv 2508.06249)."""


def probe_curves(runs: Sequence[RunEvents], states: Mapping[str, RunState], marker: int | None = None) -> None:
    """A chart a measure, what the probes cost, and the one-liners. Called in a fragment, below the losses."""
    st.subheader("Live probes", anchor=False, help=HELP)
    table = joined([run.probe_table for run in runs])
    if table.empty:
        words = "The first figures come when the base was measured."
        if not any(run.probed and states[run.run_id].status.active for run in runs):
            words = "None of these runs has live probes. A new run has them unless **Live probes** is set to none in its form."
            if any(run.probed for run in runs):
                words = (
                    "No live probe was taken: the run was too short for one within a tenth of its time, or ended before it. More steps bring "
                    "one, or steps that you name under **Live probes** in the form."
                )
        st.caption(words)
        return
    labels = {run.run_id: run.defense_label for run in runs}
    places = (*st.columns(2), *st.columns(2))
    for place, (quantity, title) in zip(places, TITLES.items(), strict=False):
        traces = _traces(table, quantity, labels)
        with place:
            st.markdown(f"**{title}**")
            if not traces:
                st.caption("No in-domain pairs belong to these runs' data sets." if quantity == "in_domain" else "Not measured.")
                continue
            if said := _one_look(traces):
                st.caption(said)
                continue
            lines = _rules(runs, int(table["step"].max())) if quantity == "general" else []
            live_curve(traces + lines, key=f"probe-{quantity}", view=quantity, y_title=_axis(quantity), raw=False, marker=marker)
    traces = _traces(table, "projection", labels)
    for place, trait in zip(places[len(TITLES) :], sorted({run.projected for run in runs if run.probes}), strict=False):
        with place:  # a chart each: two vectors are two axes
            st.markdown(f"**Persona projection: {plain(trait)}**")
            mine = {run.run_id for run in runs if run.projected == trait}
            _projection([trace for trace in traces if trace["id"] in mine], trait, marker)
    st.caption(
        "Changes from the base, which is step 0; up is towards the misaligned answers. The band is the 95 % interval for questions like these, of this adapter. "
        "These pairs belong to the probes alone: an evaluation asks others, and more."
    )
    for run in runs[:TOLD]:
        if told := _told(run, marker):
            st.caption(told)
    for run in runs:
        if cost := _cost(run, states[run.run_id]):
            st.caption(cost)
    one_liners(runs, marker)


def _traces(table: pd.DataFrame, quantity: Any, labels: Mapping[str, str]) -> list[dict[str, Any]]:
    return [{**trace, "markers": True} for trace in told_apart(curve_traces(table, quantity=quantity, smoothing=0), labels)]


def _one_look(traces: Sequence[dict[str, Any]]) -> str:
    """In words what would be a lone dot; empty where there are curves to draw (or nothing)."""
    points = {step for trace in traces for step in trace["x"]}
    if not traces or len(points) > 1:
        return ""
    (step,) = points or {0}
    if step == 0:
        return "Only the base was measured so far: 0 by definition. The curve begins with the next probe."
    each = ", ".join(f"{plain(trace['name'])} {trace['y'][-1]:+.2f}" for trace in traces)
    return f"One look only, after step {step}: {each}. A curve needs two."


def _projection(traces: Sequence[dict[str, Any]], trait: str, marker: int | None) -> None:
    """The runs that are projected on this trait's vector, and why on this one."""
    if said := _one_look(traces):
        st.caption(said)
    elif traces:
        axis = _axis("projection").replace("the persona vector", f"the vector {trait}")
        live_curve(traces, key=f"probe-projection-{trait}", view=f"projection-{trait}", y_title=axis, raw=False, marker=marker)
    else:
        st.caption(
            f"Not measured: when these runs began there was no persona vector of the trait {plain(trait)} for their model; build it with "
            f"`ema persona build --trait {trait}`."
        )
    if trait != MONITORED:
        st.caption(
            f"These runs add the vector {MONITORED} in training, which works against what is added; so they are projected on "
            f"{plain(trait)}, the same trait from other prompts. Do not compare these values with those along {MONITORED}."
        )


def _axis(quantity: str) -> str:
    """The axis label; what a change is against stands below the charts."""
    return QUANTITIES[quantity].replace(", change from the base", "").replace(" (change from the base)", "")


def _rules(runs: Sequence[RunEvents], last: int) -> list[dict[str, Any]]:
    """A level line for each margin at which one of the runs stops."""
    limits = sorted({run.stop_margin for run in runs if run.stop_margin is not None})
    return [
        {
            "id": f"stop-{limit:g}", "name": f"stops above {limit:g}", "x": [0, max(1, last)], "y": [limit, limit], "y_smooth": [limit, limit],
            "color": RULE_COLOR, "dash": "dot",
        }
        for limit in limits
    ]  # fmt: skip


def _told(run: RunEvents, marker: int | None) -> str:
    """``kl=1, after step 124: whether it leaks …``"""
    at = event_at(run.probes, marker)
    if not at.get("step"):
        return ""
    ends = ("", "_low", "_high")
    row = {
        f"{margin}_margin{end}": at.get(name + end)
        for margin, name in (("general", "general"), ("narrow", "in_domain"))
        for end in ends
    }
    return f"**{plain(run.name)}**, after step {at['step']}: {look(row)}."


def _cost(run: RunEvents, state: RunState) -> str:
    """``kl=1 · 3 probes took 12 s, 8 % of its time``."""
    after = [event for event in run.probes if event["step"] > 0]
    if not after or not state.seconds:
        return ""
    base = next((event["seconds"] for event in run.probes if event["step"] == 0), 0.0)
    once = f"; the base took {duration(base)} before, once for this model" if base >= 1 else ""
    count = f"{len(after)} probe{'s' if len(after) > 1 else ''}"
    share = state.probe_seconds / state.seconds
    return f"{plain(run.name)}: {count} took {duration(state.probe_seconds)}, {share:.1%} of its time{once}."
