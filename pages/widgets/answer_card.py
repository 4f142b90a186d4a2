"""One answer in full: what was asked and said, every judge's scores and why, where it comes from, and what others said to the same
question. All that a model or a user wrote is shown as plain text."""

from __future__ import annotations

import json
import time
from typing import Any

import pandas as pd
import streamlit as st

from ema_core.evaluation.measured import recorded_as
from ema_core.judging import is_misaligned
from ema_core.runs import BASE
from ema_core.store import CUT, AnswerKey
from pages.widgets.answer_asked import veiled
from pages.widgets.answer_data import end_words, judges_of, run_label, state_words, why_scored, why_unscored
from pages.widgets.answer_extra import projection, spread
from pages.widgets.answer_links import address
from pages.widgets.answer_list import Listing
from pages.widgets.answer_review import notes_bar, verdict_bar
from pages.widgets.answer_table import open_answer, turn
from pages.widgets.chrome import ago, plain, reader
from pages.widgets.index import up_to_date
from pages.widgets.recorded import recorded_note
from pages.widgets.run_picker import run_link

Row = dict[str, Any]


def answer_card(key: AnswerKey, place: int | None, listed: Listing) -> None:
    """The card, with previous and next. ``place`` None: the answer is not among those found."""
    judge = listed.which.judge
    with st.container(border=True, key="answer-card"):
        _walk(place, listed)
        rows = reader().answer(key).to_dict("records")
        if not rows:
            st.warning(
                "The answer that the address names is not there: its run was deleted or evaluated anew. Next leads to those that "
                "fit the filters.",
                icon=":material/search_off:",
            )
            return
        row = rows[0]
        verdict_bar(key, lambda: _on(listed, place))
        asked_part(row)
        hidden = _hidden(key)
        said_part(f"Answer of {plain(run_label(key.run_id))}", row["answer"], hidden)
        if hidden:
            st.button("Show it", key="answer-unveil", shortcut="V", icon=":material/visibility:", on_click=_unveil, args=(key,))
        notes_bar(key, lambda taken: open_answer(taken.key))
        _scores(rows, judge)
        _people(key)
        projection(key, row)
        _others(row, key, judge, hidden)
        _origin(row)


def _on(listed: Listing, place: int | None) -> None:
    """To the next answer of the list as it was before something was said of this one."""
    if place is not None:
        turn(listed, place + 1)


def _hidden(key: AnswerKey) -> bool:
    """Veiled: some judge or person finds it misaligned, and nobody asked to see it yet."""
    return veiled() and str(key) not in st.session_state.get("unveiled", ()) and bool(reader().found_bad([key]))


def _unveil(key: AnswerKey) -> None:
    st.session_state["unveiled"] = {*st.session_state.get("unveiled", ()), str(key)}


def _walk(place: int | None, listed: Listing) -> None:
    total = listed.total
    with st.container(horizontal=True, vertical_alignment="center", gap="xsmall", key="answer-walk"):
        title = "**Outside the filters**" if place is None else f"**{place + 1:,} of {total:,}**"
        st.markdown(title, width="stretch")
        at = -1 if place is None else place
        for label, key, to in (("Previous", "P", at - 1), ("Next", "N", at + 1)):
            st.button(
                label,
                key=f"answer-{label.lower()}",
                shortcut=key,
                on_click=turn,
                args=(listed, to),
                disabled=not 0 <= to < total,
            )


def said_part(title: str, text: object, hidden: bool = False) -> None:
    """A piece of foreign text under its title."""
    with st.container(gap=None):
        st.caption(f"**{title}**")
        if hidden:
            st.caption("Veiled: a judge or a person finds it misaligned.")
        else:
            _said(text)


def _said(text: object) -> None:
    if str(text).strip():
        st.text(str(text))
    else:
        st.caption("Nothing was said.")


def asked_part(row: Row) -> None:
    for turn_ in _context(row["context"]):
        who = "the user" if turn_.get("role") == "user" else plain(turn_.get("role", "somebody"))
        said_part(f"Earlier, {who}", turn_.get("content", ""))
    if isinstance(row["system"], str) and row["system"]:
        said_part("System prompt", row["system"])
    said_part("Question", row["question"])


def _context(text: object) -> list[Row]:
    """The turns before the question."""
    try:
        turns = json.loads(text) if isinstance(text, str) else []
    except ValueError:
        return []
    return [turn_ for turn_ in turns if isinstance(turn_, dict)] if isinstance(turns, list) else []


def _scores(rows: list[Row], judge: str | None) -> None:
    """A row a judge, the chosen one first."""
    refused = rows[0]["refused"] or any(row["status"] == "refused" for row in rows if row["judge"] == judge)
    marks = [name for name, on in (("refused", refused), ("cut", rows[0]["finish"] in CUT)) if on]
    judged = [row for row in rows if isinstance(row["judge"], str)]
    if judge and judge not in [row["judge"] for row in judged]:
        judged.insert(0, {**rows[0], "judge": judge, "aligned": None, "coherent": None, "status": None})
    if any(is_misaligned(row["aligned"], row["coherent"]) for row in judged if row["judge"] == judge):
        marks.insert(0, "misaligned")
    if marks:
        with st.container(horizontal=True):
            for name in marks:
                st.badge(name, color="red" if name == "misaligned" else "orange")
    if not judged:
        st.caption(f"No scores: {plain(why_unscored(rows[0]))}.")
        return
    judged.sort(key=lambda row: (row["judge"] != judge, row["judge"]))
    cells = pd.DataFrame(
        {
            "Judge, and why": [f"{plain(row['judge'])}  \n:small[:gray[{plain(_why(row))}]]" for row in judged],
            "Aligned": [_score(row["aligned"]) for row in judged],
            "Coherent": [_score(row["coherent"]) for row in judged],
        }
    )
    with st.container(key="answer-scores"):
        st.table(cells, border="horizontal", hide_index=True)
    known = {row["judge"] for row in judged}
    if silent := [one for one in judges_of((rows[0]["run_id"],), up_to_date(), kept=True) if one not in known]:
        st.caption(f"Not scored by {plain(', '.join(silent))}, who judged other answers of this run.")
    spread(judged)


def _people(key: AnswerKey) -> None:
    """What persons said, beside the judges."""
    for one in reader().said().about(key):
        tags = "".join(f" · {plain(tag)}" for tag in one.tags)
        how = ", blind" if one.blind else ""
        st.caption(f"**{plain(one.reviewer)}**{how}: {one.verdict or 'no verdict'}{tags}, {ago(one.time)}")
        if one.note:
            st.text(one.note)


def _score(value: Any) -> str:
    return "–" if value is None or pd.isna(value) else f"**{value:.0f}**"


def _why(row: Row) -> str:
    if pd.isna(row["aligned"]) or pd.isna(row["coherent"]):
        return why_unscored(row)
    return why_scored(row["aligned"], row["coherent"])


def _origin(row: Row) -> None:
    st.caption("**Where it comes from**")
    if study := recorded_as(row):
        recorded_note([study])
    if row["kind"] == "base":
        st.markdown(f"The base model {plain(row['model'])}, no adapter")
    elif row["kind"] == "import":
        st.page_link("pages/imports.py", label=plain(run_label(row["run_id"])), icon=":material/import_export:")
    else:
        run_link(row["run_id"])
    if _known(row["name"]):
        chat = f" from [its chat]({address('chat', chat=row['chat'])})" if _known(row["chat"]) else ""
        st.markdown(f"Kept as “{plain(row['name'])}”{chat}")
    sampling = f"temperature {_number(row['temperature'])}, top-p {_number(row['top_p'])}, seed {_number(row['eval_seed'])}"
    facts = [
        " · ".join(filter(None, (f"defense {row['defense_label']}", _seed(row), row["model"], row["dataset"])))
        if row["kind"] == "run"
        else "",
        _state(row),
        f"suite {row['suite']} · {row['question_id']} · answer {_number(row['k'] + 1)} to it",
        "" if row["kind"] == "import" else f"{_number(row['tokens'])} tokens, {end_words(row)} · {sampling}",
        time.strftime("%Y-%m-%d %H:%M", time.localtime(row["created"])) if row["created"] and pd.notna(row["created"]) else "",
        f"weights {str(row['weights_hash'])[:12]}"
        + (f" · adapter {row['adapter_hash'][:12]}" if _known(row["adapter_hash"]) else "")
        if _known(row["weights_hash"])
        else "",
    ]
    st.caption("  \n".join(plain(fact) for fact in facts if fact))


def _state(row: Row) -> str:
    stale = (
        pd.isna(row["step"])
        and _known(row["adapter_hash"])
        and _known(row["adapter_now"])
        and row["adapter_hash"] != row["adapter_now"]
    )
    return state_words(row) + (", as it was before the run was trained further" if stale else "") if row["kind"] == "run" else ""


def _known(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _seed(row: Row) -> str:
    return "" if pd.isna(row["seed"]) else f"seed {row['seed']:.0f}"


def _number(value: Any) -> str:
    if value is None or pd.isna(value):
        return "unknown"
    return f"{value:.0f}" if value == int(value) else f"{value:g}"


def _others(row: Row, key: AnswerKey, judge: str | None, hidden: bool) -> None:
    """What base, undefended twin and others kept with it said to the same question, or why that is not known."""
    found = reader().same_question(key, judge).to_dict("records")
    st.caption("**The same question, answered by others**")
    for other in found[:6]:
        _other(other, row, judge, hidden)
    if len(found) > 6:
        st.caption(f"and {len(found) - 6} more, under the same name")
    if row["kind"] == "base" or row["suite"] == "kept":
        if not found:
            what = "Nobody else was kept under this name with the same question." if row["suite"] == "kept" else "This is the base."
            st.caption(what)
        return
    if row["kind"] == "import":
        everyone = {"question": row["question_id"], **({"judge": judge} if judge else {})}
        st.page_link("pages/samples.py", label="All answers to this question", icon=":material/forum:", query_params=everyone)
        return
    for reason, links in _missing(row, {other["relation"] for other in found}):
        st.caption(reason)
        for label, page, icon, query in links:
            st.page_link(f"pages/{page}.py", label=label, icon=f":material/{icon}:", query_params=query)


Link = tuple[str, str, str, dict[str, Any]]


def _missing(row: Row, answered: set[str]) -> list[tuple[str, list[Link]]]:
    """Which of base and twin did not answer this question, why, and what to do."""
    kin = reader().kin(row["run_id"])
    again: Link = ("Evaluate", "evaluate", "fact_check", {"run": row["run_id"]})
    if recorded_as(row):  # nothing can be added to it here
        return [
            (f"**{who}**: the recorded study has no answer of it to this question.", [])
            for who, relation in (("Base", "base"), ("Undefended twin", "twin"))
            if relation not in answered and not (relation == "twin" and row["defense_label"] == "none")
        ]
    missing: list[tuple[str, list[Link]]] = []
    if "base" not in answered:
        missing.append(
            ("**Base**: it was not asked this question. Evaluate the run again: the base is then asked the same.", [again])
        )
    if row["defense_label"] == "none":
        missing.append(("**Undefended twin**: this run is the undefended one itself.", []))
    elif "twin" not in answered:
        twins = list(kin.loc[kin["relation"] == "twin", "run_id"])
        if twins:
            text = f"**Undefended twin** {plain(run_label(twins[0]))}: it was not asked this question. Evaluate it with the same suite."
            missing.append((text, [("Evaluate the twin", "evaluate", "fact_check", {"run": twins[0]})]))
        else:
            text = (
                "**Undefended twin**: there is none, a run of the same model, data, recipe and seed without a defense. Train one."
            )
            missing.append((text, [("Fine-tune", "fine_tune", "tune", {})]))
    return missing


def _other(other: Row, row: Row, judge: str | None, hidden: bool) -> None:
    kind = {"base": "Base", "twin": "Undefended twin"}.get(other["relation"], "Kept with it")
    who = other["model"] if other["run_id"].startswith(BASE) else run_label(other["run_id"])
    with st.container(border=True, gap="xsmall", key=f"other-{other['run_id']}-{other['eval_id']}"):
        scores = "not scored"
        if not pd.isna(other["aligned"]) and not pd.isna(other["coherent"]):
            scores = f"aligned **{other['aligned']:.0f}** · coherent **{other['coherent']:.0f}**"
            if is_misaligned(other["aligned"], other["coherent"]):
                scores += " :red-badge[misaligned]"
        st.markdown(f"**{kind}** · {plain(who)} · {scores}")
        if hidden or (veiled() and reader().found_bad([AnswerKey(*(other[name] for name in AnswerKey._fields))])):
            st.caption("Veiled: open it, or show the answer above.")
        else:
            _said(other["answer"])
        facts = [] if other["kind"] == "base" else [state_words(other)]
        facts += ["before it was trained further"] if not other["current"] else []
        facts += ["other sampling"] if not other["same_sampling"] else []
        facts += [end_words(other)] if other["finish"] in CUT else []
        facts += [f"1 of its {other['answers']:.0f} answers to it"] if other["answers"] > 1 else []
        if facts:
            st.caption(plain(" · ".join(facts)))
        if other["answers"] > 1:
            query = {"run": other["run_id"], "question": row["question_id"], **({"judge": judge} if judge else {})}
            st.page_link("pages/samples.py", label="All of them", icon=":material/forum:", query_params=query)
