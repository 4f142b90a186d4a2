"""The study that the tour speaks of, read once for a version of the index."""

from __future__ import annotations

from typing import Any

import pandas as pd
import streamlit as st

from ema_core import tour
from ema_core.errors import EmaError
from ema_core.evaluation.alternatives import undefended_curve
from ema_core.figures import enlarged, leak, scores_scatter, trade_off, training_curves
from ema_core.judging import resolve
from pages.widgets.chrome import plain, reader
from pages.widgets.index import up_to_date
from pages.widgets.terms import term

Settled = tuple[str, str]
ALT = {
    "loss": "The training loss of the undefended runs by step.",
    "leak": "General margin of each setting with its interval, the undefended one on top.",
    "trade-off": "General margin against narrow margin of three settings, over the undefended run stopped earlier and scaled down.",
    "judge": "The judge's alignment scores against the labels', an answer a mark.",
}
LARGER = 1.3
"""How much larger a presenter's figures are."""


def facts_here() -> tuple[tour.Facts | None, str]:
    """The facts of the study that lies here, or why there are none."""
    version = up_to_date()
    ids = tour.study_of(reader().runs())
    if not ids:
        return None, "There is no evaluated study here yet: an undefended run and a defended one on the same examples."
    settled = (version[0], reader().settled_version(ids))
    try:
        with st.spinner("Reading the study …", show_time=True):
            return _facts(ids, settled), ""
    except EmaError as error:
        return None, f"{error.message} {error.hint}"


@st.cache_data(show_spinner=False, max_entries=4)
def _facts(run_ids: tuple[str, ...], version: Settled) -> tour.Facts:
    judges = reader().judges(run_ids, kept=False)
    judge = max(judges, key=lambda name: judges[name]) if judges else resolve("probe")
    return tour.facts_of(run_ids, reader().frames(run_ids, with_siblings=True), judge)


def filled(text: str, facts: tour.Facts | None) -> str:
    """A text with the study's figures in the place of their names; what is not known here is said to be so."""
    for name in set(tour.names_in(text)):
        text = text.replace("{" + name + "}", plain(facts.texts.get(name, "not known here") if facts else "not known here"))
    return text


def draw(kind: str, facts: tour.Facts, large: bool) -> None:
    """The figure of a stop, from the study's own numbers."""
    figure = {"loss": _loss, "leak": _leak, "trade-off": _trade, "judge": _judge}[kind](facts)
    if large:
        figure = enlarged(figure, LARGER)
    tall = "content" if kind == "leak" else 600 if large else 480  # as tall as it has settings
    st.plotly_chart(
        figure,
        theme="streamlit",
        key=f"learn-{kind}",
        height=tall,
        alt=ALT[kind],
        config={"displaylogo": False, "displayModeBar": False},
    )


def _loss(facts: tour.Facts) -> Any:
    return training_curves(reader().steps(facts.undefended), None, "ce", 0.0)


def _leak(facts: tour.Facts) -> Any:
    return leak(facts.table)


def _trade(facts: tour.Facts) -> Any:
    key = facts.table["setting_key"].iloc[0]
    few = facts.table["defense_label"].isin(["none", facts.texts["lowest"], facts.texts.get("price", "")])
    return trade_off(facts.table[few], _curve(str(key), facts.runs, (up_to_date()[0], reader().settled_version(facts.runs))))


def _judge(facts: tour.Facts) -> Any:
    return scores_scatter(tour.labels_and_scores(facts.judge), "the labels", facts.judge)


@st.cache_data(show_spinner=False, max_entries=4)
def _curve(setting_key: str, run_ids: tuple[str, ...], version: Settled) -> pd.DataFrame:
    return undefended_curve(reader().frames(run_ids), setting_key)


def counts(facts: tour.Facts) -> None:
    """What became of the answers of the undefended setting and of the one with the lowest margin."""
    rows = facts.table[facts.table["undefended"] | facts.table["defense_label"].isin(facts.asked["lowest"][:1])]
    names = ("asked", "scored", "misaligned", "refused", "incoherent", "cut")
    cells = {f"{row['defense_label']}": [f"{row[name]:.0f}" for name in names] for row in rows.to_dict("records")}
    st.table(pd.DataFrame({"Answers": [name.capitalize() for name in names], **cells}), border="horizontal", hide_index=True)
    st.caption(
        f"Counts, judge {plain(facts.judge)}; general questions, all seeds. Not rates: those have intervals, on Compare.",
        help=term("misaligned"),
    )
