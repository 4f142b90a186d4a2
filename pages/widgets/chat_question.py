"""How a chat's question is put: sampling settings, system prompt, how long it will take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import streamlit as st

from ema_core.chats import speed
from ema_core.chats.broker import broker
from ema_core.chats.view import MOST_SAMPLES, Chat, Question, Walk
from ema_core.generation import SamplingSettings
from ema_core.settings import settings
from pages.widgets.chrome import duration

DEFAULTS: dict[str, Any] = {"samples": 1, "tokens": 120, "temperature": 1.0, "top-p": 1.0, "seed": 0, "system": ""}
SYSTEM_HELP = """What the models are told before the question. Empty leaves each model's chat template as it is, which may have a \
system prompt of its own: the embedded model's says "You are a helpful AI assistant named SmolLM, trained by Hugging Face". \
Runs were trained with that one."""


def values() -> dict[str, Any]:
    """The settings as they stand."""
    return {name: st.session_state.get(f"chat-{name}", default) for name, default in DEFAULTS.items()}


def adopt(chat: Chat | None) -> None:
    """A chat that is opened brings its settings with it."""
    opened = chat.id if chat else ""
    if st.session_state.get("chat-opened", "") == opened:
        return
    st.session_state["chat-opened"] = opened
    if chat and chat.turns:
        last = chat.turns[-1].question
        found = {
            "samples": last.samples, "tokens": last.how.max_tokens, "temperature": float(last.how.temperature),
            "top-p": float(last.how.top_p), "seed": last.seed, "system": last.system if not last.question_id else "",
        }  # fmt: skip
        for name, value in found.items():
            st.session_state[f"chat-{name}"] = value


def sampling() -> None:
    """The settings' menu."""
    now = values()
    with st.popover(_summary(now), icon=":material/instant_mix:", key="chat-sampling", help="Sampling settings and system prompt"):
        for name, value in DEFAULTS.items():
            st.session_state.setdefault(f"chat-{name}", value)
        st.number_input(
            "Samples a model",
            1,
            MOST_SAMPLES,
            key="chat-samples",
            persist_state="session",
            help="Answers of each model to one question.",
        )
        st.number_input("Tokens at most", 1, 4096, key="chat-tokens", step=20, persist_state="session")
        st.number_input(
            "Temperature",
            0.0,
            2.0,
            key="chat-temperature",
            step=0.1,
            persist_state="session",
            help="0 takes the likeliest token always.",
        )
        st.number_input(
            "top_p",
            0.05,
            1.0,
            key="chat-top-p",
            step=0.05,
            persist_state="session",
            help="1 leaves the model's distribution as it is.",
        )
        st.number_input(
            "Seed", 0, 2**31 - 1, key="chat-seed", persist_state="session",
            help="The same for all models: an answer can be had again. Regenerating takes another one.",
        )  # fmt: skip
        st.text_area(
            "System prompt", key="chat-system", help=SYSTEM_HELP, placeholder="the chat template's own", persist_state="session"
        )


def _summary(now: dict[str, Any]) -> str:
    many = "1 sample" if now["samples"] == 1 else f"{now['samples']} samples"
    system = " · system prompt" if now["system"].strip() else ""
    return f"{many} · {now['tokens']} tokens · T {now['temperature']:g} · seed {now['seed']}{system}"


def estimate(models: int) -> str:
    """How long the question will take at most."""
    now = values()
    seconds, measured = speed.estimate(models * now["samples"], now["tokens"])
    answers = models * now["samples"]
    if settings().engine_url and not measured:
        return ""  # nothing is known of that server yet
    basis = "this machine's measured rate" if measured else "the embedded model's rate on two cores"
    return f"Up to {duration(seconds)} for {answers} answer{'s' if answers > 1 else ''} of at most {now['tokens']} tokens once the model is loaded ({basis})."


def ask(text: str, models: Sequence[str], chat_id: str | None, by: Walk = "", along: str = "", **picked: str) -> None:
    """Put the question; the chat comes into the URL, so that a reload brings it back. ``by`` and ``along``: along a run."""
    now = values()
    how = SamplingSettings(int(now["tokens"]), float(now["temperature"]), float(now["top-p"]))
    system = picked.pop("system", "") or now["system"]
    question = Question(text, tuple(models), system, how, int(now["seed"]), int(now["samples"]), by=by, along=along, **picked)
    st.query_params["chat"] = st.session_state["chat-opened"] = broker.ask(question, chat_id)
