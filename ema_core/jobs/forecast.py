"""When each job of the queue begins and how long it takes, from the same estimates as everywhere. Torch-free."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from ema_core.defenses import registry
from ema_core.defenses.base import Asset
from ema_core.errors import EmaError
from ema_core.evaluation.spec import CURVE_SCALES, EvalSpec, estimate_evaluation
from ema_core.evaluation.suites import load_suite
from ema_core.files import read_lines
from ema_core.jobs import queue
from ema_core.runs import RunDirectory, RunSpec, Status, steps
from ema_core.settings import settings
from ema_core.training.estimate import estimate

KNOWN_SHARE = 0.03
"""Below this share of a job its own pace says nothing yet."""
TAIL = 20_000


@dataclass(frozen=True)
class Turn:
    """``starts``: seconds until it begins (0: at work); None: it waits for something that no job in the queue brings about.
    ``takes``: seconds of work that are left of it; None: nobody can say."""

    starts: float | None
    takes: float | None


@dataclass(frozen=True)
class Forecast:
    """``seconds``: until the queue is empty; ``unknown``: jobs in it without an estimate, which count as nothing."""

    turns: dict[str, Turn]
    seconds: float
    unknown: int
    waiting: int


def forecast(jobs: Sequence[queue.Job]) -> Forecast:
    """What one worker makes of the open jobs, in the order in which it would take them."""
    opened = [job for job in jobs if job.status in ("queued", "running")]
    takes = {job.id: seconds_left(job) for job in opened}
    now = 0.0
    turns: dict[str, Turn] = {}
    for job in opened:
        if job.status == "running":
            turns[job.id] = Turn(0.0, takes[job.id])
            now += takes[job.id] or 0.0
    waiting = [job for job in opened if job.status == "queued"]
    trained_by = {run: job.id for job in opened if job.kind == "train" for run in job.runs}
    left = list(waiting)
    while free := [job for job in left if _free(job, turns, trained_by)]:
        first = free[0]
        left.remove(first)
        turns[first.id] = Turn(now, takes[first.id])
        now += takes[first.id] or 0.0
    turns |= {job.id: Turn(None, takes[job.id]) for job in left}
    return Forecast(turns, now, sum(takes[job.id] is None for job in opened), len(waiting))


def _free(job: queue.Job, turns: dict[str, Turn], trained_by: dict[str, str]) -> bool:
    """Is all that it waits for done, or does it come to its end before in the queue?"""
    if any(name not in turns and (known := queue.found(name)) is not None and known.status != "done" for name in job.after):
        return False
    return job.kind != "evaluate" or all(_trained(run, turns, trained_by) for run in job.runs)


def _trained(run_id: str, turns: dict[str, Turn], trained_by: dict[str, str]) -> bool:
    if run_id in trained_by:
        return trained_by[run_id] in turns
    try:
        return RunDirectory.open(run_id).state().status in (Status.DONE, Status.STOPPED, Status.FAILED)
    except EmaError:
        return True  # gone: it fails, or goes on without it, at once


def seconds_left(job: queue.Job) -> float | None:
    """Of work on it; None where nobody can say."""
    if job.status == "running" and job.kind != "train" and job.started and job.share > KNOWN_SHARE:
        return (time.time() - job.started) * (1 - job.share) / job.share
    try:
        whole = {"train": _training, "evaluate": _evaluation}.get(job.kind, _made)(job)
    except (EmaError, OSError, ValueError, KeyError, IndexError):
        return None  # its spec cannot be read, or its data is gone: it will say so when its turn comes
    share = job.share if job.status == "running" and job.kind != "train" else 0.0
    return None if whole is None else whole * (1 - share)


def _training(job: queue.Job) -> float:
    run = RunDirectory.open(job.runs[0])
    state = run.state()
    size = run.events_path.stat().st_size if run.events_path.exists() else 0
    if done := steps(read_lines(run.events_path, max(0, size - TAIL))[0]):
        return float(done[-1]["seconds_left"])
    whole = _estimate(run.spec.model_copy(update={"seed": 0}).to_json(), _version())
    return whole * (1 - state.step / state.total_steps) if state.total_steps else whole


@lru_cache(maxsize=512)
def _estimate(spec: str, version: tuple[int, ...]) -> float:
    return estimate(RunSpec.from_json(spec)).seconds


def _version() -> tuple[int, ...]:
    """Changes with what was measured here."""
    files = [settings().cache / name for name in ("throughput.json", "probe-tokens.json", "evaluation-speed.json")]
    return tuple(path.stat().st_mtime_ns if path.exists() else 0 for path in files)


def _evaluation(job: queue.Job) -> float:
    asked = [EvalSpec.model_validate(one) for one in job.payload["specs"]]
    return sum(evaluation_takes(RunDirectory.open(run_id).spec, asked, job.payload.get("curve", False)) for run_id in job.runs)


def evaluation_takes(run: RunSpec, asked: Sequence[EvalSpec], curve: bool = True) -> float:
    """Seconds of a run's evaluation, with ``curve`` also of its checkpoints and its scaled-down adapter where it is undefended."""
    total = sum(_suite_seconds(one.model_dump_json(), run.dataset, run.model, 0, _version()) for one in asked)
    if curve and run.defense_label == "none":
        for suite in {one.suite for one in asked} & {"general", "in-domain"}:
            margins = EvalSpec.model_validate({"suite": suite, "samples": 0}).model_dump_json()
            total += _suite_seconds(margins, run.dataset, run.model, _states(run), _version())
    return total


def _states(spec: RunSpec) -> int:
    checkpoints = (spec.recipe.steps - 1) // spec.recipe.checkpoint_every if spec.recipe.steps else 0
    return checkpoints + len(CURVE_SCALES) - 1  # the first is in ``estimate_evaluation`` itself


@lru_cache(maxsize=512)
def _suite_seconds(asked: str, dataset: str, model: str, states: int, version: tuple[int, ...]) -> float:
    spec = EvalSpec.model_validate_json(asked)
    suite = load_suite(spec.suite, dataset)
    return estimate_evaluation(len(suite.questions), len(suite.pairs), spec.samples, spec.max_tokens, states, model=model)


def _made(job: queue.Job) -> float | None:
    """What a defense needs first: as the defenses say it."""
    return next((asset.seconds for asset in _assets() if asset.job == job.kind and asset.seconds), None)


@lru_cache(maxsize=1)
def _assets() -> tuple[Asset, ...]:
    """One of each kind that defenses ask for."""
    found: list[Asset] = []
    for kind in registry.all_defenses().values():
        try:
            asked = RunSpec(defenses=({"name": kind.name, "strength": kind.strength_info.default},))  # type: ignore[arg-type]
            for asset in (asset for defense in registry.build_all(asked, provisional=True) for asset in defense.assets()):
                found += [*asset.after, asset]
        except EmaError:
            continue
    return tuple(found)
