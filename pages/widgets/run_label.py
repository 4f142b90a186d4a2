"""Name, tags and note of a run, kept as soon as they are changed: nothing typed waits for a button."""

from __future__ import annotations

from typing import Any

import streamlit as st

from ema_core.runs import RunDirectory, read_label, tags_of, write_label
from ema_core.runs.label import MAX_NAME, MAX_NOTE, MAX_TAGS
from ema_core.settings import settings
from pages.widgets.chrome import act, notices, plain
from pages.widgets.run_picker import newest_first, run_info


def known_tags() -> list[str]:
    """All tags that runs here have."""
    return sorted({tag for run_id in newest_first() for tag in run_info(run_id).tags}, key=str.casefold)


def run_label(run: RunDirectory) -> None:
    """Three fields, each of which writes itself. What another page or the command line writes meanwhile is shown at the next run."""
    label = read_label(run)
    values: dict[str, Any] = {"name": label.name or "", "tags": list(label.tags), "note": label.note}
    written = st.session_state.setdefault(f"label-seen-{run.id}", {})
    for field, value in values.items():
        key = _key(field, run.id)
        if key not in st.session_state or written.get(field, value) != value:
            st.session_state[key] = value
        written[field] = value
    left, right = st.columns(2)
    common: dict[str, Any] = {"on_change": act, "kwargs": {"slot": f"label-{run.id}"}}
    with left:
        st.text_input(
            "Name", key=_key("name", run.id), max_chars=MAX_NAME, placeholder="what this run tried", args=(_write, run, "name"), **common,
            help="Stands in all pickers, legends and tables. The id stays.",
        )  # fmt: skip
    with right:
        st.multiselect(
            "Tags", list(dict.fromkeys([*tags_of([run]), *known_tags(), *st.session_state[_key("tags", run.id)]])),
            key=_key("tags", run.id), accept_new_options=True, max_selections=MAX_TAGS, select_all=False, args=(_write, run, "tags"),
            placeholder="Choose or type", help="The pickers of runs and Compare can be narrowed to them.", **common,
        )  # fmt: skip
    st.text_area(
        "Note", key=_key("note", run.id), max_chars=MAX_NOTE, height=90, args=(_write, run, "note"), **common,
        placeholder="what was expected, what was seen",
    )  # fmt: skip
    notices(f"label-{run.id}")
    st.caption(f"Kept as you leave a field, in {plain(f'{run.path.relative_to(settings().home)}/label.json')}.")


def _write(run: RunDirectory, field: str) -> None:
    write_label(run, **{field: st.session_state[_key(field, run.id)]})


def _key(field: str, run_id: str) -> str:
    return f"label-{field}-{run_id}"
