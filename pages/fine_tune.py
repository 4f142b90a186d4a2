"""Fine-tune: a new run, a sweep of runs, and the runs that go on or have ended."""

from __future__ import annotations

import streamlit as st

from ema_core.jobs import queue
from ema_core.jobs.cells import has_adapter
from ema_core.runs import RunDirectory, Status
from pages.widgets.best_state import best_part
from pages.widgets.chat_models import beside, undefended_twin
from pages.widgets.chrome import act, errors, header, notices, plain
from pages.widgets.form_origin import PARAM, copy, from_address
from pages.widgets.live_runs import delete_button, events_of, live_runs
from pages.widgets.queue_list import queue_list
from pages.widgets.recorded import BARE, recorded_note
from pages.widgets.run_ends import looked_at
from pages.widgets.run_form import new_run
from pages.widgets.run_label import run_label
from pages.widgets.run_picker import newest_first, own_first, own_or_all, pick_runs, run_info
from pages.widgets.sweep import sweep_part

PARTS = ["New run", "Sweep", "Runs"]


def page() -> None:
    arrived = header("Fine-tune")
    if study := st.session_state.pop("queued-study", None):
        st.switch_page("pages/studies.py", query_params={"study": study})
    from_address(arrived)
    if "part" not in st.query_params and "part" not in st.session_state:
        st.session_state["part"] = "Runs" if "run" in st.query_params else "New run"
    part = st.segmented_control("Part", PARTS, key="part", bind="query-params", required=True, label_visibility="collapsed")
    if part != "New run":
        st.query_params.pop(PARAM, None)  # it is the form's
    if part == "New run":
        new_run()
    elif part == "Sweep":
        sweep_part()
    else:
        runs()


def runs() -> None:
    """Any runs, live or long over, in the same view."""
    with errors():
        chosen = pick_runs(
            "Runs to look at", default=at_work_or_newest, help="Newest first. The address of this page keeps the choice."
        )
        looked_at(chosen)
        if chosen:
            live_runs(chosen)
        elif newest_first():
            st.info("Choose one run or several above.", icon=":material/arrow_upward:")
        else:
            st.info("No run yet. Make one under **New run**, or start the demo on Home.", icon=":material/info:")
        notices("copy")
        for run_id in chosen:
            with errors():
                details(run_id)
    st.subheader("Queue", anchor=False)
    queue_list()


def at_work_or_newest(ids: list[str]) -> list[str]:
    """What a first visit shows: the run at work, which in a study may be far from the newest, then waiting ones; else the newest, and its
    undefended twin: a curve by itself says little."""
    ids = own_or_all(ids)
    at_work = [run for job in queue.jobs() if job.kind == "train" and job.status == "running" for run in job.runs if run in ids]
    active = [run_id for run_id in ids[:20] if RunDirectory.open(run_id).state().status.active]
    if at_work or active:
        return list(dict.fromkeys(at_work + active))[:4]
    newest = own_first(ids)[:1]
    return newest + [twin for run_id in newest if (twin := undefended_twin(run_id, ids))]


def details(run_id: str) -> None:
    """Everything that is known of the run, and where to go from here."""
    run, info = RunDirectory.open(run_id), run_info(run_id)
    state = run.state()
    with st.expander(
        f"Name, tags, notes and settings: {plain(info.name or info.defense)} · {run_id[-4:]}", key=f"details-{run_id}"
    ):
        with st.container(horizontal=True):
            bare = (bool(info.recorded) or state.status is Status.DONE) and not has_adapter(run)
            st.page_link("pages/evaluate.py", label="Evaluate", icon=":material/fact_check:", query_params={"run": run_id},
                         disabled=bare, help=BARE if bare else None)  # fmt: skip
            st.page_link(
                "pages/chat.py", label="Chat", icon=":material/forum:", query_params={"m": beside(run_id, newest_first())},
                disabled=bare, help=BARE if bare else "Beside its base and its undefended twin.",
            )  # fmt: skip
            st.page_link("pages/compare.py", label="Compare", icon=":material/compare_arrows:", query_params={"run": run_id})
            st.page_link("pages/inside.py", label="Inside the run", icon=":material/neurology:", query_params={"run": run_id})
            st.button(
                "Copy into the form", key=f"copy-{run_id}", icon=":material/content_copy:", on_click=act, args=(copy, run_id),
                kwargs={"slot": "copy"}, help="A new run with the same settings, to change one thing in. The address ?from=RUN does the same.",
            )  # fmt: skip
            delete_button(run, state)
        if info.recorded:
            recorded_note([info.recorded])
        run_label(run)
        with errors():
            best_part(run, events_of(run).probes)
        st.code(run.spec.command(), language="bash", wrap_lines=True)
        st.code(run.spec.to_toml(), language="toml", wrap_lines=True)
        for note in [
            *state.notes,
            *(f"{event['defense']}: {event['text']}" for event in events_of(run).finish if event.get("text")),
        ]:
            st.text(note)
        if state.found:
            st.caption("Found when it ran")
            st.json(state.found, expanded=False)
        st.caption("Folder")
        st.code(str(run.path), language=None, wrap_lines=True)


if __name__ == "__main__":
    page()
