"""The persona monitor beside a chat's answers: their projection on a vector of the base model, by the engine. Torch-free.

Evil's, or of a run that adds evil's in training the second one of it, from other prompts.
"""

from __future__ import annotations

from typing import Any

from ema_core import personas
from ema_core.chats import log
from ema_core.chats.view import COMPLETE, Answers, Chat, Sample, Turn
from ema_core.defenses.persona_steering import projected_on
from ema_core.errors import EmaError
from ema_core.generation.engine import Capabilities, Engine
from ema_core.generation.model_id import ModelId, base_model, is_base
from ema_core.personas import Card
from ema_core.runs import RunDirectory


def _wanted(model: str) -> tuple[str, str] | None:
    """The trait on whose vector a column's answers are projected, and the base model behind it; None where the run is gone."""
    name = ModelId.read(model).name
    try:
        if is_base(name):
            return personas.MONITORED, base_model(name)
        spec = RunDirectory.open(name).spec
        return projected_on(spec), spec.model
    except EmaError:
        return None


def card_for(model: str) -> Card | None:
    """The vector that a column's answers are projected on; None where there is none."""
    wanted = _wanted(model)
    return personas.find(*wanted) if wanted else None


def why_not(models: tuple[str, ...], able: Capabilities) -> str:
    """Why no projection is shown for these models; "" where there is one for each."""
    if not able.persona:
        return able.why_not
    missing = {wanted for model in models if (wanted := _wanted(model)) and personas.find(*wanted) is None}
    return "; ".join(
        f"{model} has no {trait} vector yet{'' if trait == personas.MONITORED else f' ({personas.MONITORED} is what the run adds)'}; "
        f"build it on Vectors and scores (ema persona build --trait {trait} --model {model})"
        for trait, model in sorted(missing)
    )


def unread(chat: Chat) -> list[tuple[Card, Turn, Answers, Sample]]:
    """Complete answers that were not projected on the vector of their base model yet."""
    found = []
    for turn in chat.turns:
        for column in turn.columns.values():
            card = None if column.server else card_for(column.model)
            for sample in column.samples if card else ():
                known = sample.projection is not None and sample.projection.vector == card.id  # type: ignore[union-attr]
                if sample.finish in COMPLETE and not known:
                    found.append((card, turn, column, sample))
    return found  # type: ignore[return-value]


def project_answers(chat: Chat) -> int:
    """Project what was not yet, in one call for each vector; says how many. Does nothing where no vector or no engine of ours is.

    Raises:
        EmaError: the engine cannot be asked, or the vector does not fit its model.
    """
    todo = unread(chat)
    if not todo:
        return 0
    engine = Engine.here()
    if not engine.own:
        return 0
    for card in {card.id: card for card, *_ in todo}.values():
        mine = [(turn, column, sample) for of, turn, column, sample in todo if of.id == card.id]
        items = [
            {"id": str(i), "model": column.model, "messages": chat.told(turn, column.model), "answer": sample.text}
            for i, (turn, column, sample) in enumerate(mine)
        ]
        rows: list[dict[str, Any]] = [
            {"turn": column.turn, "model": column.model, "attempt": column.attempt, "k": sample.k, "deviations": one["deviations"]}
            for (_, column, sample), one in zip(mine, engine.project(card.id, items), strict=True)
        ]
        log.append(chat.id, {"kind": "projected", "trait": card.trait, "vector": card.id, "layer": card.layer, "projections": rows})
    return len(todo)


def project_one(model: str, messages: list[dict[str, str]], answer: str) -> tuple[Card, float]:
    """One answer on the vector of its base model: the vector's card, and standard deviations from the base's mean.

    Raises:
        EmaError: there is no vector, or the engine cannot be asked.
    """
    card = card_for(model)
    if card is None:
        trait, base = _wanted(model) or (personas.MONITORED, "")
        raise EmaError(
            f"There is no {trait} vector of {base or 'this model'} yet.",
            f"Build it on Vectors and scores (ema persona build --trait {trait}{f' --model {base}' if base else ''}).",
        )
    engine = Engine.here()
    able = engine.capabilities()
    if not able.persona:
        raise EmaError("The answer cannot be projected here.", f"{able.why_not[:1].upper()}{able.why_not[1:]}.")
    [found] = engine.project(card.id, [{"id": "0", "model": model, "messages": messages, "answer": answer}])
    return card, float(found["deviations"])
