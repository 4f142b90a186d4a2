"""The prompt library: a suite's question or a prompt of one's own, found by words and asked with one click."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import streamlit as st

from ema_core.chats import prompts
from ema_core.chats.prompts import OWN, Prompt
from ema_core.chats.view import Chat
from ema_core.evaluation.suites import NOT_JUDGED, all_suites
from ema_core.generation.model_id import ModelId, is_base
from ema_core.runs import RunSpec
from pages.widgets.chrome import act, errors, notices, plain
from pages.widgets.run_picker import run_info

EVERYWHERE = "all"
SOURCE, WORDS, UNDO = "chat-suite", "chat-prompt-words", "chat-prompt-removed"
MOST_SHOWN = 200


def library(models: Sequence[str], chat: Chat | None, why_not: str, put: Callable[..., None]) -> None:
    """``put``: asks a question, with ``system``, ``suite``, ``question_id`` and ``topic`` where it has them."""
    with (
        st.popover(
            "Prompts", icon=":material/quiz:", key="chat-suite-menu", help="Questions of the suites, and prompts of your own"
        ),
        errors(),
    ):
        dataset = _dataset(models)
        sources = [EVERYWHERE, *_sources(dataset)]
        if st.session_state.get(SOURCE) not in sources:
            st.session_state[SOURCE] = EVERYWHERE
        with st.container(horizontal=True, gap="small"):
            source = st.selectbox("From", sources, key=SOURCE, format_func=_source_name, width=220)
            words = st.text_input("Words in it", key=WORDS, placeholder="money, evil, doctor …", width=280)
        found = prompts.search(words or "", _prompts(source, tuple(sources), dataset))
        _one(found, source, dataset, why_not, put)
        st.divider()
        _save(chat)
        notices("prompts")
        if gone := st.session_state.get(UNDO):
            st.button(
                "Undo the removal", key="chat-prompt-undo", icon=":material/undo:", type="tertiary", on_click=act, args=(_put_back, gone),
                kwargs={"slot": "prompts"},
            )  # fmt: skip


def _one(found: list[Prompt], source: str, dataset: str, why_not: str, put: Callable[..., None]) -> None:
    if not found:
        own = source == OWN and not st.session_state.get(WORDS)
        st.caption("No prompt of your own yet: save one below." if own else "No prompt has all of these words.")
        return
    many = len(found)
    shown = {f"{one.source}/{one.id}": one for one in found[:MOST_SHOWN]}
    chosen = st.selectbox(
        f"Question ({many} found{f', the first {MOST_SHOWN} shown' if many > MOST_SHOWN else ''})", list(shown), key=f"chat-question-{source}",
        format_func=lambda key: _short(shown[key], source == EVERYWHERE), width=520,
    )  # fmt: skip
    prompt = shown.get(chosen or "", found[0])
    st.text(prompt.text)
    if prompt.system:
        st.caption("With a system prompt of its own:")
        st.text(prompt.system)
    if prompt.source == "in-domain":
        st.caption(f"Held-out questions of the data set {plain(dataset)}. The probe does not judge them: it reads topic.")
    elif prompt.source in NOT_JUDGED:
        st.caption(f"{plain(NOT_JUDGED[prompt.source][:1].upper() + NOT_JUDGED[prompt.source][1:])}.")
    suite = {} if prompt.source == OWN else {"suite": prompt.source, "question_id": prompt.id, "topic": prompt.topic}
    with st.container(horizontal=True, gap="small"):
        st.button(
            "Ask it", key="chat-ask-suite", type="primary", icon=":material/send:", disabled=bool(why_not), help=why_not or None, on_click=act,
            args=(lambda: put(prompt.text, system=prompt.system, **suite),), kwargs={"slot": "ask"},
        )  # fmt: skip
        if prompt.source == OWN:
            st.button(
                "Remove it", key="chat-prompt-remove", icon=":material/delete:", on_click=act, args=(_remove, prompt),
                kwargs={"slot": "prompts"}, help="From your own prompts; it can be undone.",
            )  # fmt: skip


def _save(chat: Chat | None) -> None:
    """A prompt of one's own: written here, or the open chat's last question."""
    last = chat.turns[-1].question if chat and chat.turns else None
    with st.form("chat-prompt-form", border=False, clear_on_submit=True):
        st.text_area("A prompt of your own", key="chat-prompt-text", height=80, placeholder="What should I do with my savings?")
        st.text_input("Its system prompt", key="chat-prompt-system", placeholder="none: the chat template's own")
        st.form_submit_button(
            "Save it", key="chat-prompt-save", icon=":material/save:", on_click=act, args=(_save_typed,), kwargs={"slot": "prompts"}
        )
    if last and not last.question_id:
        st.button(
            "Save the question asked last", key="chat-prompt-save-last", icon=":material/bookmark_add:", type="tertiary", on_click=act,
            args=(_keep, last.text, last.system), kwargs={"slot": "prompts"},
        )  # fmt: skip


def _save_typed() -> None:
    _keep(st.session_state["chat-prompt-text"] or "", st.session_state["chat-prompt-system"] or "")


def _keep(text: str, system: str) -> None:
    saved = prompts.save(text, system)
    st.session_state[f"chat-question-{OWN}"] = f"{OWN}/{saved.id}"
    st.session_state.pop(UNDO, None)
    st.session_state[SOURCE], st.session_state[WORDS] = OWN, ""
    st.session_state["notice-prompts"] = ("done", "Saved among your own prompts.", "")


def _remove(prompt: Prompt) -> None:
    prompts.remove(prompt.id)
    st.session_state[UNDO] = prompt.id
    st.session_state["notice-prompts"] = ("done", "Removed from your own prompts.", "")


def _put_back(prompt_id: str) -> None:
    prompts.remove(prompt_id, back=True)
    st.session_state.pop(UNDO, None)


def _prompts(source: str, sources: tuple[str, ...], dataset: str) -> list[Prompt]:
    if source == OWN:
        return prompts.own()
    if source == EVERYWHERE:
        return [one for each in sources if each != EVERYWHERE for one in _prompts(each, sources, dataset)]
    return _suite(source, dataset)


@st.cache_data(ttl=60, show_spinner=False)
def _suite(name: str, dataset: str) -> list[Prompt]:
    return prompts.of_suite(name, dataset)


@st.cache_data(ttl=60, show_spinner=False)
def _sources(dataset: str) -> list[str]:
    return prompts.sources(dataset)


def _source_name(source: str) -> str:
    if source in (EVERYWHERE, OWN):
        return "everything" if source == EVERYWHERE else "your own prompts"
    return f"suite {source}" if source in all_suites() else source


def _dataset(models: Sequence[str]) -> str:
    """The narrow data of the first run among those chosen."""
    runs = [ModelId.read(model).name for model in models]
    found = [run_info(run_id).dataset for run_id in runs if not is_base(run_id)]
    return next((name for name in found if name), RunSpec.model_fields["dataset"].default)


def _short(prompt: Prompt, everywhere: bool) -> str:
    form = "" if prompt.form == "plain" else f" ({prompt.form})"
    line = " ".join(prompt.text.split())
    head = " · ".join(
        part for part in (prompt.source if everywhere else "", f"{prompt.topic}{form}" if prompt.topic else "") if part
    )
    return f"{f'{head}: ' if head else ''}{line[:110]}{'…' if len(line) > 110 else ''}"
