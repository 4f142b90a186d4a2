"""One run as a row of models: along its training, or its adapter from none to one and a half times its strength. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from ema_core.chats.view import Turn, Walk
from ema_core.errors import EmaError
from ema_core.evaluation.evaluate import RECORDED_HINT
from ema_core.generation.engine import BASE_MODEL
from ema_core.generation.model_id import ModelId, is_base
from ema_core.models import EMBEDDED
from ema_core.models.adapters import WEIGHTS
from ema_core.runs import RunDirectory

MOST_STOPS = 40
AT_ONCE = 12
"""Stops that are asked together: each checkpoint is an adapter that the engine has to hold."""
SCALES = tuple(k / 10 for k in range(16))
FIRST_SCALES = (0.0, 0.5, 1.0, 1.5)


@dataclass(frozen=True)
class Stop:
    """``place``: the training step, or the strength. ``label`` says it in a word or two."""

    model: str
    place: float
    label: str


def stops(run_id: str, by: Walk) -> list[Stop]:
    """The stops of a run, from its base on.

    Raises:
        EmaError: no such run, or it has neither an adapter nor a checkpoint.
    """
    run = RunDirectory.open(run_id)
    final = (run.adapter / WEIGHTS).exists()
    steps = run.checkpoint_steps()
    if not final and not steps and run.state().recorded:
        raise EmaError(f"The run {run.id} was recorded without its adapter, so nobody can ask it.", RECORDED_HINT)
    if not final and not steps:
        raise EmaError(f"The run {run.id} has no adapter and no checkpoint yet.", "Wait for its first checkpoint.")
    if by == "strength":
        step = None if final else steps[-1]
        return [Stop(str(ModelId(run.id, step, scale)), scale, _scale(scale)) for scale in SCALES]
    spec, state = run.spec, run.state()
    own = state.found.get("adapter_hash")
    if final and own and steps and steps[-1] == state.step and _hash(run, state.step) == own:
        steps = steps[:-1]  # the same weights under another name
    base = BASE_MODEL if spec.model == EMBEDDED else f"{BASE_MODEL}:{spec.model}"
    found = [Stop(base, 0, "base"), *(Stop(str(ModelId(run.id, step)), step, f"step {step}") for step in steps)]
    return [*found, Stop(run.id, state.step, f"final ({state.step})")] if final else found


def _hash(run: RunDirectory, step: int) -> str | None:
    try:
        size = run.events_path.stat().st_size
    except OSError:
        return None
    return _read_hash(str(run.path), step, size)


@lru_cache(maxsize=256)
def _read_hash(path: str, step: int, size: int) -> str | None:
    """Of a checkpoint; the events are read for it, so it is kept for a size of their file."""
    return RunDirectory(Path(path)).checkpoint_hash(step)


def stops_of(turn: Turn) -> list[Stop]:
    """The stops that answered a question; also of a run that is gone."""
    by, known = turn.question.by, {}
    try:
        known = {stop.model: stop for stop in stops(turn.question.along, by)}
    except EmaError:
        pass
    return sorted((known.get(model) or _read(model, by) for model in turn.columns), key=lambda stop: stop.place)


def _read(model: str, by: Walk) -> Stop:
    one = ModelId.read(model)
    if by == "strength":
        return Stop(model, one.scale, _scale(one.scale))
    if is_base(one.name):
        return Stop(model, 0, "base")
    return Stop(model, float("inf"), "final") if one.step is None else Stop(model, one.step, f"step {one.step}")


def _scale(scale: float) -> str:
    return f"× {scale:g}"


def first(all_stops: Sequence[Stop], by: Walk, at: str = "") -> list[str]:
    """The models that are asked at once; others follow when someone stops there. ``at``: one that is to be among them."""
    chosen = [stop.model for stop in all_stops if stop.place in FIRST_SCALES] if by == "strength" else spread(all_stops, AT_ONCE)
    return [stop.model for stop in all_stops if stop.model in {*chosen, at}]


def spread(all_stops: Sequence[Stop], most: int) -> list[str]:
    """At most so many of the stops, from the first to the last one, evenly."""
    count = len(all_stops)
    if count <= most:
        return [stop.model for stop in all_stops]
    places = dict.fromkeys(round(k * (count - 1) / (most - 1)) for k in range(most))
    return [all_stops[place].model for place in places]
