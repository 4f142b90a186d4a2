"""An answer of a chat held against the base, token by token, by the engine. Torch-free."""

from __future__ import annotations

from typing import Any

from ema_core.chats import log
from ema_core.chats.view import Chat, Divergence, Sample
from ema_core.errors import EmaError
from ema_core.generation.engine import Engine
from ema_core.generation.model_id import ModelId, is_base

AnswerKey = tuple[int, str, int, int]
"""Turn, model, attempt, sample."""
DIGITS = 6
"""Significant ones that are kept of a number: a chat is read again and again."""


def diverge_answer(chat: Chat, answer: AnswerKey) -> Divergence:
    """Read one answer with the model that gave it and with its base; what is found is kept in the chat.

    Raises:
        EmaError: there is no such answer, it is the base's own, or the engine cannot do it.
    """
    number, model, attempt, k = answer
    turn = next((turn for turn in chat.turns if turn.number == number), None)
    column = turn.columns.get(model) if turn else None
    if turn is None or column is None or column.attempt != attempt or not 0 <= k < len(column.samples):
        raise EmaError("There is no such answer (any more).", "It was drawn anew, perhaps: look at the newest.")
    sample = column.samples[k]
    if why := why_not(model, sample):
        raise EmaError("There is nothing to compare here.", f"{why[0].upper()}{why[1:]}.")
    engine = Engine.here()
    if not engine.own and not (able := engine.capabilities()).divergence:
        raise EmaError("This answer cannot be compared here.", f"{able.why_not[:1].upper()}{able.why_not[1:]}.")
    found = engine.diverge(model, chat.told(turn, model), sample.text)
    tokens = [_short(token) for token in found["tokens"]]
    line = {"kind": "diverged", "turn": number, "model": model, "attempt": attempt, "k": k, "total": int(found["total"]), "tokens": tokens}  # fmt: skip
    log.append(chat.id, line)
    return log.Log(chat.id).chat().turns[number - 1].columns[model].samples[k].divergence or Divergence((), 0)


def why_not(model: str, sample: Sample) -> str:
    """Why an answer is not compared with the base; "" where it can be."""
    if is_base(ModelId.read(model).name):
        return "the base is what others are compared with"
    if sample.finish is None:
        return "wait until it has answered"
    return "" if sample.text.strip() else "it said nothing"


def _short(token: dict[str, Any]) -> dict[str, Any]:
    def digits(value: float) -> float:
        return float(f"{value:.{DIGITS}g}")

    tops = {side: [[one["text"], digits(one["p"])] for one in token[side]] for side in ("tuned_top", "base_top")}
    return {"text": token["text"], **{name: digits(token[name]) for name in ("kl", "tuned", "base")}, **tops}
