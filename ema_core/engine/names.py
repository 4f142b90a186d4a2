"""Model ids of the engine: ``base``, ``base:MODEL``, ``RUN``, ``RUN@STEP``, each run with ``*SCALE``. Torch-free."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ema_core.errors import EmaError, nearest
from ema_core.generation.engine import BASE_MODEL
from ema_core.models import CATALOG, EMBEDDED, adapters, find
from ema_core.runs import RunDirectory, Status, run_ids

MOST_SCALE = 4.0
_NAME = re.compile(r"(?P<run>[A-Za-z0-9._-]+?)(?:@(?P<step>\d{1,7}))?(?:\*(?P<scale>\d{1,3}(?:\.\d{1,6})?|\.\d{1,6}))?")


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
    if name == BASE_MODEL:
        return Target(name, EMBEDDED)
    if name.startswith(f"{BASE_MODEL}:"):
        wanted = name.removeprefix(f"{BASE_MODEL}:")
        try:
            return Target(name, find(wanted).id)
        except EmaError as error:
            raise UnknownModel(error.message, error.hint) from None
    found = _NAME.fullmatch(name)
    ids = run_ids()
    if found is None or found["run"] not in ids:
        hint = nearest(found["run"] if found else name, [BASE_MODEL, *ids[-12:]])
        raise UnknownModel(f'There is no model "{name}" here.', hint)
    run, scale = RunDirectory.open(found["run"]), float(found["scale"] or 1)
    if scale > MOST_SCALE:
        raise UnknownModel(f"An adapter's strength is from 0 to {MOST_SCALE:g}, not {scale:g}.", "Write for example RUN*0.5.")
    step = int(found["step"]) if found["step"] else None
    folder = run.adapter if step is None else run.checkpoints / f"step-{step}"
    try:
        spec, state = run.spec, run.state()
    except EmaError as error:
        raise UnknownModel(error.message, error.hint) from None
    if not (folder / adapters.WEIGHTS).exists():
        have = ", ".join(str(each) for each in run.checkpoint_steps()) or "none"
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
        if entry.ready and entry.id != EMBEDDED:
            yield f"{BASE_MODEL}:{entry.id}", 0.0
    for run_id in reversed(run_ids()):
        run = RunDirectory.open(run_id)
        created = run.state().created
        if (run.adapter / adapters.WEIGHTS).exists():
            yield run_id, created
        for step in run.checkpoint_steps():
            yield f"{run_id}@{step}", created
