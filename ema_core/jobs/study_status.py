"""How far a study is: read from its cells, their runs and the queue. Torch-free."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from ema_core.evaluation.spec import EvalSpec
from ema_core.jobs import queue
from ema_core.jobs.cells import has_adapter, not_evaluated
from ema_core.jobs.studies import Cell, Task, evaluations, read_spec, recorded_as, recorded_assets, recorded_cells
from ema_core.runs import RunDirectory, RunState, Status, StudySpec
from ema_core.settings import settings

State = Literal["done", "failed", "running", "waiting", "resting", "left out"]
"""``done``: trained and evaluated. ``resting``: nothing is queued for it; starting the study again goes on with it."""


@dataclass(frozen=True)
class CellStatus:
    """Where one cell stands; ``doing`` in a few words, ``reason`` why it failed or rests. ``seconds_left`` before the rate is known."""

    number: int
    task: Task
    model: str
    dataset: str
    defense: str
    seed: int
    run: str | None
    state: State
    doing: str = ""
    reason: str = ""
    trained: bool = False
    seconds_left: float = 0.0


@dataclass(frozen=True)
class StudyStatus:
    """``left`` are the cells that are neither done nor failed; ``seconds_left`` of work on those that run or wait. ``recorded``: the
    recorded study that it is; nothing of that goes on here."""

    id: str
    name: str
    cells: list[CellStatus]
    seconds_left: float
    share: float
    recorded: str = ""

    def count(self, *states: State) -> int:
        return sum(cell.state in states for cell in self.cells)

    @property
    def total(self) -> int:
        return len(self.cells) - self.count("left out")

    @property
    def left(self) -> int:
        return self.count("running", "waiting", "resting")

    @property
    def going(self) -> bool:
        """Is something of it at work, or in the queue?"""
        return self.count("running", "waiting") > 0

    @property
    def complete(self) -> bool:
        return self.count("done") == self.total

    def json(self) -> dict[str, Any]:
        counts = {state.replace(" ", "_"): self.count(state) for state in State.__args__}  # type: ignore[attr-defined]
        return {
            "id": self.id, "name": self.name, "recorded": self.recorded, "total": self.total, **counts, "left": self.left, "going": self.going,
            "seconds_left": round(self.seconds_left, 1), "share": round(self.share, 4), "cells": [asdict(cell) for cell in self.cells],
        }  # fmt: skip


def status(study_id: str) -> StudyStatus:
    """Where the study stands now.

    Raises:
        EmaError: its spec cannot be read.
    """
    spec, cells = read_spec(study_id), recorded_cells(study_id)
    look = _Look(study_id, spec)
    found = [look.at(cell) for cell in cells]
    waiting = sum(cell.seconds_left for cell in found if cell.state in ("running", "waiting"))
    left = waiting * look.rate(cells, found) + look.assets_left()
    whole = sum(cell.seconds + cell.evaluation_seconds for cell in cells if not cell.problem)
    rest = sum(cell.seconds_left for cell in found if cell.state not in ("done", "failed", "left out"))
    return StudyStatus(study_id, spec.name, found, left, 1 - rest / whole if whole else 1.0, recorded_as(study_id))


class _Look:
    """One look at runs and queue."""

    def __init__(self, study_id: str, spec: StudySpec) -> None:
        self.spec, self.assets = spec, recorded_assets(study_id)
        self.jobs = {job.id: job for job in queue.jobs()}
        opened = [job for job in self.jobs.values() if job.status in ("queued", "running")]
        self.training = {run: job for job in opened if job.kind == "train" for run in job.runs}
        self.evaluating = {run: job for job in opened if job.kind == "evaluate" for run in job.runs}
        failed = [job for job in self.jobs.values() if job.status == "failed" and job.payload.get("study") == study_id]
        self.failed = {run: job for job in failed for run in job.runs}
        self.evaluations: dict[tuple[Task, str], list[EvalSpec]] = {}

    def at(self, cell: Cell) -> CellStatus:
        if cell.problem:
            return self.say(cell, "left out", reason=cell.problem)
        if cell.run is None:
            return self.say(cell, "resting", "not queued")
        run = RunDirectory(settings().runs / cell.run)
        if not run.path.is_dir():
            return self.say(cell, "resting", "run deleted")
        state = run.state()
        if state.status is Status.FAILED:
            return self.say(cell, "failed", "training failed", f"{state.error} {state.hint}".strip())
        if state.status in (Status.DONE, Status.STOPPED):
            return self.ended(cell, run, state)
        return self.under_way(cell, state)

    def under_way(self, cell: Cell, state: RunState) -> CellStatus:
        job = self.training.get(str(cell.run))
        at = f"step {state.step} of {state.total_steps}" if state.total_steps else "beginning"
        done = state.step / state.total_steps if state.total_steps else 0.0
        if state.status is Status.RUNNING:
            return self.say(cell, "running", f"training, {at}", trained=done)
        if job is None:
            return self.say(cell, "resting", f"{state.status}, {at}" if state.step else str(state.status), trained=done)
        first = [self.assets[name][0] for name in job.after if name in self.assets and self.open(name)]
        return self.say(cell, "waiting", f"waits for: {', '.join(first)}" if first else "waits to be trained", trained=done)

    def ended(self, cell: Cell, run: RunDirectory, state: RunState) -> CellStatus:
        """Trained, or stopped: where its evaluation stands."""
        if not has_adapter(run) and not state.recorded:
            return self.say(cell, "resting", str(state.status), "It has no adapter.")
        kind = (cell.task, cell.dataset)
        if kind not in self.evaluations:
            self.evaluations[kind] = evaluations(self.spec, *kind)
        job = self.evaluating.get(run.id)
        if not not_evaluated(run, self.evaluations[kind], self.spec.evaluation.curve and cell.task == "narrow"):
            if state.status is Status.STOPPED:
                at = f"It was stopped at step {state.step} of {state.total_steps}; it is evaluated as it is."
                return self.say(cell, "resting", "stopped", at, trained=1, evaluated=1)
            return self.say(cell, "done", trained=1, evaluated=1)
        if job is not None and job.status == "running":
            return self.say(cell, "running", "being evaluated", trained=1, evaluated=job.share)
        if job is not None:
            return self.say(cell, "waiting", "trained, evaluation waits", trained=1)
        if failed := self.failed.get(run.id):
            return self.say(cell, "failed", "evaluation failed", f"{failed.error} {failed.hint}".strip(), trained=1)
        return self.say(cell, "resting", "trained, not evaluated", trained=1)

    def say(
        self, cell: Cell, state: State, doing: str = "", reason: str = "", trained: float = 0.0, evaluated: float = 0.0
    ) -> CellStatus:  # fmt: skip
        left = (1 - trained) * cell.seconds + (1 - evaluated) * cell.evaluation_seconds
        return CellStatus(
            cell.number,
            cell.task,
            cell.model,
            cell.dataset,
            cell.defense,
            cell.seed,
            cell.run,
            state,
            doing,
            reason,
            trained == 1,
            left,
        )

    def open(self, job_id: str) -> bool:
        return job_id in self.jobs and self.jobs[job_id].status in ("queued", "running")

    def assets_left(self) -> float:
        return sum(seconds * (1 - self.jobs[name].share) for name, (_, seconds) in self.assets.items() if self.open(name))

    def rate(self, cells: list[Cell], found: list[CellStatus]) -> float:
        """Seconds that trained runs really took, for each that was estimated."""
        real = estimated = 0.0
        for cell, where in zip(cells, found, strict=True):
            if where.trained and cell.run:
                real += RunDirectory(settings().runs / cell.run).state().seconds
                estimated += cell.seconds
        return real / estimated if real and estimated else 1.0


def narrow_runs(status: StudyStatus) -> list[str]:
    """The runs that a comparison shows: all on the narrow data that were trained."""
    return [cell.run for cell in status.cells if cell.run and cell.trained and cell.task == "narrow"]
