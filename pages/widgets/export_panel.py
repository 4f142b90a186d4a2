"""The way out: answers as tables, runs and studies as one file, evaluated answers for Inspect."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import streamlit as st

from ema_core.exchange.bundle import export_bundle, study_runs
from ema_core.exchange.inspect_log import export_logs
from ema_core.jobs import studies
from ema_core.settings import settings
from pages.widgets.chrome import act, errors, notices
from pages.widgets.run_picker import pick_runs

ANSWERS = """**Answers as a table.** On Samples, filter what you want and take it along as CSV (what a spreadsheet would run as a formula is \
made harmless), or by `ema samples … --parquet FILE` with types."""


def export_panel() -> None:
    with st.container(horizontal=True, vertical_alignment="center"):
        st.markdown(ANSWERS, width="stretch")
        st.page_link("pages/samples.py", label="Go to Samples", icon=":material/manage_search:")
    st.subheader("Runs for another machine", anchor=False)
    notices("export")
    chosen = pick_runs(
        "Runs", key="export", help="With their adapters, curves, answers and judgments, and what their bases answered."
    )
    known = studies.study_ids()[::-1]
    study = st.selectbox("or a whole study", known, index=None, key="export-study", placeholder="none", disabled=bool(chosen))
    checkpoints = st.toggle("With the adapters of the checkpoints", key="export-checkpoints")
    name = study or (chosen[0] if chosen else "runs")
    left, right = st.columns([4, 1], vertical_alignment="bottom")
    default = str(settings().home / "exports" / f"{name}.zip")
    out = left.text_input("File (.zip) or new folder on this machine", key="export-out", placeholder=default)
    right.button(
        "Write it", key="export-start", type="primary", disabled=not (chosen or study), width="stretch", on_click=act,
        args=(_bundle, chosen, study, out.strip() or default, checkpoints), kwargs={"slot": "export"},
        help=None if chosen or study else "Choose runs or a study first.",
    )  # fmt: skip
    st.subheader("For Inspect's viewer", anchor=False)
    st.caption("The sampled answers of the chosen runs, each judge a scorer: a log of inspect_ai that `inspect view` opens.")
    with errors():
        st.download_button(
            "Log for Inspect", lambda: _log(chosen), f"{time.strftime('%Y-%m-%dT%H-%M-%S')}_answers.json", "application/json",
            disabled=not chosen, on_click="ignore", key="export-inspect", icon=":material/download:",
            help=None if chosen else "Choose runs first.",
        )  # fmt: skip


def _bundle(chosen: list[str], study: str | None, out: str, checkpoints: bool) -> None:
    runs = study_runs(study) if study else chosen
    manifest = export_bundle(runs, Path(out).expanduser(), study=study, checkpoints=checkpoints)
    total = sum(file["bytes"] for file in manifest["files"].values())
    st.session_state["notice-export"] = ("done", f"{len(manifest['runs'])} runs, {total / 1e6:.1f} MB, are in {out}.", "")


def _log(chosen: list[str]) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "log.json"
        export_logs(chosen, path)
        return path.read_bytes()
