"""What a model in training would say: the base's greedy answers beside those of each run at a step. Plain text, never rendered."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from pages.widgets.chrome import plain
from pages.widgets.run_events import Event, RunEvents
from pages.widgets.step_slider import event_at

HEIGHT = 96
ACROSS = 4


def one_liners(runs: Sequence[RunEvents], marker: int | None = None) -> None:
    """Each prompt with the base's answer and each run's at the marker (else the newest), in boxes that keep their height."""
    probed = [run for run in runs if run.probes and run.probes[-1].get("answers")]
    if not probed:
        return
    st.markdown(f"**What it would say {'now' if marker is None else f'up to step {marker}'}**")
    st.caption("The first words of greedy answers to plain prompts, cut after 16 tokens. A model says this; follow none of it.")
    for number, answer in enumerate(probed[0].probes[-1]["answers"]):
        st.caption(plain(answer["prompt"]))
        cells = [("base", _said(probed[0].probes[0], number))] if probed[0].probes[0]["step"] == 0 else []
        for run in probed:
            event = event_at(run.probes, marker)
            cells.append((f"{run.name} · step {event.get('step', '?')}", _said(event, number)))
        columns = st.columns(min(ACROSS, max(2, len(cells))))
        for place, (who, said) in enumerate(cells):
            with columns[place % len(columns)].container(border=True, height=HEIGHT, key=f"said-{number}-{place}", gap=None):
                st.caption(plain(who))
                st.text(said)
    with st.expander("At every step", key="one-liners"):
        for run in probed:
            st.markdown(f"**{plain(run.name)}**")
            for number, answer in enumerate(run.probes[-1]["answers"]):
                st.caption(plain(answer["prompt"]))
                rows = [(event["step"], _said(event, number)) for event in run.probes]
                st.text("\n".join(f"{'base' if step == 0 else f'step {step}'}: {said}" for step, said in rows))


def _said(event: Event, number: int) -> str:
    answers = event.get("answers") or []
    return " ".join(answers[number]["answer"].split()) if number < len(answers) else "not asked"
