"""The benign criterion of a setting: sibling runs, with the same defenses, recipe and seeds, on a benign task. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass

from ema_core import datasets
from ema_core.errors import EmaError
from ema_core.evaluation.evaluate import RECORDED_HINT
from ema_core.evaluation.measured import BENIGN_TASK as TASK
from ema_core.jobs import launch, queue
from ema_core.jobs.cells import Known, identity, queue_evaluations
from ema_core.jobs.queue import Job
from ema_core.runs import RunDirectory, RunSpec, Status
from ema_core.training import check

SUITE = "benign"


@dataclass(frozen=True)
class Completion:
    """What ``complete`` found and made: sibling run of each of the setting's runs, the new ones, the evaluation (None = all done)."""

    siblings: dict[str, str]
    made: list[str]
    evaluation: Job | None


def siblings_of(spec: RunSpec, task: str = TASK) -> RunSpec:
    """The same run on the benign task.

    Raises:
        EmaError: there is no such benign task.
    """
    if datasets.find(task).kind != "benign":
        raise EmaError(f"{task} is no benign task.", f"Take {TASK}, or add a data set of kind benign.")
    return spec.model_copy(update={"dataset": task})


def complete(which: str, task: str = TASK) -> Completion:
    """Queue the siblings that a setting lacks, and their evaluation on the suite ``benign``. ``which``: a run of it, or its key.

    Raises:
        EmaError: no such setting, no such task, or a sibling that cannot be run.
    """
    known = Known()
    runs = _members(which, known)
    specs = {run.id: check(siblings_of(run.spec, task), assets_first=True) for run in runs}
    asked = launch.eval_specs([SUITE], None, "demo", "probe", dataset=task)
    missing = [spec for spec in specs.values() if known.find(spec) is None]
    for spec in missing:
        launch.within_limits(spec)
    queue.allow_more(len(missing), 1)
    siblings, made = {}, []
    for run_id, spec in specs.items():
        sibling = known.find(spec)
        if sibling is None:
            sibling = known.make(spec)
            made.append(sibling.id)
        else:
            known.bring(sibling)
        siblings[run_id] = sibling.id
    found = [RunDirectory.open(run_id) for run_id in dict.fromkeys(siblings.values())]
    return Completion(siblings, made, queue_evaluations(found, asked, False, known))


def _members(which: str, known: Known) -> list[RunDirectory]:
    """The runs of a setting that are done, or under way; named by its key (or its beginning), or by one of its runs."""
    keys = {key for key, _ in known.runs if len(which) >= 6 and key.startswith(which)}
    if "-recorded-" in which:
        raise EmaError(f"The setting {which} was recorded elsewhere; nothing can be added to it.", RECORDED_HINT)
    if len(keys) != 1:
        run = RunDirectory.open(which)
        if run.state().recorded:
            raise EmaError(f"The run {run.id} was recorded elsewhere; nothing can be added to its setting.", RECORDED_HINT)
        keys = {identity(run.spec)[0]}
    usable = (Status.DONE, Status.RUNNING, Status.QUEUED, Status.PAUSED, Status.INTERRUPTED)
    found: dict[int, RunDirectory] = {}
    for (key, seed), runs in sorted(known.runs.items()):
        for run in runs:
            if key in keys and run.state().status in usable:
                found.setdefault(seed, run)
    if not found:
        raise EmaError("This setting has no run that is done or under way.", "Train it first; `ema runs list` shows the runs.")
    return list(found.values())
