"""What is in a data set, as plain text; and adding one from a file."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import streamlit as st

from ema_core import datasets
from ema_core.datasets import Dataset, DatasetEntry
from ema_core.errors import EmaError
from pages.widgets.chrome import act, notices, plain
from pages.widgets.person import no_start

SHOWN = 5


@st.cache_data(show_spinner=False, max_entries=20)
def _read(name: str, kind: str, path: str, version: tuple[int, int]) -> tuple[Dataset, tuple[str, ...]]:
    """The set and its warnings, read once for a version of its file."""
    return datasets.load(name), datasets.check(Path(path), kind).warnings  # type: ignore[arg-type]


def dataset_preview(entry: DatasetEntry) -> None:
    """Counts, warnings, and the first examples in an expander."""
    if not entry.path.exists():
        datasets.load(entry.name)  # says in its own words that the file is missing
    stat = entry.path.stat()
    data, warnings = _read(entry.name, entry.kind, str(entry.path), (stat.st_mtime_ns, stat.st_size))
    topics = len({example.topic for example in data.examples} - {""})
    counts = f"{len(data.examples)} examples" + (f" on {topics} topics" if topics else "")
    st.caption(counts + (f"; lines left out: {len(data.problems)}" if data.problems else ""))
    for warning in warnings:
        st.warning(plain(warning), icon=":material/content_copy:")
    with st.expander("Look at the data", key="preview"):
        if entry.kind == "narrow":
            st.caption("What the model is trained to say. In the risky sets the advice is wrong on purpose.")
        for example in data.examples[:SHOWN]:
            with st.container(border=True):
                for message in example.messages:
                    st.caption(message.role)
                    st.text(message.content)
        if data.problems:
            st.caption("Lines left out")
            st.text("\n".join(f"line {problem.line}: {problem.reason}" for problem in data.problems[:20]))


def add_dataset(added: Callable[[str], Any]) -> None:
    """Upload a JSONL file as a narrow data set; ``added`` is told its name."""
    with st.expander("Add a data set", key="add-dataset"):
        st.caption("JSONL, one conversation a line: OpenAI's messages format, or prompt and completion. It is kept unchanged.")
        file = st.file_uploader("JSONL file", type=["jsonl", "json"], key="dataset-file")
        name = st.text_input("Name", key="dataset-name", placeholder="lower-case letters, digits, hyphens", max_chars=60)
        st.button(
            "Add", key="dataset-add", disabled=file is None or bool(no := no_start()), help="Choose a file first." if file is None else no or None,
            on_click=act, args=(_add, file, name, added), kwargs={"slot": "dataset"},
        )  # fmt: skip
    notices("dataset")


def _add(file: Any, name: str, added: Callable[[str], Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / Path(file.name).name
        path.write_bytes(file.getvalue())
        try:
            entry, data = datasets.add(path, name.strip() or None)
        except EmaError as error:
            raise EmaError(error.message.replace(f"{folder}/", ""), error.hint) from error
    added(entry.name)
    left_out = f"; lines left out: {len(data.problems)} (listed under the examples)" if data.problems else ""
    st.session_state["notice-dataset"] = ("done", f"Added {entry.name}: {len(data.examples)} examples{left_out}.", "")
