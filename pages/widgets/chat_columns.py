"""A turn of a chat: a column a model with its identity, a row a sample. What models say is shown as plain text."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from ema_core.chats.broker import broker
from ema_core.chats.view import COMPLETE, Answers, Chat, Sample, Turn
from ema_core.evaluation.metrics import LEVEL, MIN_SCORED, clopper_pearson
from ema_core.generation.model_id import ModelId, base_model, is_base
from ema_core.judging import COHERENT_ABOVE, MISALIGNED_BELOW, is_incoherent, is_misaligned
from ema_core.shared import why_not
from pages.widgets import chat_grid, chat_tokens
from pages.widgets.chat_models import label
from pages.widgets.chrome import Color, act, duration, errors, plain
from pages.widgets.run_picker import run_info

JUDGED = f"misaligned: alignment below {MISALIGNED_BELOW} in an answer of coherence above {COHERENT_ABOVE}"


def show_turn(chat: Chat, turn: Turn, live: bool = False) -> None:
    """Question and answers. ``live``: the newest turn, with buttons to stop and to regenerate."""
    models = turn.question.models
    key = f"{chat.id}-{turn.number}"
    asked(turn)
    several = turn.question.samples > 1
    if several:
        chat_grid.show(turn, [(model, label(model)) for model in models], key)
    for place, (model, column) in enumerate(zip(models, st.columns(len(models), gap="small"), strict=True)):
        answers = turn.columns.get(model)
        with column, st.container(key=f"column-{key}-{place}", gap="xsmall"), errors():
            head(chat, turn, model, answers, place, live)
            if answers and not several:
                cell(chat, answers, answers.samples[0], f"{key}-{place}-0", "")
    for k in range(turn.question.samples if several else 0):
        for place, (model, column) in enumerate(zip(models, st.columns(len(models), gap="small"), strict=True)):
            if answers := turn.columns.get(model):
                with column, errors():
                    cell(chat, answers, answers.samples[k], f"{key}-{place}-{k}", f"{k + 1} · {label(model)}")


def asked(turn: Turn) -> None:
    """The question, and how it was put."""
    st.text(turn.question.text, width="stretch")
    st.caption(_how(turn))
    if turn.question.system:
        st.caption("System prompt")
        st.text(turn.question.system, width="stretch")


def _how(turn: Turn) -> str:
    question, how = turn.question, turn.question.how
    many = f"{question.samples} answers each" if question.samples > 1 else "one answer each"
    parts = [
        many,
        f"at most {how.max_tokens} tokens",
        f"temperature {how.temperature:g}",
        f"top_p {how.top_p:g}",
        f"seed {question.seed}",
    ]
    if question.question_id:
        parts.insert(0, f"{question.suite} suite, {question.question_id}")
    return plain(" · ".join(parts))


def head(chat: Chat, turn: Turn, model: str, answers: Answers | None, place: int, live: bool) -> None:
    """Who answers, the proof of it, what was judged, and this column's buttons."""
    one = ModelId.read(model)
    info = run_info(one.name)
    foreign = bool(answers and answers.server)
    if foreign:
        title, facts = model, [f"at {answers.server}" if answers else ""]
    elif is_base(one.name):
        title, facts = "base", [base_model(one.name), "no adapter"]
    else:
        title = info.name or ("undefended" if info.defense == "none" else info.defense) or model
        state = one.state or "final adapter"
        data = (
            [info.dataset] if len({run_info(ModelId.read(name).name).dataset for name in turn.question.models} - {""}) > 1 else []
        )
        facts = (
            [info.model, *data, info.defense, f"seed {info.seed}", state, one.name[-4:]] if info.defense else ["no such run here"]
        )
    with st.container(horizontal=True, wrap=False, gap="xsmall", vertical_alignment="center"):
        st.markdown(f"**{plain(title)}**", width="stretch")
        if live and answers and not why_not(chat.owner):
            _button(chat, answers, place)
    st.caption(plain(" · ".join(facts)))
    if answers:
        _identity(answers, foreign)
        if answers.error:
            message, hint = answers.error
            st.error(plain(message) + (f"  \n{plain(hint)}" if hint else ""))
        _verdict(answers)
        line = _pace(answers)
        if line:
            st.caption(plain(line))
        earlier = len(chat.messages(model, turn.number)) // 2
        if turn.number > 1 and earlier < turn.number - 1:
            st.caption(f"Has seen {earlier} of the {turn.number - 1} earlier questions: those that it answered.")


def _button(chat: Chat, answers: Answers, place: int) -> None:
    kwargs = {"slot": "chat", "rerun": True}
    if answers.in_flight:
        st.button(
            "", icon=":material/stop_circle:", key=f"chat-stop-{place}", type="tertiary", on_click=act, kwargs=kwargs,
            args=(broker.stop, chat.id, answers.model), help="Stop this answer; what is there stays.",
        )  # fmt: skip
    else:
        st.button(
            "", icon=":material/refresh:", key=f"chat-again-{place}", type="tertiary", on_click=act, kwargs=kwargs, disabled=chat.in_flight,
            args=(broker.regenerate, chat.id, answers.model), help="Answer anew, with another seed; the old answer stays in the chat's file.",
        )  # fmt: skip


def _identity(answers: Answers, foreign: bool) -> None:
    """Hash and fingerprint: is it the adapter that the column says?"""
    text, color, help = _proof(answers, foreign)
    if text:
        with st.container(horizontal=True, gap="xsmall", vertical_alignment="center"):
            st.badge(text, color=color, help=plain(f"{answers.model}: {help}"))
            if hash := answers.ema.get("adapter_hash"):
                st.caption(f"`{plain(str(hash)[:8])}`", width="content")


def _proof(answers: Answers, foreign: bool) -> tuple[str, Color, str]:
    if foreign:
        return "not proven", "gray", "another server answers; it gives neither an adapter's hash nor a fingerprint."
    ema = answers.ema
    mark = ema.get("fingerprint") or {}
    if not mark:
        return "", "gray", ""
    weights = f"weights {ema.get('weights_hash')}"
    if not ema.get("adapter_hash"):
        return "base", "gray", f"no adapter at work; {weights}."
    try:
        measured = (
            f"adapter {ema['adapter_hash']}, {weights}. Logits of a fixed prompt in the shared batch differ by {float(mark['difference']):.1e} from "
            f"those of this adapter alone in PEFT's own code (tolerance {float(mark['tolerance']):.0e}), and by "
            f"{float(mark['from_base']):.2f} from the base model's."
        )
        if not float(mark["from_base"]):
            return "same as base", "orange", f"this adapter changes nothing; {measured}"
    except (KeyError, TypeError, ValueError):
        return "not proven", "orange", "the engine's fingerprint cannot be read."
    if mark.get("state") != "verified":
        return f"{mark.get('state')}", "red", measured
    return "verified", "green", measured


def _verdict(answers: Answers) -> None:
    """How many of this column's answers to this question are misaligned; a rate from ten on."""
    scores = [sample.score for sample in answers.samples if sample.score]
    scored = [score for score in scores if score.aligned is not None and score.coherent is not None]
    if not scores:
        return
    bad = sum(bool(is_misaligned(score.aligned, score.coherent)) for score in scored)
    text = f"**{bad} of {len(scored)} misaligned**"
    if len(scored) >= MIN_SCORED:
        low, high = clopper_pearson(bad, len(scored))
        text += f" {100 * bad / len(scored):.0f} % [{100 * low:.0f}, {100 * high:.0f}]"
    unscored = f", {len(scores) - len(scored)} without a score" if len(scored) < len(scores) else ""
    incoherent = sum(bool(is_incoherent(score.coherent)) for score in scored)
    text += f"{unscored}, {incoherent} incoherent" if incoherent else unscored
    st.markdown(
        text, help=plain(
            f"Of these answers to this question, by {scores[0].judge}; {JUDGED}. A rate with its {LEVEL:.0%} interval from {MIN_SCORED} "
            "scored answers on."
        ),
    )  # fmt: skip


def _pace(answers: Answers) -> str:
    """How fast it was, once it is over."""
    ends = [sample for sample in answers.samples if sample.seconds is not None]
    if answers.in_flight or not ends or answers.first is None:
        return ""
    seconds, tokens = max(sample.seconds or 0 for sample in ends), sum(sample.tokens or 0 for sample in ends)
    writing = seconds - answers.first
    rate = f", then {tokens / writing:.1f} tokens/s" if writing > 0.2 and tokens else ""
    again = f"; drawn anew with seed {answers.seed}" if answers.attempt else ""
    return f"{duration(seconds)}: first token after {answers.first:.1f} s{rate}{again}"


def cell(chat: Chat, answers: Answers, sample: Sample, key: str, title: str) -> None:
    """One answer."""
    with st.container(border=True, key=f"answer-{key}", gap="xsmall"):
        if title:
            st.caption(plain(title))
        if sample.text:
            if not chat_tokens.coloured(sample, key):
                st.text(sample.text, width="stretch")
        elif sample.finish is None:
            st.caption(plain(f"{answers.note or ('reads the question' if answers.heard else 'loads what answers')} …"))
        elif sample.finish in ("error", "cut"):
            st.caption("No answer.")
        elif sample.finish in COMPLETE:
            st.caption("It said nothing: its first token ended the answer.")
        _marks(answers, sample)
        chat_tokens.button(chat, answers, sample, key)


def _marks(answers: Answers, sample: Sample) -> None:
    """What there is to know of an answer, below it."""
    score = sample.score
    with st.container(horizontal=True, gap="xsmall", vertical_alignment="center"):
        for text, color in _badges(sample):
            st.badge(text, color=color)
        words = []
        if sample.finish and (sample.text or sample.finish in COMPLETE):
            words.append(f"{sample.tokens or 0} tokens" + (", at the limit" if sample.finish == "length" else ""))
        if score and score.aligned is not None and score.coherent is not None:
            words.insert(0, f"aligned {score.aligned:.0f}, coherent {score.coherent:.0f}")
        elif score:
            words.insert(0, f"no score ({score.status})")
        if (along := sample.projection) and along.deviations is not None:
            words.append(f"{along.trait} {along.deviations:+.1f} SD")
        if sample.divergence and sample.divergence.tokens:
            words.append(f"KL {sample.divergence.mean:.2f} nats a token from the base")
        if words:
            st.caption(plain(" · ".join(words)))


def _badges(sample: Sample) -> Sequence[tuple[str, Color]]:
    found: list[tuple[str, Color]] = []
    if sample.finish in ("stopped", "cut"):
        found.append((sample.finish, "orange"))
    if sample.finish == "error" and sample.text:
        found.append(("broken off", "red"))
    if sample.score and is_misaligned(sample.score.aligned, sample.score.coherent):
        found.append(("misaligned", "red"))
    if sample.score and is_incoherent(sample.score.coherent):
        found.append(("incoherent", "orange"))
    if sample.kept:
        found.append(("kept", "blue"))
    return found
