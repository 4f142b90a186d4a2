"""Model ids of the engine: ``base``, ``base:MODEL``, ``RUN``, ``RUN@STEP``, each run with ``*SCALE``. Torch-free."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ema_core.errors import EmaError, nearest
from ema_core.generation.engine import BASE_MODEL
from ema_core.generation.model_id import ModelId, base_model, is_base
from ema_core.models import CATALOG, EMBEDDED, adapters, find
from ema_core.runs import RunDirectory, Status, run_ids

MOST_SCALE = 4.0


class UnknownModel(EmaError):
    """No model of that id answers here."""


@dataclass(frozen=True)
class Target:
    """What a model id stands for. ``folder`` None: the base alone. ``hash``: what the adapter's file has to have, where known."""

    id: str
    model: str
    folder: Path | None = None
    hash: str | None = None
    scale: float = 1.0


def resolve(name: str) -> Target:
    """What ``name`` stands for now. The adapter's file is not read.

    Raises:
        UnknownModel: nothing, or a run that has no such adapter.
    """
    if is_base(name):
        try:
            return Target(name, find(base_model(name)).id)
        except EmaError as error:
            raise UnknownModel(error.message, error.hint) from None
    wanted, ids = ModelId.read(name), run_ids()
    if wanted.name not in ids:
        raise UnknownModel(f'There is no model "{name[:200]}" here.', nearest(wanted.name[:200], [BASE_MODEL, *ids[-12:]]))
    run, step, scale = RunDirectory.open(wanted.name), wanted.step, wanted.scale
    if scale > MOST_SCALE:
        raise UnknownModel(f"An adapter's strength is from 0 to {MOST_SCALE:g}, not {scale:g}.", "Write for example RUN*0.5.")
    folder = run.adapter if step is None else run.checkpoints / f"step-{step}"
    try:
        spec, state = run.spec, run.state()
    except EmaError as error:
        raise UnknownModel(error.message, error.hint) from None
    if not (folder / adapters.WEIGHTS).exists():
        have = ", ".join(str(each) for each in run.checkpoint_steps()) or "none"
        if state.recorded or (step is None and state.status is Status.DONE):
            raise UnknownModel(
                f"The run {run.id} is here without its adapter.", "Train the same settings as a run of your own to ask it."
            )
        what = f"no checkpoint at step {step} (it has: {have})" if step is not None else f"no adapter (it is {state.status})"
        raise UnknownModel(f"The run {run.id} has {what}.", "Let it finish, or stop it, first." if step is None else "")
    if step is not None:
        expected = run.checkpoint_hash(step)
    else:
        expected = state.found.get("adapter_hash") if state.status in (Status.DONE, Status.STOPPED) else None
    return Target(name, spec.model, folder, expected, scale)


def names() -> Iterator[tuple[str, float]]:
    """Every id that answers, with when it came to be (seconds since the epoch; 0 = unknown): bases, runs, checkpoints."""
    yield BASE_MODEL, 0.0
    for entry in CATALOG.values():
        if entry.ready and entry.kind == "chat" and entry.id != EMBEDDED:
            yield f"{BASE_MODEL}:{entry.id}", 0.0
    for run_id in reversed(run_ids()):
        try:
            run = RunDirectory.open(run_id)
        except EmaError:
            continue  # deleted since the ids were read
        created = run.state().created
        if (run.adapter / adapters.WEIGHTS).exists():
            yield run_id, created
        for step in run.checkpoint_steps():
            yield str(ModelId(run_id, step)), created
