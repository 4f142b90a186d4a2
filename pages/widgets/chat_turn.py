"""The newest turn of a chat, drawn again while answers come in; and how any turn is shown."""

from __future__ import annotations

import streamlit as st

from ema_core.chats.broker import broker
from ema_core.chats.view import Chat, Turn
from pages.widgets.chat_columns import show_turn
from pages.widgets.chat_walk import show_walk
from pages.widgets.chrome import errors

ACTIVE_TICK, IDLE_TICK = 0.5, 4.0
"""Seconds between looks at the file: while something is written, and else (another browser may ask in the same chat)."""


def live(chat_id: str) -> None:
    """The newest turn, as a fragment of its own: only it is drawn again while answers come in."""
    chat = broker.chat(chat_id)
    busy = chat.in_flight or broker.judging(chat_id) or broker.reading(chat_id)
    st.fragment(_panel, run_every=ACTIVE_TICK if busy else IDLE_TICK)(chat_id, _state(chat))


def _state(chat: Chat) -> tuple[object, ...]:
    """What stands around the panel depends on it: another pace, other buttons."""
    last = chat.turns[-1]
    marks = sum(
        len(sample.scores) + len(sample.kept) + bool(sample.projection) + bool(sample.divergence)
        for column in last.columns.values()
        for sample in column.samples
    )
    return len(chat.turns), chat.in_flight, broker.judging(chat.id), broker.reading(chat.id), marks


def _panel(chat_id: str, state: tuple[object, ...]) -> None:
    with errors():
        chat = broker.chat(chat_id)
        if _state(chat) != state:
            st.rerun()
        show(chat, chat.turns[-1], live=True)


def show(chat: Chat, turn: Turn, live: bool = False) -> None:
    (show_walk if turn.question.by else show_turn)(chat, turn, live)
