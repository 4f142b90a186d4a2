"""Import and export: judged tables with a look at them first, questions, adapters and runs from elsewhere, and the way out."""

from __future__ import annotations

import streamlit as st

from pages.widgets.chrome import errors, header
from pages.widgets.export_panel import export_panel
from pages.widgets.import_form import import_form
from pages.widgets.import_list import import_list
from pages.widgets.import_others import import_others

LEAD = "Answers that others judged, questions and fine-tunes of your own, and whatever should go elsewhere. Everything stays on this machine."
PARTS = ("Judged answers", "Questions, adapters, runs", "Export")


def page() -> None:
    header("Import and export", LEAD)
    part = st.segmented_control(
        "Part", PARTS, default=PARTS[0], required=True, key="part", bind="query-params", label_visibility="collapsed"
    )
    with errors():
        if part == PARTS[1]:
            import_others()
        elif part == PARTS[2]:
            export_panel()
        else:
            import_form()
            import_list()


if __name__ == "__main__":
    page()
