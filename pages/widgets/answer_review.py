"""What a reviewer says of the open answer: a verdict by one key, tags and a note after another; and taking it back."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import streamlit as st

from ema_core.errors import EmaError
from ema_core.shared import current
from ema_core.store import VERDICTS, Annotation, AnswerKey, annotate, reviewer_name, undo
from pages.widgets.answer_asked import anew, key_of, parameter, reviewer
from pages.widgets.chrome import ago, by_user, in_words, notices, plain, reader
from pages.widgets.person import no_start

KEYS = {name: str(number) for number, name in enumerate(VERDICTS, 1)}
_keys = st.components.v2.component(
    "ema_review_keys", html="<span hidden></span>", js=Path(__file__).with_name("review_keys.js").read_text(encoding="utf-8"), isolate_styles=False
)  # fmt: skip
Move = Callable[[], None]
WHERE = (
    "It stands beside your verdicts and in the address; take it out before you share that: who opens it reviews under your name. \
No e-mail address."
)
WHERE_BLIND = (
    "It stands beside your verdicts and in this session, not in the address: say it again after a reload. No e-mail address."
)


def verdict_bar(key: AnswerKey, on: Move, blind: bool = False) -> None:
    """The four verdicts, or the question who reviews; ``on`` opens the next answer."""
    with st.container(key="review", gap="xsmall"):
        notices("review")
        me = reviewer()
        if not me:
            if no_start():
                st.caption(no_start())
            else:
                _name()
            return
        mine = _mine(key, me)
        with st.container(horizontal=True, vertical_alignment="center", gap="xsmall", key="review-verdicts"):
            for verdict, shortcut in KEYS.items():
                chosen = mine is not None and mine.verdict == verdict
                st.button(
                    verdict.capitalize(), key=f"review-{verdict}", shortcut=shortcut, type="primary" if chosen else "secondary",
                    on_click=_say, args=(key, me, on, blind), kwargs={"verdict": verdict},
                    help=f"{VERDICTS[verdict].capitalize()}; goes on to the next.",
                )  # fmt: skip


def notes_bar(
    key: AnswerKey, opened: Callable[[Annotation], None], blind: bool = False, among: Sequence[AnswerKey] | None = None
) -> None:
    """Tags, note and undo, of these answers only where ``among`` is given; ``opened`` opens the answer whose annotation was taken back."""
    me = reviewer()
    if not me:
        return
    mine = _mine(key, me)
    with st.container(key="review-more", gap="xsmall"):
        _more(key, me, mine, blind)
        with st.container(horizontal=True, vertical_alignment="center", gap="xsmall", key="review-me"):
            st.caption(f"Reviewing as **{plain(me)}**" + (f" · said {ago(mine.time)}" if mine else ""), width="stretch")
            if current() is None:
                st.button("Other name", key="review-rename", type="tertiary", on_click=_rename)
            st.button(
                "Undo", key="review-undo", shortcut="U", type="tertiary", icon=":material/undo:", on_click=_undo, args=(me, opened, among),
                help="Takes back the last thing that you said, "
                f"{'whatever answer it was about' if among is None else 'of this review alone'}, and opens that answer.",
            )  # fmt: skip
        _keys(key="review-keys", data={"fields": {"t": ".st-key-review-tags input", "e": ".st-key-review-note textarea"}})


def _name() -> None:
    st.session_state.setdefault("review-name", "")
    with st.container(horizontal=True, vertical_alignment="bottom", key="review-who"):
        st.text_input(
            "Your name, to say what you think of these answers", key="review-name", max_chars=40, placeholder="a first name or a pseudonym",
            on_change=_named, help=WHERE_BLIND if parameter("blind") else WHERE,
        )  # fmt: skip


@by_user
def _named() -> None:
    try:
        name = reviewer_name(st.session_state["review-name"])
    except EmaError as error:
        st.session_state["notice-review"] = ("error", *in_words(error))
        return
    st.session_state["reviewer"] = name
    if not parameter("blind"):  # that address is sent to others, who would write under this name
        st.query_params["reviewer"] = name


def _rename() -> None:
    st.session_state.pop("reviewer", None)
    st.query_params.pop("reviewer", None)


def _more(key: AnswerKey, me: str, mine: Annotation | None, blind: bool) -> None:
    """Tags and note, as they were kept: always set, so that an answer never shows those of the one before."""
    said = reader().said()
    known = sorted({*(said.all_tags if not blind else _own_tags(me)), *(mine.tags if mine else ())})
    tags, note = (
        key_of("review-tags"),
        key_of("review-note"),
    )  # after an undo other ones: the browser may still send what was taken back
    st.session_state[tags] = list(mine.tags) if mine else []
    st.session_state[note] = mine.note if mine else ""
    row = st.container(horizontal=True, vertical_alignment="bottom", gap="small")
    with row.container(key="review-tags"):
        st.multiselect(
            "Tags (T)", known, key=tags, accept_new_options=True, placeholder="choose or type, Enter", max_selections=20,
            on_change=lambda: _say(key, me, None, blind, tags=st.session_state[tags]), width="stretch",
        )  # fmt: skip
    with row.container(key="review-note"):
        st.text_area(
            "Note (E)", key=note, height=68, max_chars=4000, placeholder="Ctrl+Enter keeps it", width="stretch",
            on_change=lambda: _say(key, me, None, blind, note=st.session_state[note]),
        )  # fmt: skip


def _own_tags(me: str) -> set[str]:
    return {tag for row in reader().said().rows if row.reviewer == me for tag in row.tags}


def _mine(key: AnswerKey, me: str) -> Annotation | None:
    return next((one for one in reader().said().about(key) if one.reviewer == me), None)


@by_user
def _say(key: AnswerKey, me: str, on: Move | None, blind: bool, **now: object) -> None:
    """Keep what was said, beside what this reviewer had said of the answer before."""
    if on is None and _sent_again(key, now):
        return
    try:
        mine = _mine(key, me)
        before = (
            {"verdict": mine.verdict, "tags": list(mine.tags), "note": mine.note}
            if mine
            else {"verdict": None, "tags": [], "note": ""}
        )
        after = {**before, **now}
        if after != before:  # a run that was interrupted sends a field once more
            if (
                mine and mine.verdict and after["verdict"] == mine.verdict
            ):  # a tag added elsewhere does not change how the verdict came
                blind = mine.blind
            annotate(key, me, blind=blind, **after)  # type: ignore[arg-type]
        if on is not None:
            on()
    except Exception as error:
        st.session_state["notice-review"] = ("error", *in_words(error))


def _sent_again(key: AnswerKey, now: Mapping[str, object]) -> bool:
    """Whether a field only repeats what was taken back a moment ago: a browser sends it once more while the page is drawn anew."""
    undone, at = st.session_state.get("review-undone", (None, 0.0))
    if undone is None or undone.key != key or time.monotonic() - at > 5:
        return False
    return now in ({"tags": list(undone.tags)}, {"note": undone.note})


def _undo(me: str, opened: Callable[[Annotation], None], among: Sequence[AnswerKey] | None) -> None:
    try:
        taken = undo(me, among=among)
    except Exception as error:
        st.session_state["notice-review"] = ("error", *in_words(error))
        return
    if taken is None:
        st.session_state["notice-review"] = ("error", "There is nothing of yours to take back here.", "")
        return
    st.session_state["review-undone"] = (taken, time.monotonic())
    what = "note" if taken.note else "tags" if taken.tags else taken.verdict
    st.session_state["notice-review"] = ("done", f"Taken back: {what}.", "")
    opened(taken)
    anew("answers-table", "answers-page", "review-tags", "review-note")


def progress(done: int, total: int) -> None:
    """How far a review is."""
    if total:
        st.progress(done / total, text=f"{done:,} of {total:,} annotated by you")
