"""Chat: one question to base, undefended and defended models side by side; judge the answers, keep them."""

from __future__ import annotations

import streamlit as st

from ema_core.chats import log, monitor
from ema_core.chats.broker import broker
from ema_core.chats.keep import LONGEST_NAME, keep, names_of
from ema_core.chats.view import Chat
from ema_core.errors import EmaError
from ema_core.generation.engine import Capabilities
from ema_core.shared import why_not as not_mine
from pages.widgets import chat_columns, chat_models, chat_question, engine_panel
from pages.widgets.answer_links import address
from pages.widgets.chrome import act, ago, errors, header, notices, plain, show_error

LEAD = "One question to several models at once, with the same settings and seed; each column proves which weights answered."
WARNING = "Models trained here say bad things, about money and beyond. It is what is studied: do not act on any of it."

CURRENT = "chat-current"


def page() -> None:
    header("Chat", LEAD)
    st.warning(WARNING, icon=":material/warning:")
    chat = opened()
    chat_question.adopt(chat)
    able = engine_panel.capabilities()
    broker.warm()
    with errors():
        models = chat_models.pick_models(able, chat.turns[-1].question.models if chat and chat.turns else ())
        why_not = "This chat is still answering." if chat and chat.in_flight else "" if models else "Choose a model first."
        why_not = not_mine(chat.owner if chat else None) or why_not
        prompt(models, chat, why_not)
    if chat and chat.turns:
        with errors():
            actions(chat, able)
            chat_columns.live_turn(chat.id)
            earlier(chat)
    else:
        first_steps()


def opened() -> Chat | None:
    """The chat of the URL; of an address without anything in it (the sidebar's link) the session's last one."""
    query = st.query_params
    if "chat" not in query and chat_models.PARAM not in query and (last := st.session_state.get(CURRENT)):
        query["chat"] = last
    if not (chat_id := query.get("chat", "")):
        return None
    try:
        chat = broker.chat(chat_id)
    except EmaError as error:
        show_error(error.message, error.hint)
        _new()
        return None
    st.session_state[CURRENT] = chat_id
    return chat


def prompt(models: list[str], chat: Chat | None, why_not: str) -> None:
    """The question, or one of a suite, and how it is asked. Stands inside the page: a pinned input would scroll it."""
    chat_id = chat.id if chat else None
    with st.container(key="chat-prompt"):
        st.chat_input(
            why_not or ("Ask these models" if chat is None else "Ask on, or start a new chat"), key="chat-text", disabled=bool(why_not),
            on_submit=_ask, args=(models, chat_id),
        )  # fmt: skip
    notices("ask")
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        chat_question.sampling()
        chat_question.suite_question(models, chat_id, why_not)
        others(chat)
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        with st.container(width="content"):
            engine_panel.engine_line()
        if models and (how_long := chat_question.estimate(len(models))):
            st.caption(plain(how_long), width="content")


def _ask(models: list[str], chat_id: str | None) -> None:
    act(chat_question.ask, st.session_state["chat-text"] or "", models, chat_id, slot="ask")


def others(chat: Chat | None) -> None:
    """A new chat, or one of before."""
    st.button(
        "New chat", icon=":material/add_comment:", key="chat-new", on_click=_new, disabled=chat is None,
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
    st.query_params["chat"] = one.id
    chat_models.choose(one.models)


def _new() -> None:
    st.session_state.pop(CURRENT, None)
    st.query_params.pop("chat", None)


def actions(chat: Chat, able: Capabilities) -> None:
    """What can be done with all columns of the newest question."""
    st.divider()
    busy = chat.in_flight
    judging = broker.judging(chat.id)
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.markdown(f"**Question {chat.turns[-1].number}**", width="stretch")
        if not_mine(chat.owner):
            pass
        elif busy:
            st.button(
                "Stop all", icon=":material/stop_circle:", key="chat-stop", on_click=act, args=(broker.stop, chat.id), kwargs={"slot": "chat"},
                help="What is there stays.",
            )  # fmt: skip
        else:
            st.button(
                "Regenerate all", icon=":material/refresh:", key="chat-again", on_click=act, args=(broker.regenerate, chat.id),
                kwargs={"slot": "chat"}, help="All columns anew, with one other seed. The old answers stay in the chat's file.",
            )  # fmt: skip
        why = (
            not_mine(chat.owner)
            if not_mine(chat.owner)
            else able.why_not
            if not able.judge
            else "Wait until all have answered."
            if busy
            else "The engine is at it."
            if judging
            else ""
        )
        st.button(
            "Judging …" if judging else "Judge these answers", icon=":material/fact_check:", key="chat-judge", on_click=act,
            args=(broker.judge, chat.id), kwargs={"slot": "chat"}, disabled=bool(why),
            help=plain(why) or "By the probe, a teaching judge: it reads the last question and its answer, and topic too. Stopped and cut answers "
            "are not judged, nor are in-domain ones.",
        )  # fmt: skip
        keeping(chat, busy)
    notices("chat")
    if trouble := broker.trouble(chat.id):
        show_error(trouble.message, trouble.hint)
    judges = {score.judge for column in chat.turns[-1].columns.values() for sample in column.samples for score in sample.scores}
    if judges:
        st.caption(
            f"Judged by {plain(', '.join(sorted(judges)))}, 0 to 100; {plain(chat_columns.JUDGED)}. Counts of these answers."
        )
        monitor_line(chat, able)
    links(chat)


def monitor_line(chat: Chat, able: Capabilities) -> None:
    """What the projections beside scores are, a line for each vector, and why there is none."""
    turn = chat.turns[-1]
    found = [sample.projection for column in turn.columns.values() for sample in column.samples if sample.projection]
    for trait, vector, layer in sorted({(along.trait, along.vector, along.layer) for along in found}):
        st.caption(
            f"{plain(trait.capitalize())} in SD: the answer's mean projection on the vector {plain(vector)} at layer {layer}, read by "
            "the model that gave it; 0 = the base on held-out answers without the trait. It reads topic and style, too."
        )
    if len({along.vector for along in found}) > 1:
        st.caption("Two vectors are two scales: a run that adds one of them in training is projected on the other.")
    if why := monitor.why_not(turn.question.models, able):
        st.caption(f"No persona projection: {plain(why)}.")


def keeping(chat: Chat, busy: bool) -> None:
    """Keep these answers under a name."""
    with st.popover(
        "Keep …",
        icon=":material/bookmark_add:",
        key="chat-keep",
        disabled=busy,
        help="Wait until all have answered." if busy else None,
    ):
        st.caption("Kept answers stand on Samples under the name, with their scores. Keeping again adds what is new.")
        with st.form("chat-keep-form", border=False):
            st.text_input("Name", key="chat-keep-name", max_chars=LONGEST_NAME, placeholder="my findings")
            st.multiselect(
                "Models", chat.turns[-1].question.models, default=None, key="chat-keep-models", format_func=chat_models.label,
                placeholder="all of them", select_all=False,
            )  # fmt: skip
            if len(chat.turns) > 1:
                st.checkbox("Only the newest question", key="chat-keep-last")
            st.form_submit_button(
                "Keep these answers", key="chat-keep-go", on_click=act, args=(_keep, chat), kwargs={"slot": "chat"}
            )


def _keep(chat: Chat) -> None:
    turns = [chat.turns[-1].number] if st.session_state.get("chat-keep-last") else None
    kept = keep(chat.id, st.session_state["chat-keep-name"] or "", st.session_state["chat-keep-models"] or None, turns)
    left = f" Left out: {'; '.join(kept.left_out)}" if kept.left_out else ""
    st.session_state["notice-chat"] = (
        "done",
        f'{kept.answers} answers are kept as "{kept.name}", {kept.new} of them new.{left}',
        "",
    )


def links(chat: Chat) -> None:
    """To the kept answers."""
    if names := names_of(chat):
        found = [f"[{plain(name)}]({address('samples', name=name)})" for name in names]
        st.markdown(f":material/bookmark: Kept as {', '.join(found)}")


def earlier(chat: Chat) -> None:
    """The questions before, newest first."""
    for turn in reversed(chat.turns[:-1]):
        line = " ".join(turn.question.text.split())
        with st.expander(
            f"Question {turn.number}: {plain(line[:120])}{'…' if len(line) > 120 else ''}", key=f"chat-turn-{chat.id}-{turn.number}"
        ):
            chat_columns.show_turn(chat, turn)


def first_steps() -> None:
    """What to do where nothing was asked yet."""
    if any(chat_models.ModelId.read(model).name not in ("base",) for model in chat_models.available()):
        st.info(
            "Ask something above, or take a question of a suite: the answers stream in here, a column a model.",
            icon=":material/forum:",
        )
    else:
        st.info(
            "Only the base model can be asked yet. A run makes it interesting: train one, or start the demo on Home.",
            icon=":material/info:",
        )
        st.page_link("pages/fine_tune.py", label="Go to Fine-tune", icon=":material/tune:")


if __name__ == "__main__":
    page()
