"""What an address of Samples asks for, and writing into it. Widgets show what it says; they hold nothing of their own."""

from __future__ import annotations

import contextlib
import os
import re
import time
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st

from ema_core.errors import EmaError
from ema_core.evaluation.suites import KEPT, SUITES
from ema_core.runs import RunDirectory
from ema_core.shared import current
from ema_core.store import (
    ANNOTATED,
    HUMAN,
    ORDERS,
    PEOPLE,
    STATUSES,
    VERDICTS,
    AnswerFilter,
    evaluation_key,
    reviewer_name,
)
from pages.widgets import criteria
from pages.widgets.answer_data import judges_of, run_label, state_words
from pages.widgets.answer_links import PARAMETERS
from pages.widgets.chrome import by_user, reader
from pages.widgets.index import Version
from pages.widgets.run_picker import run_info

FIRST_ORDER = next(iter(ORDERS))
LISTS = {
    "run": "runs", "setting": "settings", "model": "models", "dataset": "datasets", "defense": "defenses", "method": "methods",
    "strength": "strengths", "origin": "origins", "suite": "suites", "name": "names", "eval": "evals", "question": "questions", "tag": "tags",
}  # fmt: skip
"""Parameters that may be repeated, and the filter's fields."""
QUESTIONS = 1000
"""So many questions and topics, those with the most answers, can be chosen: each is sent to the browser. An address may name any."""
WORKSHOP = "EMA_WORKSHOP"


@st.cache_data(show_spinner=False, max_entries=4)
def choices(version: Version) -> dict[str, dict[str, str]]:
    """What each filter can be set to, with the words for it; runs newest first, bases before them."""
    read = reader()
    everything = read.base_ids() + read.import_ids() + read.run_ids()[::-1]
    rows, evals = read.runs(everything), read.evals(everything)
    evals = evals[evals["samples"].fillna(1) > 0]  # the others measured the margin alone
    known = read.finder().columns
    settings = rows[rows["kind"] == "run"].drop_duplicates("setting_key")
    settings = settings if settings.empty else criteria.in_order(settings)
    suites = dict.fromkeys([*SUITES, KEPT, *evals["suite"].dropna()])
    answers = pd.Series(np.bincount(known.question, minlength=len(known.questions)))
    topics, questions = (answers.groupby(known.questions[name]).sum() for name in ("topic", "question_id"))
    topics, questions = topics.index, pd.concat([topics, questions.drop(topics.index, errors="ignore")]).nlargest(QUESTIONS).index
    newest = evals.assign(kind="run").sort_values("created", ascending=False).to_dict("records")
    return {
        "run": {run_id: run_info(run_id).label for run_id in everything},
        "setting": {key: " · ".join(words) for key, words in criteria.setting_labels(settings).items()},
        **{
            name: _each(rows[column]) for name, column in (("model", "model"), ("dataset", "dataset"), ("defense", "defense_label"))
        },
        **{name: _each(pd.Series(known.evals[f"{name}s"].explode())) for name in ("method", "strength")},
        "origin": _each(known.evals["origin"]),
        "suite": {suite: suite for suite in suites},
        "name": _each(evals["name"]),
        "question": {topic: f"topic {topic}" for topic in sorted(questions.intersection(topics))}
        | {question: question for question in sorted(questions.difference(topics))},
        "eval": {evaluation_key(row["run_id"], row["eval_id"]): _evaluation(row) for row in newest},
    }


def _each(values: pd.Series) -> dict[str, str]:
    return {value: value for value in sorted(values.dropna().unique())}


def _evaluation(row: dict[str, Any]) -> str:
    what = f"kept: {row['name']}" if row["suite"] == KEPT else row["suite"]
    when = "" if pd.isna(row["created"]) else time.strftime(" · %Y-%m-%d %H:%M", time.localtime(row["created"]))
    return f"{run_label(row['run_id'])} · {what} · {state_words(row)}{when}"


def asked_answers(version: Version) -> AnswerFilter:
    """The filter that the address says. Nonsense in it is no condition; what is not there stays one, so that nothing more is shown."""
    lists = {field: tuple(asked(name)) for name, field in LISTS.items()}
    apart, annotated = parameter("apart"), parameter("annotated")
    return AnswerFilter(
        **lists,
        text=parameter("q"),
        judge=judge_of(lists["runs"], version),
        status=_among(parameter("status"), STATUSES),
        order=_among(parameter("order"), ORDERS) or FIRST_ORDER,
        aligned=limits("aligned"),
        coherent=limits("coherent"),
        verdicts=tuple(value for value in asked("verdict") if value in VERDICTS),
        annotated=_among(annotated, ANNOTATED),
        reviewer=reviewer(),
        against=parameter("against"),
        apart=float(apart) if re.fullmatch(r"\d{1,3}", apart) else 0.0,
        differ=parameter("differ") == "1",
        sample=number("sample"),
        seed=number("seed"),
    )  # type: ignore[arg-type]


def judge_of(runs: tuple[str, ...], version: Version) -> str | None:
    """Whose scores are shown. One that judged nothing here stays chosen."""
    return parameter("judge") or default_judge(runs, version)


def default_judge(runs: tuple[str, ...], version: Version) -> str | None:
    """Whose scores an address without a judge shows: who judged most of these runs' answers."""
    judges = _judges(runs, version)
    return max(judges, key=lambda judge: judges[judge], default=None)


def judges_here(runs: tuple[str, ...], version: Version) -> list[str]:
    """Whose scores there are: judges, then people."""
    return [*_judges(runs, version), *people_of()]


def _judges(runs: tuple[str, ...], version: Version) -> dict[str, int]:
    return judges_of(runs or tuple(choices(version)["run"]), version, kept=True)


def people_of() -> list[str]:
    """Reviewers as judges."""
    return [HUMAN + name for name in sorted(set(reader().said().reviewers))]


def others_of(version: Version) -> list[str]:
    """Whom a judge can be held against."""
    people = people_of()
    return [*_judges((), version), *([PEOPLE] if people else []), *people]


def parameter(name: str) -> str:
    return str(st.query_params.get(name, ""))


def asked(name: str) -> list[str]:
    values = dict.fromkeys(value for value in st.query_params.get_all(name) if value)
    return list(dict.fromkeys(_run_id(value) for value in values)) if name == "run" else list(values)


def limits(name: str) -> tuple[float, float] | None:
    """``10-40``: from the first to the second number."""
    found = re.fullmatch(r"(\d{1,3})-(\d{1,3})", parameter(name))
    low, high = (float(part) for part in found.groups()) if found else (0.0, 100.0)
    return (low, high) if low <= high and (low, high) != (0.0, 100.0) else None


def number(name: str) -> int:
    text = parameter(name)
    return int(text) if re.fullmatch(r"\d{1,6}", text) else 0


def _among(text: str, known: object) -> str:
    return text if text in known else ""  # type: ignore[operator]


def _run_id(text: str) -> str:
    """A clear beginning or end of a run's id will do."""
    try:
        return RunDirectory.open(text).id
    except EmaError:
        return text


def reviewer() -> str:
    """Who reviews here: as the session knows, else (after a reload) the address; "" = not said yet. A blind review's address is for
    sharing, so a name in it is nobody's."""
    if (person := current()) is not None:  # of a shared room
        return "" if person.role == "viewer" else person.name
    with contextlib.suppress(EmaError):
        return reviewer_name(str(st.session_state.get("reviewer", "")) or ("" if parameter("blind") else parameter("reviewer")))
    return ""


def veiled() -> bool:
    """Whether answers that were scored as misaligned wait for a click; in a workshop they do unless the address says no."""
    said = parameter("veil")
    return said == "1" or (said != "0" and os.environ.get(WORKSHOP, "") not in ("", "0"))


@by_user
def write(name: str, values: list[str]) -> None:
    """Other filters: another list, from its beginning; by another judge the open answer stays, to see what that one says of it."""
    values = [value for value in values if value]
    if values:
        st.query_params[name] = values if len(values) > 1 else values[0]
    else:
        st.query_params.pop(name, None)
    for other in ("page",) if name == "judge" else ("page", "answer"):
        st.query_params.pop(other, None)
    anew("answers-table", "answers-page")


def clear_filters() -> None:
    """All answers again."""
    for name in PARAMETERS:
        st.query_params.pop(name, None)
    anew("answers-table", "answers-page")


# A table cannot be told which row is marked, nor a pagination its page, once it is there; under another key it can. What the
# browser still sends of one that was replaced is not the user's.
def key_of(name: str) -> str:
    return f"{name}-{st.session_state.get(name, 0)}"


def anew(*names: str) -> None:
    for name in names:
        st.session_state[name] = st.session_state.get(name, 0) + 1
