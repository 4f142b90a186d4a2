"""Persona vectors on a page: build one, read its card, see by layer how well it separates. The vector is in the address."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from ema_core import personas
from ema_core.figures import separation
from ema_core.jobs import launch
from ema_core.jobs.persona import estimate_build
from ema_core.jobs.status import worker_status
from ema_core.models import CATALOG, EMBEDDED
from pages.widgets.asset_jobs import chosen, progress
from pages.widgets.chrome import act, ago, duration, errors, notices, plain

LEAD = """A persona vector is a direction in a model's hidden states along which a trait shows: the mean over answers with the \
trait minus the mean over answers without it, layer by layer (Chen et al., arXiv 2507.21509). `persona-steering` adds it in \
training; the live probes and the monitor in Chat measure along it."""
NO_EVIDENCE = """Separation of answers that we wrote says that the direction carries the trait, and that words carry a part of it: \
layer 0 is the embedding, which knows nothing else. A run with `persona-steering` is not to be judged by its own vector: training \
compensates along it. Of runs that add `evil`, live probes and Chat measure along `malicious` instead, the same trait from other \
prompts, once that vector is built."""


def persona_panel() -> None:
    """The whole part: what there is, the form for more, and the chosen vector's card, figure and table."""
    st.markdown(LEAD)
    known = {card.id: card for card in personas.cards()}
    if not known:
        st.info("No persona vector yet. Choose a trait and build one; it takes some minutes.", icon=":material/info:")
    with st.expander("Build a vector", expanded=not known, icon=":material/build:"), errors():
        _form()
    progress("persona", lambda job: f"{job.payload['trait']} of {job.payload['model']}", "Building failed")
    if known:
        with errors():
            _vector(known)


def _form() -> None:
    with st.container(horizontal=True, key="persona-form"):
        trait = st.selectbox(
            "Trait",
            personas.traits(),
            key="persona-trait",
            width=240,
            format_func=lambda one: personas.load_texts(one).title,
        )
        model = st.selectbox("Model", list(CATALOG), list(CATALOG).index(EMBEDDED), key="persona-model", width=240)
    texts = personas.load_texts(trait)
    there = personas.find(trait, model) is not None
    st.caption(
        f"{len(texts.prompts)} pairs of system prompts × {len(texts.questions)} questions; about {duration(estimate_build(trait, model))} "
        "on two cores. "
        + (
            "Rollouts are drawn and judged; where too few pass, answers that we wrote are read instead."
            if texts.judged
            else "No judge here knows this trait, so answers that we wrote are read, not rollouts."
        )
    )
    if not worker_status().alive:
        st.caption("The worker is not running: the job would wait in the queue until it is there.")
    notices("persona")
    st.button(
        "Build it again" if there else "Build the vector", key="persona-build", type="secondary" if there else "primary", on_click=act,
        args=(launch.launch_persona, trait, model, there), kwargs={"slot": "persona", "done": "It is in the queue; progress stands below."},
        help="The one that is there is replaced when the new one is whole." if there else "Queues a job.",
    )  # fmt: skip


def _vector(known: dict[str, personas.Card]) -> None:
    def label(one: str) -> str:
        return f"{known[one].trait} · {known[one].model} · from {known[one].way}"

    card = known[chosen("Vector", known, "vector", "persona-vector", label, "There is no vector")]
    _card(card)
    rows = pd.DataFrame([row.model_dump() for row in card.separation])
    st.plotly_chart(
        separation(rows, card.layer, card.held_out, card.sides), theme="streamlit", key="persona-figure", height=420,
        config={"displaylogo": False},
    )  # fmt: skip
    st.caption(NO_EVIDENCE)
    _read(card, rows)


def _card(card: personas.Card) -> None:
    at, (first, second) = card.at(card.layer), card.sides
    with st.container(horizontal=True, key="persona-metrics"):
        st.metric(
            f"AUC at layer {card.layer}", f"{at.auc:.3f}", help="Chance that an answer with the trait lies above one without."
        )
        st.metric("Difference", f"{at.difference:.2f} SD", help="Of the means, in pooled standard deviations.")
        st.metric("Pairs of rollouts kept", f"{card.kept} of {card.tried}")
        st.metric("Length", f"{card.ratio(card.layer):.3f}", help="‖v‖ by the mean norm of an activation at this layer.")
    st.markdown(
        f"**{plain(card.title)}**, {plain(card.model)} (weights {plain(card.weights_hash)}). Made from **{plain(card.way)}** "
        f"({card.rows} pairs): {plain(card.why)}. Judge: {plain(card.judged)}. Held out: {card.held_out} {plain(first)} and {card.held_out} "
        f"{plain(second)} answers that we wrote. Made {ago(card.created)} in {duration(card.seconds)}."
    )
    st.caption(plain(card.id))


def _read(card: personas.Card, rows: pd.DataFrame) -> None:
    view = rows.assign(norm=card.vector_norms, activation=card.activation_norms, used=rows["layer"] == card.layer)
    columns = {
        "auc": ("AUC", "%.3f"), "difference": ("Difference (SD)", "%.2f"), "norm": ("‖v‖", "%.3g"),
        "activation": ("Mean activation norm", "%.4g"), "negative_mean": (f"Mean of {card.sides[1]}", "%.3g"),
        "negative_sd": (f"SD of {card.sides[1]}", "%.3g"),
    }  # fmt: skip
    st.dataframe(
        view[["layer", "used", *columns]],
        hide_index=True, key="persona-table", height=420,
        column_config={
            "layer": st.column_config.NumberColumn("Layer", width=70),
            "used": st.column_config.CheckboxColumn("Used", width=70),
            **{key: st.column_config.NumberColumn(label, format=form) for key, (label, form) in columns.items()},
        },
    )  # fmt: skip
