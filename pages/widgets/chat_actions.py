"""What can be done with the newest question's answers and with a whole chat: judge, keep, export, delete."""

from __future__ import annotations

import streamlit as st

from ema_core.chats import log, monitor
from ema_core.chats.broker import broker
from ema_core.chats.export import export
from ema_core.chats.keep import LONGEST_NAME, keep, names_of
from ema_core.chats.view import Chat
from ema_core.generation.engine import Capabilities
from ema_core.shared import why_not
from pages.widgets import chat_columns, chat_models
from pages.widgets.answer_links import address
from pages.widgets.chrome import act, notices, plain, show_error

CURRENT, DELETED = "chat-current", "chat-deleted"
EXPORTS = {
    "html": ("One page to read (HTML)", "text/html", "Every question and answer, who answered, scores, tokens in colour. Needs nothing else."),
    "csv": ("An answer a row (CSV)", "text/csv", "With model, adapter hash, settings, newest score and projection."),
    "json": ("All that is known (JSON)", "application/json", "Also every judge's scores, and each token's distance from the base where it was read."),
}  # fmt: skip


def actions(chat: Chat, able: Capabilities) -> None:
    """What can be done with all columns of the newest question."""
    st.divider()
    busy, others = chat.in_flight, why_not(chat.owner)
    judging = broker.judging(chat.id)
    st.markdown(f"**Question {chat.turns[-1].number}**")
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        if others:
            pass
        elif busy:
            st.button(
                "Stop all", icon=":material/stop_circle:", key="chat-stop", on_click=act, args=(broker.stop, chat.id), kwargs={"slot": "chat"},
                help="What is there stays.",
            )  # fmt: skip
        else:
            st.button(
                "Regenerate all", icon=":material/refresh:", key="chat-again", on_click=act, args=(broker.regenerate, chat.id),
                kwargs={"slot": "chat"}, help="All of them anew, with one other seed. The old answers stay in the chat's file.",
            )  # fmt: skip
        why = (
            others
            if others
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
        _keeping(chat, busy)
        _exporting(chat, busy)
        st.button(
            "Delete", icon=":material/delete:", key="chat-delete", on_click=act, args=(_delete, chat.id), kwargs={"slot": "chat"}, disabled=busy or bool(others),
            help=plain(others) or "Wait until all have answered." if busy or others else f"The whole chat. It can be had back for {log.DELETED_DAYS} days; what was kept on Samples stays.",
        )  # fmt: skip
    notices("chat")
    if trouble := broker.trouble(chat.id):
        show_error(trouble.message, trouble.hint)
    judges = {score.judge for column in chat.turns[-1].columns.values() for sample in column.samples for score in sample.scores}
    if judges:
        st.caption(
            f"Judged by {plain(', '.join(sorted(judges)))}, 0 to 100; {plain(chat_columns.JUDGED)}. Counts of these answers."
        )
        _monitor_line(chat, able)
    _links(chat)


def _monitor_line(chat: Chat, able: Capabilities) -> None:
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


def _keeping(chat: Chat, busy: bool) -> None:
    """Keep these answers under a name."""
    with st.popover(
        "Add to samples",
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


def _links(chat: Chat) -> None:
    """To the kept answers."""
    if names := names_of(chat):
        found = [f"[{plain(name)}]({address('samples', name=name)})" for name in names]
        st.markdown(f":material/bookmark: Kept as {', '.join(found)}")


def _exporting(chat: Chat, busy: bool) -> None:
    with st.popover(
        "Export",
        icon=":material/download:",
        key="chat-export",
        disabled=busy,
        help="Wait until all have answered." if busy else None,
    ):
        st.caption("The whole chat, all its questions.")
        for kind, (title, mime, help) in EXPORTS.items():
            st.download_button(
                title, lambda kind=kind: export(broker.chat(chat.id), kind).encode(), f"ema-chat-{chat.id}.{kind}", mime,
                key=f"chat-export-{kind}", on_click="ignore", width="stretch", help=help,
            )  # fmt: skip


def _delete(chat_id: str) -> None:
    log.delete(chat_id)
    st.session_state[DELETED] = chat_id
    new()


def deleted_lately() -> None:
    """What was just deleted, and the way back."""
    notices("deleted")
    if not (chat_id := st.session_state.get(DELETED)):
        return
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.markdown(":material/delete: The chat was deleted.", width="content")
        st.button(
            "Undo", key="chat-undelete", icon=":material/undo:", on_click=act, args=(_undelete, chat_id), kwargs={"slot": "deleted"}
        )


def _undelete(chat_id: str) -> None:
    st.session_state.pop(DELETED)
    log.restore(chat_id)
    st.query_params["chat"] = chat_id


def new() -> None:
    """No chat is open any more."""
    st.session_state.pop(CURRENT, None)
    st.query_params.pop("chat", None)
