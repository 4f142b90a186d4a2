"""Studies: planned, started, gone on with, cancelled. What a study is stands in files, so it survives any crash. Torch-free.

``studies/<id>/spec.toml`` is the study, ``cells.json`` says which run each of its cells is; how far they are follows from the runs
and the queue (``jobs.study_status``).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock

from ema_core.defenses import registry
from ema_core.errors import EmaError, nearest
from ema_core.evaluation.spec import CURVE_SCALES, EvalSpec, estimate_evaluation
from ema_core.evaluation.suites import load_suite, suites_of
from ema_core.files import read_json, write_atomic, write_json
from ema_core.jobs import launch, queue
from ema_core.jobs.cells import Identity, Known, identity, queue_evaluations
from ema_core.jobs.siblings import SUITE, siblings_of
from ema_core.judging import is_llm, resolve
from ema_core.runs import MANY_RUNS, RunDirectory, RunSpec, Status, StudySpec
from ema_core.settings import settings, writable
from ema_core.shared import allow, owner, why_not
from ema_core.shared.limits import check_samples, check_usd
from ema_core.training import check
from ema_core.training.estimate import Estimate, estimate

Task = Literal["narrow", "benign"]
MOST_PROBLEMS = 5
"""So many invalid cells are named in the refusal."""


@dataclass
class Cell:
    """One run of a study. ``number`` counts from 1; ``seconds`` of training and of evaluation are estimates; ``problem`` says why
    it cannot be run."""

    number: int
    task: Task
    model: str
    dataset: str
    defense: str
    seed: int
    seconds: float = 0.0
    evaluation_seconds: float = 0.0
    run: str | None = None
    problem: str = ""

    @property
    def label(self) -> str:
        return f"{self.defense}, {self.dataset}, seed {self.seed}"


@dataclass
class Plan:
    """All that a study comes to. ``first``: title and seconds of what has to be made before."""

    cells: list[Cell] = field(default_factory=list)
    specs: dict[int, RunSpec] = field(default_factory=dict)
    first: tuple[tuple[str, float], ...] = ()

    @property
    def new(self) -> list[Cell]:
        """Cells without a run as yet."""
        return [cell for cell in self.cells if cell.run is None and not cell.problem]

    @property
    def problems(self) -> list[Cell]:
        return [cell for cell in self.cells if cell.problem]

    @property
    def seconds(self) -> float:
        """Of all that is new: what comes first, training, evaluation."""
        return sum(seconds for _, seconds in self.first) + sum(cell.seconds + cell.evaluation_seconds for cell in self.new)


def usual_strengths(name: str, word: str) -> Sequence[float]:
    """What ``default`` and ``sweep`` mean for a defense."""
    info = registry.find(name).strength_info
    return info.grid if word == "sweep" else (info.default,)


def folder(study_id: str) -> Path:
    return settings().studies / study_id


def recorded_as(study_id: str) -> str:
    """The recorded study that this one is (``exchange.recorded``); "" for one that was started here."""
    return str(_read(study_id).get("recorded") or "")


def study_ids() -> list[str]:
    """Every study, recorded ones at the front, then the one that was started first."""
    found = [path.parent for path in settings().studies.glob("*/cells.json")]
    ages = {path.name: (path / "spec.toml").stat().st_mtime for path in found}
    return sorted(ages, key=lambda name: (not (name.startswith("recorded-") and recorded_as(name)), ages[name], name))


def find(study_id: str) -> str:
    """A study by its id, or by a clear beginning of it.

    Raises:
        EmaError: none, or several.
    """
    known = study_ids()
    matches = [study_id] if study_id in known else [one for one in known if one.startswith(study_id)]
    if len(matches) != 1:
        what = f"fits {len(matches)} studies" if matches else "is no study that was started"
        raise EmaError(f'"{study_id}" {what}.', f"{nearest(study_id, known)} `ema study list` shows all.".strip())
    return matches[0]


def evaluations(spec: StudySpec, task: Task, dataset: str) -> list[EvalSpec]:
    """What each run on the data set is asked.

    Raises:
        EmaError: unknown suite or judge.
    """
    asked = spec.evaluation
    resolve(asked.judge)
    if task == "benign":
        return launch.eval_specs([SUITE], None, asked.preset, asked.judge, dataset=dataset)
    suites = asked.suites or suites_of(dataset)
    return launch.eval_specs(suites, asked.samples, asked.preset, asked.judge, dataset=dataset, max_tokens=asked.max_tokens)


def plan(spec: StudySpec, known: Known | None = None) -> Plan:
    """What the study comes to here and now: its cells, which runs are there already, how long the rest takes.

    Raises:
        EmaError: a defense that cannot be read, an unknown suite or judge. A cell that cannot be run is a ``problem`` of the plan.
    """
    planner = _Planner(spec, known or Known(), _recorded(spec.id))
    narrow = spec.expand(usual_strengths)
    for one in narrow:
        planner.add(one, "narrow")
    if spec.benign:
        for one in narrow:
            planner.add(siblings_of(one, spec.benign), "benign")
    return planner.plan


class _Planner:
    """Checks a setting once, however many seeds it has."""

    def __init__(self, spec: StudySpec, known: Known, own: dict[Identity, str]) -> None:
        self.study, self.known, self.own, self.plan = spec, known, own, Plan()
        resolve(spec.evaluation.judge)
        self.checked: dict[str, tuple[RunSpec, Estimate, float] | EmaError] = {}
        self.referred: set[tuple[str, ...]] = set()
        self.seen: set[Identity] = set()

    def add(self, asked: RunSpec, task: Task) -> None:
        found = self.check(asked, task)
        cell = Cell(len(self.plan.cells) + 1, task, asked.model, asked.dataset, asked.defense_label, asked.seed)
        if isinstance(found, EmaError):
            cell.problem = str(found)
        else:
            spec = found[0].model_copy(update={"seed": asked.seed})
            cell.model, cell.defense, cell.evaluation_seconds = spec.model, spec.defense_label, found[2]
            cell.seconds = self.training_seconds(spec, found[1])
            if identity(spec) in self.seen:  # the same by another spelling
                return
            self.seen.add(identity(spec))
            run = self.known.find(spec, self.own.get(identity(spec)))
            cell.run = run.id if run else None
            self.plan.specs[cell.number] = spec
        self.plan.cells.append(cell)

    def training_seconds(self, spec: RunSpec, found: Estimate) -> float:
        """What the first run has of the reference's states, those after it find."""
        alike = (spec.model, spec.dataset, spec.safe_pool, *(defense.name for defense in spec.defenses))
        kept = found.keeps and alike in self.referred
        self.referred.add(alike)
        return found.seconds - found.reference_seconds * kept

    def check(self, asked: RunSpec, task: Task) -> tuple[RunSpec, Estimate, float] | EmaError:
        key = asked.setting.key
        if key not in self.checked:
            try:
                spec = check(asked, assets_first=True)
                found = estimate(spec)
                self.plan.first = tuple(dict([*self.plan.first, *found.first]).items())
                self.checked[key] = spec, found, self.evaluation_seconds(spec, task, found.steps)
            except EmaError as error:
                self.checked[key] = error
        return self.checked[key]

    def evaluation_seconds(self, spec: RunSpec, task: Task, steps: int) -> float:
        states = (steps - 1) // spec.recipe.checkpoint_every + len(CURVE_SCALES)
        states = states if self.study.evaluation.curve and not spec.defenses and task == "narrow" else 0
        total = 0.0
        for asked in evaluations(self.study, task, spec.dataset):
            suite = load_suite(asked.suite, spec.dataset)
            total += estimate_evaluation(
                len(suite.questions), len(suite.pairs), asked.samples, asked.max_tokens, states, model=spec.model
            )
        return total


def start(spec: StudySpec, *, confirmed: bool = False, retry: bool = False, skip_invalid: bool = False) -> str:
    """Start a study, or go on with it; returns its id. What is there is not done again, what rests goes on.

    ``retry``: failed and stopped runs, too. ``skip_invalid``: cells that cannot be run are left out (and listed) instead of refused.

    Raises:
        EmaError: too many runs without ``confirmed``, or a cell that cannot be run; nothing was queued.
    """
    if (count := spec.count(usual_strengths)) > MANY_RUNS and not confirmed:
        raise EmaError(
            f"This study comes to {count:,} runs, more than {MANY_RUNS:,}.",
            "Add --yes if that is meant, or take fewer strengths or seeds.",
        )
    allow()
    spec = _own_name(spec)
    writable(folder(spec.id))
    with FileLock(folder(spec.id) / ".lock"):
        known = Known()
        todo = plan(spec, known)
        if todo.problems and not skip_invalid:
            raise EmaError(_refusal(todo), "Mend or take out these cells, or add --skip-invalid to do the others.")
        if not todo.specs:
            raise EmaError("No cell of this study can be run.", _refusal(todo))
        _within_limits(spec, todo)
        if owner() and not (folder(spec.id) / "owner").exists():
            write_atomic(folder(spec.id) / "owner", owner())
        if not (folder(spec.id) / "spec.toml").exists():
            write_atomic(folder(spec.id) / "spec.toml", spec.to_toml())
        record = _Record(spec, todo)
        record.write()
        try:
            for cell in todo.cells:
                if cell.number in todo.specs:
                    record.queued(cell, todo.specs[cell.number], known, retry)
            for (_, dataset, task), runs in record.groups().items():
                curve = spec.evaluation.curve and task == "narrow"
                queue_evaluations(runs, evaluations(spec, task, dataset), curve, known, spec.id)
        finally:
            record.write()
    return spec.id


def owner_of(study_id: str) -> str:
    """Whose study it is in a shared room; "": nobody's in particular."""
    try:
        return (folder(study_id) / "owner").read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _own_name(spec: StudySpec) -> StudySpec:
    """In a shared room thirty people press the same button: whose is not the first one gets a study of their own; runs that are there are
    taken, whoever made them."""
    if (folder(spec.id) / "spec.toml").exists() and why_not(owner_of(spec.id)):
        return spec.model_copy(update={"name": f"{spec.name[: 77 - len(owner())]} ({owner()})"})
    return spec


def _within_limits(spec: StudySpec, todo: Plan) -> None:
    """Raises:
    EmaError: it is more than the acting person may ask for; nothing was queued.
    """
    for one in {todo.specs[cell.number].setting.key: todo.specs[cell.number] for cell in todo.new}.values():
        launch.within_limits(one)
    groups = {(cell.model, cell.dataset, cell.task) for cell in todo.cells if cell.number in todo.specs}
    for _, dataset, task in groups:
        for asked in evaluations(spec, task, dataset):
            check_samples(asked.samples)
            if is_llm(asked.judge):
                check_usd(None)
    queue.allow_more(len(todo.new), len(groups))


def _refusal(todo: Plan) -> str:
    bad = todo.problems
    more = f" And {len(bad) - MOST_PROBLEMS} more." if len(bad) > MOST_PROBLEMS else ""
    said = " ".join(f"Cell {cell.number} ({cell.label}): {cell.problem}" for cell in bad[:MOST_PROBLEMS])
    return f"{len(bad)} of {len(todo.cells)} cells cannot be run. {said}{more}"


class _Record:
    """``cells.json`` in the making."""

    def __init__(self, spec: StudySpec, todo: Plan) -> None:
        self.spec, self.todo = spec, todo
        self.keys = {number: list(identity(one)) for number, one in todo.specs.items()}
        self.titles = dict(todo.first)
        self.assets: dict[str, list[Any]] = _read(spec.id).get("assets", {})

    def queued(self, cell: Cell, spec: RunSpec, known: Known, retry: bool) -> None:
        """Its run: the one that is there, brought on; else a new one."""
        if cell.run is None:
            cell.run = known.make(spec).id
        else:
            known.bring(RunDirectory.open(cell.run), retry)
        job = known.training.get(cell.run)
        if job is not None and job.after and not set(job.after) <= set(self.assets):
            self.assets.update(_assets(spec, job.after))

    def groups(self) -> dict[tuple[str, str, Task], list[RunDirectory]]:
        """Runs that are evaluated together: of one model and data set."""
        found: dict[tuple[str, str, Task], list[RunDirectory]] = {}
        for cell in self.todo.cells:
            if cell.run is not None:
                found.setdefault((cell.model, cell.dataset, cell.task), []).append(RunDirectory.open(cell.run))
        return found

    def write(self) -> None:
        cells = [asdict(cell) | {"identity": self.keys.get(cell.number)} for cell in self.todo.cells]
        write_json(folder(self.spec.id) / "cells.json", {"cells": cells, "assets": self.assets})


def _assets(spec: RunSpec, jobs: Sequence[str]) -> dict[str, list[Any]]:
    """Title and seconds of the jobs that make what a run needs first."""
    missing = registry.missing_assets(registry.build_all(spec, provisional=True))
    return {job: [asset.title, asset.seconds] for job, asset in zip(jobs, missing, strict=False)}


def _read(study_id: str) -> dict[str, Any]:
    try:
        return dict(read_json(folder(study_id) / "cells.json"))
    except (OSError, ValueError):
        return {}


def _recorded(study_id: str) -> dict[Identity, str]:
    """The runs that the study has made or taken before."""
    cells = _read(study_id).get("cells", [])
    return {(cell["identity"][0], cell["identity"][1]): cell["run"] for cell in cells if cell["identity"] and cell["run"]}


def recorded_cells(study_id: str) -> list[Cell]:
    """The cells as they were recorded when the study was last started."""
    return [Cell(**{key: cell[key] for key in Cell.__dataclass_fields__}) for cell in _read(study_id).get("cells", [])]


def recorded_assets(study_id: str) -> dict[str, tuple[str, float]]:
    """Job to title and seconds of what had to be made first."""
    return {job: (title, seconds) for job, (title, seconds) in _read(study_id).get("assets", {}).items()}


def read_spec(study_id: str) -> StudySpec:
    return StudySpec.read(folder(study_id) / "spec.toml")


def cancel(study_id: str) -> int:
    """Take the study's waiting jobs out of the queue; returns how many. What runs now goes on to its end. Starting it again goes on.

    Runs that another open evaluation waits for stay.
    """
    allow(owner_of(study_id))
    runs = {cell.run for cell in recorded_cells(study_id) if cell.run}
    waiting = [job for job in queue.jobs() if job.status == "queued"]
    mine = [job for job in waiting if job.kind == "evaluate" and job.payload.get("study") == study_id]
    others = {run for job in waiting if job.kind == "evaluate" and job not in mine for run in job.runs}
    trains = [job for job in waiting if job.kind == "train" and set(job.runs) <= runs - others and not why_not(job.owner)]
    for job in trains:
        with suppress(EmaError):
            launch.request(RunDirectory.open(job.runs[0]), "pause")
    for job in mine:
        queue.cancel(job.id)
    return len(trains) + len(mine) + _cancel_unneeded({name for job in trains for name in job.after})


def _cancel_unneeded(names: set[str]) -> int:
    """What was to be made first for jobs that are gone, and for nobody else."""
    count = 0
    while names:
        waiting = {job.id: job for job in queue.jobs() if job.status == "queued"}
        needed = {name for job in waiting.values() for name in job.after}
        free = [waiting[name] for name in names if name in waiting and name not in needed and not why_not(waiting[name].owner)]
        names = {name for job in free for name in job.after}
        for job in free:
            queue.cancel(job.id)
            if job.kind == "train":
                with suppress(EmaError):
                    RunDirectory.open(job.runs[0]).update(status=Status.PAUSED)
        count += len(free)
    return count
