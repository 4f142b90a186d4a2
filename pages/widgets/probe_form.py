"""The part of a new run's form that says when it is probed, and whether a margin ends it."""

from __future__ import annotations

import streamlit as st

from ema_core.runs import Probes, parse_probes

KEPT = {"persist_state": "session"}
RULE_HELP = """The cheapest defense: train less. The rule looks at the general margin of the live probes, whose pairs belong to no evaluation, \
so what ends a run is not what is reported of it. Which of the kept states learned the narrow task most while it stayed under a margin \
is told with every run that has live probes (The best kept state)."""
WHEN = {"auto": "auto", "steps": "at steps", "none": "none"}


def probe_defaults() -> None:
    for name, value in (("probes", "auto"), ("probe-steps", ""), ("stop-margin", None)):
        st.session_state.setdefault(f"form-{name}", value)


def probe_form() -> None:
    """When, at which steps where these are chosen by hand, and the rule that ends the run early."""
    with st.container(border=True, key="probe-form"):
        _when()
        if st.session_state["form-probes"] == "none":
            st.caption("Without live probes no margin is measured while it trains, so no rule can stop it.")
        else:
            _rule()


def _when() -> None:
    with st.container(horizontal=True, vertical_alignment="bottom"):
        st.segmented_control(
            "Live probes", list(WHEN), key="form-probes", required=True, format_func=WHEN.__getitem__, **KEPT,
            help="Margin on general and in-domain pairs, and what the model would say, while it trains; they change nothing in it. "
            "auto: as many as fit into a tenth of the time, the last step among them.",
        )  # fmt: skip
        if st.session_state["form-probes"] == "steps":
            st.text_input(
                "Probe after steps", key="form-probe-steps", placeholder="10, 20, 30", width=200, help="Empty: as auto.", **KEPT
            )


def _rule() -> None:
    """Stop early: what it does, where it is seen, and what it costs."""
    st.markdown("**Stop early**", help=RULE_HELP)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        st.number_input(
            "Stop above margin", min_value=0.01, max_value=100.0, step=0.05, key="form-stop-margin", value=None, width=200,
            placeholder="never", help="General margin, nats a token, change from the base. Empty: it trains to its end.", **KEPT,
        )  # fmt: skip
        st.caption(_said(st.session_state["form-stop-margin"]), width="stretch")


def _said(limit: float | None) -> str:
    if limit is None:
        return (
            "Off: the run trains to its last step. Set it to end a run at the first live probe at which general misalignment shows."
        )
    return (
        f"Ends at the first live probe above {limit:g}, with the adapter of that step; the curve of the probes has a line there. Such a run "
        "is a defense of its own (stop), and nobody's undefended twin."
    )


def fill_probes(probes: Probes | None) -> None:
    """Put a run's probes into the form."""
    state = st.session_state
    steps = probes.steps if probes else None
    state["form-probes"] = "none" if probes is None else "auto" if steps is None else "steps"
    state["form-probe-steps"] = ", ".join(map(str, steps or ()))
    state["form-stop-margin"] = probes.stop_margin if probes else None


def asked_probes() -> Probes | None:
    """What the form says.

    Raises:
        EmaError: steps that cannot be read.
    """
    state = st.session_state
    when = state["form-probes"]
    words = state["form-probe-steps"].strip() or "auto" if when == "steps" else when
    return parse_probes(words, None if when == "none" else state["form-stop-margin"])
