"""The chosen runs as one HTML file."""

from __future__ import annotations

import time
from collections.abc import Sequence

import streamlit as st

from ema_core.evaluation.recommend import KEEP
from ema_core.exchange.report import report
from pages.widgets.chrome import in_words, reader

WHAT = (
    "One file for others: scorecard, figures that can be zoomed, sample answers behind a click, specs, versions, what was left out, and the "
    "commands that make it again. It works without a network."
)


def report_button(run_ids: Sequence[str], judge: str) -> None:
    """A download that is made when it is asked for; on the command line: ``ema report``."""
    keep = float(st.session_state.get("keep", round(100 * KEEP))) / 100

    held = reader()  # the callable runs in a thread of its own

    def made() -> str:
        try:
            return report(run_ids, judge, keep=keep, reader=held)
        except Exception as error:
            message, hint = in_words(error)
            raise RuntimeError(f"{message} {hint}") from None

    name = f"ema-report-{time.strftime('%Y%m%d-%H%M')}.html"
    st.download_button(
        "Report", made, name, "text/html", icon=":material/description:", on_click="ignore", key="report", help=WHAT,
    )  # fmt: skip
