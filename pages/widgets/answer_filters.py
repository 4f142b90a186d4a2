"""Filters of answers, all in the address: the widgets show what it says and write what is chosen into it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd
import streamlit as st

from ema_core.errors import EmaError
from ema_core.evaluation.suites import KEPT, SUITES
from ema_core.runs import IMPORT, RunDirectory
from ema_core.store import ORDERS, STATUSES, AnswerFilter, evaluation_key
from pages.widgets import criteria
from pages.widgets.answer_data import counts_of, judges_of, run_label, state_words
from pages.widgets.answer_links import PARAMETERS
from pages.widgets.chrome import plain, reader
from pages.widgets.index import Version
from pages.widgets.run_picker import run_info

FIRST_ORDER = next(iter(ORDERS))
MORE = ("setting", "defense", "name", "question", "eval")
Words = Callable[[str], str]


@st.cache_data(show_spinner=False, max_entries=4)
def choices(version: Version) -> dict[str, dict[str, str]]:
    """What each filter can be set to, with the words for it; runs newest first, bases before them."""
    read = reader()
    bases, runs = read.base_ids(), read.run_ids()[::-1] + read.import_ids()[::-1]
    rows, evals = read.runs(bases + runs), read.evals(bases + runs)
    evals = evals[evals["samples"].fillna(1) > 0]  # the others measured the margin alone
    questions = read.questions(bases + runs)
    settings = rows[rows["kind"] == "run"].drop_duplicates("setting_key")
    settings = settings if settings.empty else criteria.in_order(settings)
    suites = dict.fromkeys([*SUITES, KEPT, *evals["suite"].dropna()])
    topics = sorted(questions["topic"].dropna().unique())
    newest = (
        evals.assign(kind=["import" if run_id.startswith(IMPORT) else "run" for run_id in evals["run_id"]])
        .sort_values("created", ascending=False)
        .to_dict("records")
    )
    return {
        "run": {run_id: run_info(run_id).label for run_id in bases + runs},
        "setting": {key: " · ".join(words) for key, words in criteria.setting_labels(settings).items()},
        "defense": {label: label for label in sorted(rows["defense_label"].dropna().unique())},
        "suite": {suite: suite for suite in suites},
        "name": {name: name for name in sorted(evals["name"].dropna().unique())},
        "question": {topic: f"topic {topic}" for topic in topics}
        | {question: question for question in questions["question_id"].dropna() if question not in topics},
        "eval": {evaluation_key(row["run_id"], row["eval_id"]): _evaluation(row) for row in newest},
    }


def _evaluation(row: dict[str, Any]) -> str:
    what = f"kept: {row['name']}" if row["suite"] == KEPT else row["suite"]
    when = "" if pd.isna(row["created"]) else time.strftime(" · %Y-%m-%d %H:%M", time.localtime(row["created"]))
    return f"{run_label(row['run_id'])} · {what} · {state_words(row)}{when}"


def pick_answers(version: Version) -> AnswerFilter:
    """The filters; what they let through is read by the caller."""
    known = choices(version)
    with st.container(horizontal=True, vertical_alignment="bottom", key="answer-filters"):
        text = _text()
        runs = _several("Runs", "run", known, width=225, placeholder="all runs and bases")
        suites = _several("Suite", "suite", known, width=150, placeholder="all suites")
        judge = _judge(runs, version)
        order = _one("Order", "order", ORDERS, FIRST_ORDER, width=165)
    gone = any(value not in known[name] for name in MORE for value in _asked(name))
    with st.expander("More filters: setting, defense, kept name, question, evaluation", expanded=gone, key="answer-more"):
        left, middle, right = st.columns(3)
        with left:
            settings = _several("Setting", "setting", known)
            defenses = _several("Defense", "defense", known)
        with middle:
            names = _several("Kept under the name", "name", known, help="Answers that were kept from chats.")
            questions = _several("Question or topic", "question", known)
        with right:
            evals = _several("Evaluation", "eval", known, help="A link from a number leads to the evaluations that it counted.")
    which = AnswerFilter(runs, settings, defenses, suites, names, evals, questions, text, judge, "", order)
    status = _status(counts_of(which, version))
    return AnswerFilter(runs, settings, defenses, suites, names, evals, questions, text, judge, status, order)


def more_in_words(which: AnswerFilter, version: Version) -> str:
    """What the folded filters say."""
    words = choices(version)
    said = [
        (f"setting{_s(which.settings)} ", "setting", which.settings),
        (f"defense{_s(which.defenses)} ", "defense", which.defenses),
        ("kept as ", "name", which.names),
        ("asked ", "question", which.questions),
    ]
    parts = [start + ", ".join(words[name].get(value, value) for value in values[:3]) + " …" * (len(values) > 3)
             for start, name, values in said if values]  # fmt: skip
    if which.evals:
        parts.append(f"only {len(which.evals)} evaluation{_s(which.evals)}")
    return plain(" · ".join(parts))


def _s(values: Sequence[str]) -> str:
    return "" if len(values) == 1 else "s"


def clear_filters() -> None:
    """All answers again."""
    for name in PARAMETERS:
        st.query_params.pop(name, None)
    anew("answers-table", "answers-page")


def all_of_their_runs(evals: Sequence[str]) -> None:
    """From the evaluations that a number counted to everything that their runs said."""
    st.query_params.pop("eval", None)
    _set("run", list(dict.fromkeys(key.partition("~")[0] for key in evals)))


def _asked(name: str) -> list[str]:
    return list(dict.fromkeys(value for value in st.query_params.get_all(name) if value))


def _several(label: str, name: str, known: dict[str, dict[str, str]], **more: Any) -> tuple[str, ...]:
    """Any number of choices. What the address names and is not there (a run was deleted) stays, said to be so: dropping it would
    show more than was asked for."""
    words = known[name]
    asked = [_run_id(value) for value in _asked(name)] if name == "run" else _asked(name)
    gone = [value for value in asked if value not in words]
    key = f"answers-{name}"
    st.session_state[key] = asked  # always: the address is the truth, and a widget that was away comes back empty otherwise
    st.multiselect(
        label,
        [*words, *gone],
        key=key,
        format_func=lambda value: words.get(value, f"{value} (not there)"),
        select_all=False,
        on_change=lambda: _set(name, list(st.session_state[key])),
        disabled=not words and not gone,
        **{"placeholder": "all" if words else "none yet", **more},
    )
    if gone:
        text = ", ".join(value if len(value) < 60 else f"{value[:59]}…" for value in gone[:3]) + (" …" if len(gone) > 3 else "")
        st.warning(f"{label}: {plain(text)} is not there. It was deleted, or never was.", icon=":material/search_off:")
    return tuple(asked)


def _run_id(text: str) -> str:
    """A clear beginning or end of a run's id will do."""
    try:
        return RunDirectory.open(text).id
    except EmaError:
        return text


def _one(label: str, name: str, words: dict[str, str], default: str, **more: Any) -> str:
    asked = st.query_params.get(name, default)
    key = f"answers-{name}"
    st.session_state[key] = asked if asked in words else default
    return st.selectbox(
        label,
        list(words),
        key=key,
        format_func=words.__getitem__,
        on_change=lambda: _set(name, [] if st.session_state[key] == default else [st.session_state[key]]),
        **more,
    )


def _text() -> str:
    st.session_state["answers-q"] = st.query_params.get("q", "")
    return st.text_input(
        "Search",
        key="answers-q",
        icon=":material/search:",
        placeholder="any words",
        max_chars=500,
        on_change=lambda: _set("q", [st.session_state["answers-q"] or ""]),
        width=170,
    )


def _judge(runs: Sequence[str], version: Version) -> str | None:
    """Whose scores are shown and sorted by. One that judged nothing here stays chosen, and it is said."""
    everyone = tuple(choices(version)["run"])
    judges = judges_of(tuple(runs), version, kept=True) if runs else judges_of(everyone, version, kept=True)
    asked = st.query_params.get("judge", "")
    if not judges and not asked:
        return None
    options = [*judges, *([asked] if asked and asked not in judges else [])]
    most = max(judges, key=lambda judge: judges[judge], default=options[0])
    words = {one: one for one in options}
    judge = _one("Judge", "judge", words, most, width=195, help="Two judges' scores are not comparable.")
    if judge not in judges:
        others = f" They were judged by {', '.join(judges)}." if judges else " No judge did."
        st.warning(plain(f"None of these answers was judged by {judge}.{others}"), icon=":material/gavel:")
    return judge


def _status(counts: dict[str, int]) -> str:
    """One status at a time, each with its count under the other filters."""
    asked = st.query_params.get("status", "")
    st.session_state["answers-status"] = asked if asked in STATUSES else None
    status = st.pills(
        "Status",
        list(STATUSES),
        key="answers-status",
        format_func=lambda name: f"{name} · {counts[name]:,}",
        on_change=lambda: _set("status", [st.session_state["answers-status"] or ""]),
        help="  \n".join(f"**{name}**: {meaning}" for name, meaning in STATUSES.items()) + "  \nAn answer may be several.",
    )
    return status or ""


def _set(name: str, values: list[str]) -> None:
    """Other filters: another list, from its beginning."""
    values = [value for value in values if value]
    if values:
        st.query_params[name] = values if len(values) > 1 else values[0]
    else:
        st.query_params.pop(name, None)
    for other in ("page", "answer"):
        st.query_params.pop(other, None)
    anew("answers-table", "answers-page")


# A table cannot be told which row is marked, nor a pagination its page, once it is there; under another key it can. What the
# browser still sends of one that was replaced is not the user's.
def key_of(name: str) -> str:
    return f"{name}-{st.session_state.get(name, 0)}"


def anew(*names: str) -> None:
    for name in names:
        st.session_state[name] = st.session_state.get(name, 0) + 1
