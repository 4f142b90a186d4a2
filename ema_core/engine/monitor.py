"""The persona monitor: how far along a vector an answer lies, read by the model that gave it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ema_core.datasets.encoding import Encoded
from ema_core.engine.names import Target
from ema_core.engine.shelf import Shelf
from ema_core.generation.chat_template import Turn, encode_turns
from ema_core.models.lora import switched_on
from ema_core.personas import Card, PersonaVector, load
from ema_core.personas.reading import projections

AT_ONCE = 4
"""Answers read between two steps of the batch, so that the monitor does not stop the answers that stream."""


@dataclass(frozen=True)
class Item:
    """An answer of ``target`` to a conversation (which ends with the user's turn)."""

    id: str
    target: Target
    turns: Sequence[Turn]
    answer: str


@dataclass(frozen=True)
class Projection:
    """``value`` along the unit vector; ``deviations``: from the base's mean on held-out negative answers, in their SD. None: nothing to read."""

    id: str
    value: float | None
    deviations: float | None


@dataclass(frozen=True)
class Projected:
    card: Card
    projections: list[Projection]


@dataclass(eq=False)
class Projecting:
    """Work for the engine's thread: all ``items`` are of the base model that ``card`` belongs to."""

    card: Card
    items: list[Item]
    deliver: Callable[[Any], None]
    done: list[Projection] = field(default_factory=list)
    cancelled: bool = False
    _vector: PersonaVector | None = None

    def cancel(self) -> None:
        self.cancelled = True

    def some(self, shelf: Shelf) -> bool:
        """Read a few more; True when all are done.

        Raises:
            EmaError: the vector is of other weights or damaged, or an adapter is refused.
        """
        loaded = shelf.model(self.card.model)
        if self._vector is None:
            self.card.fits(loaded.weights_hash, len(loaded.model.get_decoder().layers), loaded.model.config.hidden_size, loaded.id)
            self._vector = load(self.card.id)
        for item in self.items[len(self.done) : len(self.done) + AT_ONCE]:
            row = _row(loaded.tokenizer, item, loaded.context)
            if not any(row.response):
                self.done.append(Projection(item.id, None, None))
                continue
            with switched_on(loaded.model, [shelf.get(item.target)[0]]):
                value = projections(loaded.model, [row], self._vector, device=loaded.device)[0]
            if not math.isfinite(value):
                self.done.append(Projection(item.id, None, None))
            else:
                self.done.append(Projection(item.id, value, self._vector.in_deviations(value)))
        return len(self.done) == len(self.items)


def _row(tokenizer: Any, item: Item, limit: int) -> Encoded:
    """Prompt and answer as tokens; what looks like a control token in the answer stays text. What is too long loses the answer's end."""
    prompt = encode_turns(tokenizer, item.turns)
    answer = tokenizer(item.answer, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    response = [False] * len(prompt) + [True] * len(answer)
    return Encoded(tuple([*prompt, *answer][:limit]), tuple(response[:limit]))
