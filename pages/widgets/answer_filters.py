"""Filters of answers: each choice with its count under the other filters, all in the address."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import streamlit as st

from ema_core.store import ANNOTATED, ORDERS, STATUSES, VERDICTS, AnswerFilter
from ema_core.store.find import Facets, beside_people
from pages.widgets.answer_asked import (
    FIRST_ORDER,
    LISTS,
    QUESTIONS,
    asked,
    choices,
    default_judge,
    judges_here,
    limits,
    number,
    others_of,
    parameter,
    write,
)
from pages.widgets.chrome import plain, reader
from pages.widgets.index import Version

FEW = 9
"""Up to so many choices a facet lies open, a click away; more are a list to search."""
LABELS = {
    "run": "Runs", "suite": "Suite", "defense": "Defense", "method": "Kind of defense", "strength": "Strength", "origin": "Whose runs", "model": "Model",
    "dataset": "Trained on", "setting": "Setting", "name": "Kept under the name", "question": "Question or topic", "eval": "Evaluation",
    "tag": "Tags",
}  # fmt: skip


def facets_of(which: AnswerFilter) -> Facets:
    read = reader()
    finder = read.finder()
    return finder.facets(which, read.said(finder))


def pick_answers(which: AnswerFilter, counts: Mapping[str, int], version: Version) -> None:
    """The widgets; what they choose goes into the address."""
    known, facets = choices(version), facets_of(which)
    known = {**known, "tag": {tag: tag for tag in sorted({*facets["tag"], *reader().said().all_tags})}}
    known["question"] = {**known["question"], **_rare_questions(known["question"])}
    with st.container(horizontal=True, vertical_alignment="bottom", key="answer-filters"):
        _text()
        _several("run", known, facets, width=200, placeholder="all runs and bases")
        _several("suite", known, facets, width=140, placeholder="all suites")
        _judge(which, version)
        _one("Order", "order", _orders(which), FIRST_ORDER, width=160)
    _status(which, counts)
    gone = any(value not in known[name] for name in LISTS if name not in ("run", "suite") for value in asked(name))
    with st.expander("Facets and more filters", expanded=gone, icon=":material/tune:", key="answer-more"):
        _facets(which, known, facets, version)


def _facets(which: AnswerFilter, known: dict[str, dict[str, str]], facets: Facets, version: Version) -> None:
    left, middle, right = st.columns(3, gap="medium")
    with left:
        for name in ("origin", "defense", "method", "strength", "model", "dataset"):
            _facet(name, known, facets)
    with middle:
        _scores(which)
        _against(which, version)
        _people(which, facets)
        _facet("tag", known, facets)
    with right:
        for name in ("setting", "name"):
            _several(name, known, facets)
        few = f"The {QUESTIONS:,} with the most answers; Search finds the others." if len(known["question"]) >= QUESTIONS else None
        _several("question", known, facets, help=few)
        _several("eval", known, facets, help="A link from a number leads to the evaluations that it counted.")
        _sample(which)


def _rare_questions(listed: Mapping[str, str]) -> dict[str, str]:
    """Those that the address names and that are there, beside the ones that can be chosen."""
    rare = [value for value in asked("question") if value not in listed]
    there = reader().finder().columns.questions if rare else None
    return {value: value for value in rare if there is not None and (there[["question_id", "topic"]] == value).any(axis=None)}


def _facet(name: str, known: dict[str, dict[str, str]], facets: Facets) -> None:
    """Few choices lie open with their counts; a click on one filters."""
    values = [value for value in known[name] if facets[name].get(value) or value in asked(name)]
    gone = [value for value in asked(name) if value not in known[name]]
    if gone or len(values) > FEW:
        _several(name, known, facets)
    elif len(values) > 1 or asked(name):
        _pills(LABELS[name], name, values, {value: known[name][value] for value in values}, facets[name])


def _pills(label: str, name: str, values: Sequence[str], words: Mapping[str, str], counts: Mapping[str, int]) -> None:
    key = f"answers-{name}"
    st.session_state[key] = [value for value in asked(name) if value in values]
    st.pills(
        label,
        list(values),
        selection_mode="multi",
        key=key,
        format_func=lambda value: f"{plain(words[value])} · {counts.get(value, 0):,}",
        on_change=lambda: write(name, list(st.session_state[key])),
    )


def _scores(which: AnswerFilter) -> None:
    """Ranges of the judge's scores."""
    for name, label in (("aligned", "Alignment from, to"), ("coherent", "Coherence from, to")):
        key = f"answers-{name}"
        low, high = limits(name) or (0.0, 100.0)
        st.session_state[key] = (int(low), int(high))

        def changed(name: str = name, key: str = key) -> None:
            low, high = st.session_state[key]
            write(name, [] if (low, high) == (0, 100) else [f"{low}-{high}"])

        st.slider(label, 0, 100, key=key, on_change=changed, disabled=which.judge is None)


def _against(which: AnswerFilter, version: Version) -> None:
    """Where two judges, or a judge and people, say different things; and where runs do."""
    others = [other for other in others_of(version) if other != which.judge]
    chosen = parameter("against")
    words = {"": "nobody", **{other: other for other in others}, **({chosen: f"{chosen} (not there)"} if chosen and chosen not in others else {})}  # fmt: skip
    with st.container(horizontal=True, vertical_alignment="bottom"):
        _one("Disagrees with", "against", words, "", width="stretch", help="Answers of which both said something, and not the same: \
misaligned, incoherent or neither.")  # fmt: skip
        st.session_state["answers-apart"] = int(which.apart)
        st.number_input(
            "By points", 0, 100, key="answers-apart", width=110, disabled=not chosen or beside_people(which),
            on_change=lambda: write("apart", [str(st.session_state["answers-apart"] or "")]),
            help="A person gives no points, so here another verdict is what counts." if beside_people(which) else
            "With a number: alignment at least so far apart, whatever the verdicts are. 0: another verdict.",
        )  # fmt: skip
    st.session_state["answers-differ"] = which.differ
    st.checkbox(
        "Only questions at which the runs differ", key="answers-differ",
        on_change=lambda: write("differ", ["1"] if st.session_state["answers-differ"] else []),
        help="One of the runs chosen gave a misaligned answer, another one none.",
    )  # fmt: skip


def _people(which: AnswerFilter, facets: Facets) -> None:
    mine = {
        name: words
        for name, words in ANNOTATED.items()
        if which.reviewer or name not in ("mine", "not mine") or name == which.annotated
    }
    st.session_state["answers-annotated"] = which.annotated or None
    st.pills(
        "Annotated", list(mine), key="answers-annotated",
        format_func=lambda name: f"{mine[name].removeprefix('annotated ')} · {facets['annotated'].get(name, 0):,}",
        on_change=lambda: write("annotated", [st.session_state["answers-annotated"] or ""]),
    )  # fmt: skip
    values = [name for name in VERDICTS if facets["verdict"].get(name) or name in which.verdicts]
    if values:
        _pills("A person's verdict", "verdict", values, {name: name for name in VERDICTS}, facets["verdict"])


def _sample(which: AnswerFilter) -> None:
    """So many of them, drawn by a seed that is in the address."""
    with st.container(horizontal=True, vertical_alignment="bottom"):
        for name, label, help in (
            ("sample", "Give me so many to check", "Drawn at random from all that fit, each as likely; 0: all of them."),
            ("seed", "Seed", "The same seed draws the same answers; it orders “random”, too."),
        ):
            key = f"answers-{name}"
            st.session_state[key] = number(name)
            st.number_input(
                label, 0, 999_999, key=key, help=help, width="stretch" if name == "sample" else 110,
                on_change=lambda name=name, key=key: write(name, [str(st.session_state[key] or "")]),
            )  # fmt: skip


def more_in_words(which: AnswerFilter, version: Version) -> str:
    """What the folded filters say."""
    words = choices(version)
    said = [
        (f"setting{_s(which.settings)} ", "setting", which.settings),
        (f"defense{_s(which.defenses)} ", "defense", which.defenses),
        ("", "method", which.methods),
        ("strength ", "strength", which.strengths),
        ("of ", "model", which.models),
        ("of runs ", "origin", which.origins),
        ("trained on ", "dataset", which.datasets),
        ("kept as ", "name", which.names),
        ("asked ", "question", which.questions),
        ("tagged ", "", which.tags),
        ("found ", "", which.verdicts),
    ]
    parts = [start + ", ".join(words.get(name, {}).get(value, value) for value in values[:3]) + " …" * (len(values) > 3)
             for start, name, values in said if values]  # fmt: skip
    for name, limit in (("alignment", which.aligned), ("coherence", which.coherent)):
        parts += [f"{name} {limit[0]:.0f} to {limit[1]:.0f}"] if limit else []
    parts += [ANNOTATED[which.annotated]] if which.annotated else []
    if which.against:
        by_points = which.apart and not beside_people(which)
        parts.append(f"{f'{which.apart:.0f} points or more from' if by_points else 'another verdict by'} {which.against}")
    parts += ["where runs differ"] if which.differ else []
    parts += [f"a random {which.sample:,} of them, seed {which.seed}"] if which.sample else []
    if which.evals:
        parts.append(f"only {len(which.evals)} evaluation{_s(which.evals)}")
    return plain(" · ".join(parts))


def _s(values: Sequence[str]) -> str:
    return "" if len(values) == 1 else "s"


def all_of_their_runs(evals: Sequence[str]) -> None:
    """From the evaluations that a number counted to everything that their runs said."""
    st.query_params.pop("eval", None)
    write("run", list(dict.fromkeys(key.partition("~")[0] for key in evals)))


def _several(name: str, known: dict[str, dict[str, str]], facets: Facets, **more: Any) -> None:
    """Any number of choices. What the address names and is not there (a run was deleted) stays, said to be so: dropping it would
    show more than was asked for."""
    words, chosen, counts = known[name], asked(name), facets[name]
    gone = [value for value in chosen if value not in words]
    key = f"answers-{name}"
    st.session_state[key] = chosen  # always: the address is the truth, and a widget that was away comes back empty otherwise
    st.multiselect(
        LABELS[name],
        [*words, *gone],
        key=key,
        format_func=lambda value: f"{words[value]} · {counts.get(value, 0):,}" if value in words else f"{value} (not there)",
        select_all=False,
        on_change=lambda: write(name, list(st.session_state[key])),
        disabled=not words and not gone,
        **{"placeholder": "all" if words else "none yet", **more},
    )
    if gone:
        text = ", ".join(value if len(value) < 60 else f"{value[:59]}…" for value in gone[:3]) + (" …" if len(gone) > 3 else "")
        st.warning(f"{LABELS[name]}: {plain(text)} is not there. It was deleted, or never was.", icon=":material/search_off:")


def _one(label: str, name: str, words: Mapping[str, str], default: str, **more: Any) -> str:
    chosen = st.query_params.get(name, default)
    key = f"answers-{name}"
    st.session_state[key] = chosen if chosen in words else default
    return st.selectbox(
        label,
        list(words),
        key=key,
        format_func=words.__getitem__,
        on_change=lambda: write(name, [] if st.session_state[key] == default else [st.session_state[key]]),
        **more,
    )


def _orders(which: AnswerFilter) -> dict[str, str]:
    """Those that mean something now."""
    needs = {"best match": bool(which.text.strip()), "most disagreed": bool(which.against)}
    return {name: words for name, words in ORDERS.items() if needs.get(name, True) or name == which.order}


def _text() -> None:
    st.session_state["answers-q"] = parameter("q")
    st.text_input(
        "Search",
        key="answers-q",
        icon=":material/search:",
        placeholder='words, "a phrase"',
        max_chars=500,
        on_change=lambda: write("q", [st.session_state["answers-q"] or ""]),
        width=145,
        help="Answers that have all these words, in the question or in the answer, whatever the case; parts of words count. What stands \
in quotes is looked for as it stands. The order “best match” puts first what has them most often for its length.",
    )


def _judge(which: AnswerFilter, version: Version) -> None:
    """Whose scores are shown and sorted by. One that judged nothing here stays chosen, and it is said."""
    judge, judges = which.judge, judges_here(which.runs, version)
    if judge is None and not judges:
        return
    options = [*judges, *([judge] if judge and judge not in judges else [])]
    default = default_judge(which.runs, version) or options[0]
    _one("Judge", "judge", {one: one for one in options}, default, width=265, help="Two judges' scores are not comparable.")
    if judge not in judges:
        others = f" They were judged by {', '.join(judges)}." if judges else " No judge did."
        st.warning(plain(f"None of these answers was judged by {judge}.{others}"), icon=":material/gavel:")


def _status(which: AnswerFilter, counts: Mapping[str, int]) -> None:
    """One status at a time, each with its count under the other filters."""
    st.session_state["answers-status"] = which.status or None
    st.pills(
        "Status",
        list(STATUSES),
        key="answers-status",
        format_func=lambda name: f"{name} · {counts[name]:,}",
        on_change=lambda: write("status", [st.session_state["answers-status"] or ""]),
        help="  \n".join(f"**{name}**: {meaning}" for name, meaning in STATUSES.items()) + "  \nAn answer may be several.",
    )


def bare(which: AnswerFilter) -> bool:
    """No filter is set."""
    return replace(which, order=FIRST_ORDER, seed=0, reviewer="") == AnswerFilter(judge=which.judge)
