"""Inside a run: what each defense did there, or would have seen, beside the undefended twin. The run is in the address."""

from __future__ import annotations

import streamlit as st

from ema_core.jobs import launch, queue
from ema_core.jobs.status import worker_status
from ema_core.runs import RunDirectory
from ema_core.training import inside
from pages.widgets.asset_jobs import chosen, progress
from pages.widgets.chat_models import undefended_twin
from pages.widgets.chrome import act, ago, duration, errors, header, notices, plain, status_badge
from pages.widgets.inside_panels import Side, defense_part
from pages.widgets.run_picker import newest_first, own_first, run_info

LEAD = """Where a defense acted: which examples it chose, at which tokens and layers it held the model back, which weight matrices it \
changed. Each part is read from the run's own files and its adapter, on a few examples that are the same for every run on the same data, \
and stands beside the undefended twin. No judge, no sampling: it explains a mechanism, and is no evidence that a defense works."""


def page() -> None:
    header("Inside a run", LEAD)
    with errors():
        ids = newest_first()
        if not ids:
            st.info("No run yet. Train one, and look inside it here.", icon=":material/info:")
            st.page_link("pages/fine_tune.py", label="Go to Fine-tune", icon=":material/tune:")
            return
        if "run" not in st.query_params and "inside-run" not in st.session_state:  # one that there is something to see of
            readable = [one for one in own_first(ids) if inside.path(RunDirectory.open(one)).exists()]
            st.session_state["inside-run"] = (readable or own_first(ids))[0]
        run_id = chosen("Run", ids, "run", "inside-run", lambda one: run_info(one).label, "There is no run")
        run = RunDirectory.open(run_id)
        about(run)
        twin = twin_of(run_id)
        mine = kept(run, twin)
        progress("inside", lambda job: "; ".join(run_info(one).label for one in job.runs), "Looking inside failed")
        if mine is None:
            return
        other = inside.read(twin) if twin else None
        sides = [Side.of(run, mine)] + ([Side.of(twin, other)] if twin and other and inside.fresh(twin, other) else [])
        defense_part(sides)


def about(run: RunDirectory) -> None:
    """What the run is, and where else it can be looked at."""
    info, state = run_info(run.id), run.state()
    with st.container(horizontal=True, vertical_alignment="center", gap="small", key="inside-about"):
        status_badge(state.status)
        st.markdown(
            f"**{plain(info.defense or run.id)}** · {plain(info.dataset)} · {plain(info.model)} · seed {info.seed} · step {state.step}",
            width="content",
        )
        query = {"run": run.id, "part": "Runs"}
        st.page_link("pages/fine_tune.py", label="Its curves", icon=":material/show_chart:", query_params=query, width="content")
        st.page_link(
            "pages/compare.py", label="Compare", icon=":material/compare_arrows:", query_params={"run": run.id}, width="content"
        )


def twin_of(run_id: str) -> RunDirectory | None:
    """The undefended run of the same model, data, recipe and seed; None of an undefended one, or where there is none."""
    twin = undefended_twin(run_id, newest_first())
    return RunDirectory.open(twin) if twin else None


def kept(run: RunDirectory, twin: RunDirectory | None) -> inside.Inside | None:
    """What was read of the run, with the button that reads it, where that is still to be done."""
    notices("inside")
    found, why = inside.read(run), inside.can_be_read(run)
    missing = [one for one in (run, twin) if one and not inside.can_be_read(one) and not _fresh(one)]
    if found is None and why:
        st.info(plain(why), icon=":material/info:")
        return None
    if found is None:
        st.info(
            "Nobody has looked inside this run yet. Runs that the worker trained are read when nothing waits in its queue.",
            icon=":material/info:",
        )
    elif run in missing:
        st.warning(
            "This run was trained on since it was read; what stands below is of its earlier adapter.", icon=":material/history:"
        )
    elif missing:
        st.caption("Its undefended twin was not read yet; until then this run stands alone.")
    elif twin is None and run_info(run.id).defense != "none":
        st.caption("There is no undefended twin (same model, data, recipe and seed) to hold it against: train one on Fine-tune.")
    if missing and not _under_way(missing):
        both = "Look inside it and its undefended twin" if run in missing and len(missing) > 1 else "Look inside its twin"
        st.button(
            both if twin in missing else "Look inside", key="inside-read", type="primary", icon=":material/neurology:",
            help="Queues a job for the worker: nine short examples, read at three points of training." + ("" if worker_status().alive else " The worker is not running: it would wait."),
            on_click=act, args=(launch.launch_inside, [one.id for one in missing]),
            kwargs={"slot": "inside", "done": "It is in the queue; progress stands below."},
        )  # fmt: skip
    if found:
        examples = {source: sum(one.source == source for one in found.examples) for source in ("narrow", "safe")}
        st.caption(
            f"Read {ago(found.created)} in {duration(found.seconds)} from adapter {plain(found.adapter_hash)}: "
            f"{examples['narrow']} examples of its training data and {examples['safe']} of the safe pool, without any prompt or steering "
            "that is on in training only. The same in a terminal: `ema inside RUN`."
        )
        for note in found.notes:
            st.warning(plain(note), icon=":material/warning:")
    return found


def _under_way(runs: list[RunDirectory]) -> bool:
    """Whether a job reads one of them already; its progress stands below."""
    ids = {run.id for run in runs}
    return any(job.kind == "inside" and job.status in ("queued", "running") and ids & set(job.runs) for job in queue.jobs())


def _fresh(run: RunDirectory) -> bool:
    found = inside.read(run)
    return found is not None and inside.fresh(run, found)


if __name__ == "__main__":
    page()
