"""Where the form's settings come from, and what changes against that run, or else against the last one."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from ema_core.errors import EmaError
from ema_core.jobs.cells import same_runs
from ema_core.runs import RunDirectory, RunSpec, differences
from pages.widgets.chrome import act, plain, show_error
from pages.widgets.form_fill import fill_form
from pages.widgets.run_picker import newest_first, run_info, run_link

ORIGIN, PARAM = "form-origin", "from"
MOST_SAME = 3


def from_address(arrived: bool) -> None:
    """``?from=RUN`` fills the form when one comes to the page with it, and not again while one works there."""
    asked = st.query_params.get(PARAM)
    if not asked or (not arrived and st.session_state.get("form-from") == asked):
        return
    st.session_state["form-from"] = asked
    try:
        copy(RunDirectory.open(asked).id)
    except EmaError as error:
        show_error(error.message, error.hint)


def copy(run_id: str) -> None:
    """Put a run's settings into the form, to change one thing in.

    Raises:
        EmaError: there is no such run, or its settings cannot be read.
    """
    fill_form(RunDirectory.open(run_id).spec)
    st.session_state[ORIGIN] = st.session_state["form-from"] = st.query_params[PARAM] = run_id


def changes(spec: RunSpec) -> None:
    """Beside the launch button: field, before, now; the same run where it exists already; and the way back."""
    reference, why = _reference()
    if reference is None:
        return
    run_id = reference.id
    copied = why == "copied"
    info = run_info(run_id)
    st.markdown(f"**What changes against {'the run that was copied' if copied else 'the last run'}**")
    run_link(run_id, f"{info.name or info.defense} · seed {info.seed} · {run_id[-4:]}")
    found = differences(reference.spec, spec)
    if found:
        rows = [(plain(change.field), plain(change.old), plain(change.new)) for change in found]
        st.table(
            pd.DataFrame(rows, columns=["Field", "Copied run" if copied else "Last run", "Now"]),
            border="horizontal",
            hide_index=True,
        )
    else:
        st.caption("Nothing.")
    _same(spec)
    st.button(
        "Back to the settings of that run", key="form-back", icon=":material/undo:", type="tertiary", disabled=not found, on_click=act,
        args=(copy, run_id), kwargs={"slot": "launch"}, help=None if found else "The form says the same already.",
    )  # fmt: skip


def _same(spec: RunSpec) -> None:
    """Runs with this setting and seed: another one would give the same numbers on the same machine."""
    same = same_runs(spec)
    if not same:
        return
    st.info(
        "This run exists already: same settings, same seed. Another one gives the same numbers on the same machine; "
        "choose another seed to see the spread.", icon=":material/content_copy:",
    )  # fmt: skip
    for run in same[:MOST_SAME]:
        run_link(run.id, f"{run_info(run.id).name or run.id} ({run.state().status})")


def _reference() -> tuple[RunDirectory | None, str]:
    """The run that was copied; without one, the newest whose settings can be read."""
    known = newest_first()
    if (origin := st.session_state.get(ORIGIN)) in known:
        try:
            run = RunDirectory.open(origin)
            _ = run.spec
            return run, "copied"
        except EmaError:
            pass
    for run_id in known:
        info = run_info(run_id)
        if not info.problem and not info.recorded:
            return RunDirectory.open(run_id), "last"
    return None, ""
