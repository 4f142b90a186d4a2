"""Chat: one question to base, undefended and defended models side by side, or along one run; judge the answers, keep them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import streamlit as st

from ema_core.chats import log
from ema_core.chats.broker import broker
from ema_core.chats.view import Chat, Walk
from ema_core.errors import EmaError
from ema_core.generation.model_id import ModelId
from ema_core.shared import why_not as not_mine
from pages.widgets import chat_actions, chat_library, chat_models, chat_question, chat_turn, chat_walk, engine_panel
from pages.widgets.chat_actions import CURRENT
from pages.widgets.chrome import act, ago, errors, header, notices, plain, show_error

LEAD = "One question to several models at once, with the same settings and seed; each column proves which weights answered."
WARNING = "Models trained here say bad things, about money and beyond. It is what is studied: do not act on any of it."


@dataclass(frozen=True)
class Asked:
    """Whom the next question goes to."""

    models: list[str]
    by: Walk = ""
    along: str = ""


def page() -> None:
    header("Chat", LEAD)
    st.warning(WARNING, icon=":material/warning:")
    chat = opened()
    if chat is None:
        chat_actions.deleted_lately()
    else:
        st.session_state.pop(chat_actions.DELETED, None)
    chat_question.adopt(chat)
    able = engine_panel.capabilities()
    broker.warm()
    with errors():
        by = chat_walk.mode(chat)
        chat_walk.pick_mode(by)
        if by:
            whom = Asked(*_along(by, chat))
        else:
            chat_walk.leave()
            last = chat.turns[-1].question if chat and chat.turns else None
            whom = Asked(chat_models.pick_models(able, last.models if last and not last.by else ()))
        nobody = "Choose a run first." if by else "Choose a model first."
        why_not = "This chat is still answering." if chat and chat.in_flight else "" if whom.models else nobody
        prompt(whom, chat, not_mine(chat.owner if chat else None) or why_not)
    if chat and chat.turns:
        with errors():
            chat_actions.actions(chat, able)
            chat_turn.live(chat.id)
            earlier(chat)
    else:
        first_steps(by)


def _along(by: Walk, chat: Chat | None) -> tuple[list[str], Walk, str]:
    models, run = chat_walk.pick_run(by, chat)
    return models, by, run


def opened() -> Chat | None:
    """The chat of the URL; of an address without anything in it (the sidebar's link) the session's last one."""
    query = st.query_params
    if not {"chat", chat_models.PARAM, chat_walk.BY} & set(query) and (last := st.session_state.get(CURRENT)):
        query["chat"] = last
    if not (chat_id := query.get("chat", "")):
        return None
    try:
        chat = broker.chat(chat_id)
    except EmaError as error:
        show_error(error.message, error.hint)
        chat_actions.new()
        return None
    st.session_state[CURRENT] = chat_id
    return chat


def prompt(whom: Asked, chat: Chat | None, why_not: str) -> None:
    """The question, or one of the library, and how it is asked. Stands inside the page: a pinned input would scroll it."""
    put = partial(chat_question.ask, models=whom.models, chat_id=chat.id if chat else None, by=whom.by, along=whom.along)
    to = "this run" if whom.by else "these models"
    with st.container(key="chat-prompt"):
        st.chat_input(
            why_not or (f"Ask {to}" if chat is None else "Ask on, or start a new chat"), key="chat-text", disabled=bool(why_not),
            on_submit=lambda: act(put, st.session_state["chat-text"] or "", slot="ask"),
        )  # fmt: skip
    notices("ask")
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        chat_question.sampling()
        chat_library.library(whom.models, chat, why_not, put)
        others(chat)
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        with st.container(width="content"):
            engine_panel.engine_line()
        if whom.models and (how_long := chat_question.estimate(len(whom.models))):
            st.caption(plain(how_long), width="content")


def others(chat: Chat | None) -> None:
    """A new chat, or one of before."""
    st.button(
        "New chat", icon=":material/add_comment:", key="chat-new", on_click=chat_actions.new, disabled=chat is None,
        help="This one stays under Recent." if chat else "This is a new one.",
    )  # fmt: skip
    with st.popover("Recent", icon=":material/history:", key="chat-recent"), errors():
        found = log.recent()
        if not found:
            st.caption("No chat yet.")
        for one in found:
            line = " ".join(one.text.split())
            words = f"{line[:60]}{'…' if len(line) > 60 else ''} · {len(one.models)} model{'s' if len(one.models) > 1 else ''}, {ago(one.changed)}"
            st.button(
                plain(words),
                key=f"chat-open-{one.id}",
                type="tertiary",
                on_click=_open,
                args=(one,),
                disabled=bool(chat and chat.id == one.id),
            )


def _open(one: log.Heading) -> None:
    """With what it was asked of last: the chat says it."""
    chat_walk.leave()
    st.query_params.pop(chat_models.PARAM, None)
    st.query_params["chat"] = one.id


def earlier(chat: Chat) -> None:
    """The questions before, newest first."""
    for turn in reversed(chat.turns[:-1]):
        line = " ".join(turn.question.text.split())
        with st.expander(
            f"Question {turn.number}: {plain(line[:120])}{'…' if len(line) > 120 else ''}", key=f"chat-turn-{chat.id}-{turn.number}"
        ):
            chat_turn.show(chat, turn)


def first_steps(by: Walk) -> None:
    """What to do where nothing was asked yet."""
    if any(ModelId.read(model).name not in ("base",) for model in chat_models.available()):
        how = {
            "": "the answers stream in here, a column a model.",
            "training": "the run answers as it was at its base, at each checkpoint and at its end, on a slider.",
            "strength": "the run answers with its adapter at several strengths; the slider draws further ones.",
        }[by]
        st.info(f"Ask something above, or take a question of the library: {how}", icon=":material/forum:")
    else:
        st.info(
            "Only the base model can be asked yet. A run makes it interesting: train one, or start the demo on Home.",
            icon=":material/info:",
        )
        st.page_link("pages/fine_tune.py", label="Go to Fine-tune", icon=":material/tune:")


if __name__ == "__main__":
    page()
