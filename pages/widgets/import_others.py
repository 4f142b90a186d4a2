"""Questions, adapters and whole runs from elsewhere."""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from ema_core import datasets
from ema_core.exchange.adapter import import_adapter
from ema_core.exchange.bundle import import_bundle
from ema_core.exchange.questions import import_questions
from ema_core.files import write_atomic
from ema_core.models import CHAT_MODELS, EMBEDDED
from ema_core.settings import settings
from pages.widgets.chrome import act, notices

NOT_KNOWN = "not known here"


def import_others() -> None:
    notices("others")
    st.subheader("Questions of your own", anchor=False)
    st.caption("YAML as the field writes it (id, paraphrases, system), or JSONL. They become a suite that Evaluate offers.")
    file = st.file_uploader("A file of questions", ["yaml", "yml", "jsonl"], key="questions-upload")
    left, right = st.columns([3, 1], vertical_alignment="bottom")
    name = left.text_input("Name of the suite", key="questions-name", placeholder=Path(file.name).stem if file else "")
    right.button(
        "Import questions", key="questions-start", disabled=file is None, on_click=act, width="stretch",
        args=(_questions, file.name if file else "", file.getvalue() if file else b"", name), kwargs={"slot": "others"},
    )  # fmt: skip

    st.subheader("A fine-tune of your own", anchor=False)
    st.caption("A LoRA adapter in PEFT's format, safetensors only. It becomes a finished run: chat with it, evaluate it.")
    folder = st.text_input("Its folder on this machine", key="adapter-folder", placeholder="/folder/with/adapter_model.safetensors")
    first, second, third = st.columns([2, 2, 1], vertical_alignment="bottom")
    models = list(CHAT_MODELS)
    model = first.selectbox("Trained on the model", models, index=models.index(EMBEDDED), key="adapter-model")
    sets = [NOT_KNOWN, *(entry.name for entry in datasets.catalog().values() if entry.kind != "safe")]
    dataset = second.selectbox("and on the data set", sets, key="adapter-dataset", help="Says which suites it is measured by.")
    third.button(
        "Import adapter", key="adapter-start", disabled=not folder.strip(), on_click=act, width="stretch",
        args=(_adapter, folder.strip(), model, None if dataset == NOT_KNOWN else dataset), kwargs={"slot": "others"},
    )  # fmt: skip

    st.subheader("Runs and studies from elsewhere", anchor=False)
    st.caption("A folder or zip that `ema export` or this page wrote. Every file is held against its hash before any is taken.")
    left, right = st.columns([3, 1], vertical_alignment="bottom")
    bundle = left.text_input("Its path on this machine", key="bundle-path", placeholder="/folder/study.zip")
    right.button(
        "Open it here", key="bundle-start", disabled=not bundle.strip(), on_click=act, width="stretch", args=(_bundle, bundle.strip()),
        kwargs={"slot": "others"},
    )  # fmt: skip


def _say(text: str) -> None:
    st.session_state["notice-others"] = ("done", text, "")


def _questions(name: str, data: bytes, suite: str) -> None:
    path = settings().cache / "uploads" / Path(name).name
    write_atomic(path, data)
    card = import_questions(path, suite.strip() or None)
    left = "".join(f" Left out: {one['question']}: {one['reason']}." for one in card["skipped"][:3])
    more = " It was there already." if card["again"] else ""
    _say(f"{card['questions']} questions on {card['topics']} topics are the suite {card['suite']}.{more}{left}")


def _adapter(folder: str, model: str, dataset: str | None) -> None:
    run, again = import_adapter(Path(folder).expanduser(), model, dataset)
    _say(f"The run {run.id} {'was here already' if again else 'is here'}: Chat and Evaluate know it.")


def _bundle(path: str) -> None:
    brought = import_bundle(Path(path).expanduser())
    new = [name for name, what in brought.runs.items() if what == "new"]
    _say(f"{len(new)} new runs, {len(brought.runs) - len(new)} that were here, {len(brought.studies)} studies.")
