"""How fast this machine evaluates: margins, sampling and judging apart, as it was measured last. Torch-free."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

from ema_core.errors import EmaError
from ema_core.files import read_json, write_json
from ema_core.models import EMBEDDED, find
from ema_core.settings import settings

FEWEST_SECONDS = 1.0
"""Work that took less says little of the next."""


@dataclass(frozen=True)
class Speed:
    """``pair``: seconds of a margin's pair. ``tokens``: sampled tokens a second, of all answers together. ``answer``: seconds of judging
    one. ``stop``: chance that an answer ends by itself at a token; 0 = as if each were cut. The defaults are of the embedded model on
    two cores, before anything was measured."""

    pair: float = 15 / 120
    tokens: float = 100.0
    answer: float = 10 / 100
    stop: float = 0.0

    def length(self, limit: int) -> float:
        """Tokens of an answer of at most ``limit``, on average."""
        return -math.expm1(-self.stop * limit) / self.stop if self.stop > 0 else float(limit)


def speed(model: str = EMBEDDED) -> Speed:
    """Of this model here: what was measured of it, else of another, by their sizes."""
    known = _read()
    if model in known:
        return _speed(known[model])
    other = next(iter(known), EMBEDDED)
    try:
        factor = find(model).parameters / find(other).parameters
    except EmaError:
        factor = 1.0
    found = _speed(known.get(other, {}))
    return replace(found, pair=found.pair * factor, tokens=found.tokens / factor, stop=0.0)


def measured(model: str = EMBEDDED) -> bool:
    return model in _read()


def learn(model: str, seconds: float, **done: float) -> None:
    """Keep what work of ``seconds`` says: ``pairs`` of a margin, ``answers`` judged, or ``tokens`` sampled in answers of which ``stops``
    ended by themselves."""
    if seconds < FEWEST_SECONDS:
        return
    found: dict[str, float] = {}
    if done.get("pairs"):
        found["pair"] = seconds / done["pairs"]
    if done.get("answers"):
        found["answer"] = seconds / done["answers"]
    if done.get("tokens"):
        found |= {"tokens": done["tokens"] / seconds, "stop": done.get("stops", 0) / done["tokens"]}
    known = _read()
    try:
        write_json(settings().cache / "evaluation-speed.json", {**known, model: asdict(_speed({**known.get(model, {}), **found}))})
    except (EmaError, OSError):
        pass  # a figure for later estimates; no reason to fail an evaluation


def _speed(values: Any) -> Speed:
    try:
        return Speed(**{name: float(value) for name, value in values.items() if float(value) >= 0})
    except (TypeError, ValueError, AttributeError):
        return Speed()


def _read() -> dict[str, Any]:
    try:
        return dict(read_json(settings().cache / "evaluation-speed.json"))
    except (OSError, ValueError, TypeError):
        return {}
