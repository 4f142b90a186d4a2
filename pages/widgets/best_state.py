"""Which kept state of a run was the best by its live probes, and what can be done with it in one click."""

from __future__ import annotations

from typing import Any

import streamlit as st

from ema_core.jobs import launch
from ema_core.jobs.cells import has_adapter
from ema_core.runs import RunDirectory
from ema_core.training.best import best_state
from pages.widgets.chat_models import beside
from pages.widgets.chrome import act, notices, plain
from pages.widgets.recorded import BARE
from pages.widgets.run_picker import newest_first

HELP = """Of the states that were both probed and kept (a checkpoint, or the end), the one with the highest in-domain margin among those \
whose general margin is at most this: the most narrow learning at an accepted leak. The pairs of live probes belong to no evaluation, so \
what is chosen by them is not what an evaluation reports; but they are few, and a neighbour may be as good."""


def best_part(run: RunDirectory, looks: list[dict[str, Any]]) -> None:
    """The best state, told where there are live probes; a limit to try others."""
    if not any(event["step"] > 0 for event in looks):
        return
    with st.container(border=True, key=f"best-{run.id}", gap="xsmall"):
        st.markdown("**The best kept state**", help=HELP)
        limit = st.number_input(
            "General margin at most", value=best_state(run, looks=looks).limit, step=0.05, key=f"best-limit-{run.id}", width=240,
            placeholder="any", help="In nats a token, change from the base. At first the run's own early-stop rule; empty: no limit.",
        )  # fmt: skip
        found = best_state(run, limit if limit is not None else float("inf"), looks)
        st.text(found.words)
        model = found.model(run.id)
        if model is None:
            return
        if not has_adapter(run):
            st.caption(BARE if run.state().recorded else "Its adapter is not here, so it cannot be asked.")
            return
        with st.container(horizontal=True):
            others = [run_id for run_id in newest_first() if run_id != run.id]
            st.page_link(
                "pages/chat.py", label="Chat with it", icon=":material/forum:", help="Beside its base and its undefended twin.",
                query_params={"m": [*beside(run.id, others)[:-1], model]},
            )  # fmt: skip
            st.button(
                "Evaluate it", key=f"best-evaluate-{run.id}", icon=":material/fact_check:", on_click=act,
                args=(_evaluate, run.id, None if found.final else found.step),
                kwargs={"slot": f"best-{run.id}", "done": "Its evaluation is queued. Answers of a checkpoint are read on Samples, not compared as a setting."},
            )  # fmt: skip
            st.caption(f"Its name everywhere: {plain(model)}")
        notices(f"best-{run.id}")


def _evaluate(run_id: str, step: int | None) -> None:
    launch.launch_evaluation([run_id], curve=False, step=step)
