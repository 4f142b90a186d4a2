"""How a chat's question is put: sampling settings, system prompt, a suite question, how long it will take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import streamlit as st

from ema_core.chats import speed
from ema_core.chats.broker import broker
from ema_core.chats.view import MOST_SAMPLES, Chat, Question
from ema_core.evaluation.suites import Suite, load_suite
from ema_core.generation import SamplingSettings
from ema_core.generation.model_id import ModelId, is_base
from ema_core.runs import RunSpec
from ema_core.settings import settings
from pages.widgets.chrome import act, duration, errors, plain
from pages.widgets.run_picker import run_info

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


def ask(text: str, models: Sequence[str], chat_id: str | None, **picked: str) -> None:
    """Put the question; the chat comes into the URL, so that a reload brings it back."""
    now = values()
    how = SamplingSettings(int(now["tokens"]), float(now["temperature"]), float(now["top-p"]))
    system = picked.pop("system", "") or now["system"]
    question = Question(text, tuple(models), system, how, int(now["seed"]), int(now["samples"]), **picked)
    st.query_params["chat"] = st.session_state["chat-opened"] = broker.ask(question, chat_id)


def suite_question(models: Sequence[str], chat_id: str | None, why_not: str) -> None:
    """A question of a suite, asked with one click."""
    with st.popover("Suite question", icon=":material/quiz:", key="chat-suite-menu"), errors():
        name = (
            st.segmented_control("Suite", ["general", "in-domain"], default="general", required=True, key="chat-suite") or "general"
        )
        suite = _suite(name, models)
        if name == "in-domain":
            st.caption(
                f"Held-out questions of the data set {plain(_dataset(models))}. The probe does not judge them: it reads topic."
            )
        place = st.selectbox(
            "Question", range(len(suite.questions)), key=f"chat-question-{name}", format_func=lambda i: _short(suite, i), width=520,
        )  # fmt: skip
        question = suite.questions[place or 0]
        st.text(question.question)
        if question.system:
            st.caption("With a system prompt of its own:")
            st.text(question.system)
        st.button(
            "Ask it", key="chat-ask-suite", type="primary", icon=":material/send:", disabled=bool(why_not), help=why_not or None, on_click=act,
            args=(lambda: ask(
                question.question, models, chat_id, system=question.system or "", suite=name, question_id=question.id, topic=question.topic
            ),),
            kwargs={"slot": "ask"},
        )  # fmt: skip


def _suite(name: str, models: Sequence[str]) -> Suite:
    return load_suite(name, _dataset(models))


def _dataset(models: Sequence[str]) -> str:
    """The narrow data of the first run among those chosen."""
    runs = [ModelId.read(model).name for model in models]
    found = [run_info(run_id).dataset for run_id in runs if not is_base(run_id)]
    return next((name for name in found if name), RunSpec.model_fields["dataset"].default)


def _short(suite: Suite, place: int) -> str:
    question = suite.questions[place]
    form = "" if question.form == "plain" else f" ({question.form})"
    line = " ".join(question.question.split())
    return f"{question.topic}{form}: {line[:110]}{'…' if len(line) > 110 else ''}"
