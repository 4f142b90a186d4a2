"""One study: progress, what can be done about it, its cells."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from ema_core.jobs import studies
from ema_core.jobs.status import worker_status
from ema_core.jobs.study_status import CellStatus, State, StudyStatus, narrow_runs
from pages.widgets.answer_links import address
from pages.widgets.chrome import act, duration, notices, plain, show_error
from pages.widgets.person import read_only
from pages.widgets.recorded import recorded_note

MOST_REASONS = 3
MOST_AT_WORK = 2
LEFT: tuple[State, ...] = ("running", "waiting", "resting")
WORDS = {"resting": "at rest"}


def study_card(study: StudyStatus) -> None:
    """Everything of the chosen study."""
    st.subheader(plain(study.name), anchor=False)
    if study.recorded:
        recorded_note([study.recorded])
    progress(study)
    _at_work(study)
    notices("study")
    if not read_only(studies.owner_of(study.id)):
        _buttons(study)
    failed = [cell for cell in study.cells if cell.state == "failed"]
    for cell in failed[:MOST_REASONS]:
        show_error(f"{cell.defense}, {cell.dataset}, seed {cell.seed}: {cell.doing}. {cell.reason}")
    if len(failed) > MOST_REASONS:
        st.caption(f"{len(failed) - MOST_REASONS} more failed; the table says why.")
    _cells(study)
    with st.expander("The study as a file", key=f"study-spec-{study.id}"):
        goes_on = "trains and evaluates the same as a study of your own" if study.recorded else "goes on with it from anywhere"
        st.caption(f"`ema study run FILE` {goes_on}; the file lies in the study's folder.")
        st.code(studies.read_spec(study.id).to_toml(), language="toml", wrap_lines=True)
        st.code(str(studies.folder(study.id)), language=None, wrap_lines=True)


def progress(study: StudyStatus) -> None:
    """A bar and what it says in words: done, failed, what is left and how long that takes."""
    trained = sum(cell.trained and cell.state != "done" for cell in study.cells)
    parts = [f"{study.count('done')} of {study.total} done" + (f", {trained} more trained" if trained else "")]
    parts += [f"{count} {state}" for state in ("failed", "left out") if (count := study.count(state))]
    if study.left:
        kinds = [f"{count} {WORDS.get(state, state)}" for state in LEFT if (count := study.count(state))]
        parts.append(f"{study.left} left: {', '.join(kinds)}")
    if study.going:
        parts.append(f"about {duration(study.seconds_left)} to go")
        if not worker_status().alive:
            parts.append("no worker is running (see the sidebar)")
    st.progress(min(1.0, max(0.0, study.share)), text=" · ".join(parts))


def _at_work(study: StudyStatus) -> None:
    """Which cells are at work now: in a long table their rows may be out of sight."""
    running = [cell for cell in study.cells if cell.state == "running"]
    if len(running) > MOST_AT_WORK:
        st.caption(f"At work: {len(running)} are being evaluated together.")
    elif running:
        st.caption(
            plain("At work: " + "; ".join(f"{cell.defense}, {cell.dataset}, seed {cell.seed}: {cell.doing}" for cell in running))
        )


def _buttons(study: StudyStatus) -> None:
    """Only what its state allows."""
    kwargs = {"slot": "study", "rerun": True}
    with st.container(horizontal=True, key="study-buttons", vertical_alignment="center"):
        if runs := narrow_runs(study):
            which = {"origin": f"recorded: {study.recorded}"} if study.recorded else {"run": runs}
            st.page_link("pages/compare.py", label="Compare its runs", icon=":material/compare_arrows:", query_params=which)
        if study.recorded:
            return
        if study.count("resting"):
            st.button(
                "Go on", key="study-go-on", icon=":material/play_arrow:", on_click=act, args=(_start, study.id, False), kwargs=kwargs,
                help="Queues what is at rest.",
            )  # fmt: skip
        if study.count("failed") or any(cell.doing == "stopped" for cell in study.cells):
            st.button(
                "Try failed ones again", key="study-retry", icon=":material/replay:", on_click=act, args=(_start, study.id, True),
                kwargs=kwargs, help="Failed and stopped runs go on from their last checkpoint.",
            )  # fmt: skip
        if study.count("waiting"):
            st.button(
                "Cancel what waits", key="study-cancel", icon=":material/cancel:", on_click=act, args=(studies.cancel, study.id),
                kwargs=kwargs, help="Takes its waiting jobs out of the queue. What runs goes on to its end; Go on queues the rest again.",
            )  # fmt: skip


def _start(study_id: str, retry: bool) -> None:
    studies.start(studies.read_spec(study_id), confirmed=True, retry=retry, skip_invalid=True)


def _cells(study: StudyStatus) -> None:
    table = pd.DataFrame([_row(cell) for cell in study.cells])
    table = table.drop(columns=[name for name in ("Task", "Data set", "Model") if table[name].nunique() == 1])  # said in the file
    table = table.drop(columns=[name for name in ("Doing", "Why") if not table[name].any()])
    st.dataframe(
        table, hide_index=True, key="study-cells", height=min(35 * len(table) + 38, 560), placeholder="",
        column_config={
            "#": st.column_config.NumberColumn("#", width=40),
            "State": st.column_config.TextColumn("State", width=80),
            "Defense": st.column_config.TextColumn("Defense", width=190),
            "Seed": st.column_config.NumberColumn("Seed", width=50),
            "Curves": st.column_config.LinkColumn("Curves", display_text="curves", width=70),
            "Doing": st.column_config.TextColumn("Doing", width=260),
            "Why": st.column_config.TextColumn("Why", width=320),
        },
    )  # fmt: skip


def _row(cell: CellStatus) -> dict[str, object]:
    return {
        "#": cell.number, "Defense": cell.defense, "Seed": cell.seed, "State": WORDS.get(cell.state, cell.state), "Doing": cell.doing,
        "Curves": address("fine-tune", run=cell.run, part="Runs") if cell.run else None, "Task": cell.task, "Data set": cell.dataset,
        "Model": cell.model, "Why": cell.reason,
    }  # fmt: skip
