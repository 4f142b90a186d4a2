"""Vectors and scores: what defenses and probes need that is made once for a model."""

from __future__ import annotations

import streamlit as st

from pages.widgets.chrome import errors, header
from pages.widgets.gap_panel import gap_panel
from pages.widgets.persona_panel import persona_panel

LEAD = (
    "What some defenses, the live probes and the monitor in Chat need first. Made once for a model, kept with a card, used again."
)
PARTS = {"Persona vectors": persona_panel, "Gap scores": gap_panel}


def page() -> None:
    header("Vectors and scores", LEAD)
    part = st.segmented_control(
        "Part", list(PARTS), default="Persona vectors", required=True, key="part", bind="query-params", label_visibility="collapsed"
    )
    with errors():
        PARTS[part or "Persona vectors"]()


if __name__ == "__main__":
    page()
