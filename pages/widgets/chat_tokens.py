"""An answer coloured token by token by how far the tuned model is from its base, with the likeliest tokens of both."""

from __future__ import annotations

import streamlit as st

from ema_core.chats.broker import broker
from ema_core.chats.diverge import why_not
from ema_core.chats.tokens import STYLE, legend, most_moved, spans
from ema_core.chats.view import Answers, Chat, Sample
from pages.widgets import engine_panel
from pages.widgets.chrome import act, plain

HELP = """Reads the answer with the model that gave it and with its base, a forward pass each, and colours every token by \
KL(tuned ‖ base): how far what the tuned model expected there is from what the base expected. Hover a token, or reach it with Tab, for the \
likeliest tokens of both."""
TIP_DARK, TIP_LIGHT = "#1c2026", "#ffffff"


def _shown(key: str) -> str:
    return f"chat-tokens-shown-{key}"


def coloured(sample: Sample, key: str) -> bool:
    """Show the answer's tokens in colour, where they were read and it is wanted; says whether it did."""
    if not (sample.divergence and sample.divergence.tokens) or not st.session_state.get(_shown(key), True):
        return False
    dark = st.context.theme.type == "dark"
    st.html(
        f"<style>{STYLE}.ema-kl {{ --ema-tip: {TIP_DARK if dark else TIP_LIGHT}; }}</style>{spans(sample.divergence, sample.text)}"
    )
    st.html(legend() + most_moved(sample.divergence))
    if len(sample.divergence.tokens) < sample.divergence.total:
        st.caption(f"The first {len(sample.divergence.tokens):,} of {sample.divergence.total:,} tokens were read.")
    return True


def button(chat: Chat, answers: Answers, sample: Sample, key: str) -> None:
    """Read this answer's tokens, or hide and show what was read. The base has nothing to be compared with."""
    answer = (answers.turn, answers.model, answers.attempt, sample.k)
    able = engine_panel.capabilities()
    if answers.server and not able.divergence:
        return
    if sample.divergence:
        on = st.session_state.get(_shown(key), True)
        st.button(
            "Hide the colours" if on else "Colour by KL", key=f"chat-tokens-{key}", icon=":material/format_color_text:", type="tertiary",
            on_click=_toggle, args=(key,), help=HELP,
        )  # fmt: skip
    elif not why_not(answers.model, sample):
        reading = answer in broker.reading(chat.id)
        why = "The engine reads it." if reading else "" if able.divergence else able.why_not
        st.button(
            "Reading …" if reading else "Colour by KL", key=f"chat-tokens-{key}", icon=":material/format_color_text:", type="tertiary",
            on_click=act, args=(broker.diverge, chat.id, answer), kwargs={"slot": "chat", "rerun": True}, disabled=bool(why),
            help=plain(why) or HELP,
        )  # fmt: skip


def _toggle(key: str) -> None:
    st.session_state[_shown(key)] = not st.session_state.get(_shown(key), True)
