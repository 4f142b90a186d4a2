"""Runs that a study or a sibling asks for: the same run is taken where it exists, else made and queued. Torch-free."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache

from ema_core.errors import EmaError
from ema_core.evaluation.evaluate import adapter_folder, curve_specs
from ema_core.evaluation.spec import EvalSpec
from ema_core.files import read_json
from ema_core.jobs import launch, queue
from ema_core.runs import RunDirectory, RunSpec, Status, run_ids
from ema_core.settings import settings
from ema_core.shared import why_not

GOES_ON = (Status.DONE, Status.RUNNING, Status.QUEUED)
"""Of somebody else's run: it need not be made again, nor does anybody have to bring it on."""
Identity = tuple[str, int]
"""Setting and seed: two runs with the same are the same run, on whatever device."""


def identity(spec: RunSpec) -> Identity:
    """Of a spec as ``check`` returns it; runs are made of no others."""
    return spec.setting.key, spec.seed


class Known:
    """The runs there are and the jobs that are open, read once for many questions."""

    def __init__(self) -> None:
        self.runs: dict[Identity, list[RunDirectory]] = {}
        for run_id in run_ids():
            run = RunDirectory(settings().runs / run_id)
            try:
                state = run.state()
                if "imported" in state.found or state.recorded:
                    continue  # its spec does not say how it was trained; recorded ones are never one's own
                found = _identity(str(run.path), (run.path / "spec.json").stat().st_mtime_ns)
            except (OSError, EmaError):
                continue  # damaged: nothing that could be taken
            self.runs.setdefault(found, []).append(run)
        jobs = [job for job in queue.jobs() if job.status in ("queued", "running")]
        self.training = {run_id: job for job in jobs if job.kind == "train" for run_id in job.runs}
        self.evaluating = [job for job in jobs if job.kind == "evaluate"]

    def find(self, spec: RunSpec, own: str | None = None) -> RunDirectory | None:
        """The run of this spec: a finished one, else ``own``, else one that is under way. Others that failed are not taken."""
        states = {run: run.state() for run in self.runs.get(identity(spec), [])}
        runs = {run: state.status for run, state in states.items() if state.status in GOES_ON or not why_not(state.owner)}
        ranks = {run: rank for run, status in runs.items() if (rank := _rank(run, status, run.id == own)) is not None}
        return min(ranks, key=lambda run: (ranks[run], run.id)) if ranks else None

    def bring(self, run: RunDirectory, retry: bool = False) -> None:
        """Let it go on where it rests; a failed or stopped one with ``retry`` only. What cannot go on has failed, and says why."""
        state = run.state()
        status = state.status
        ended = (Status.FAILED, Status.STOPPED)
        if why_not(state.owner):
            return  # of a shared room: it goes on when its owner says so
        if run.id in self.training or status in (Status.DONE, Status.RUNNING) or (status in ended and not retry):
            return
        queue.allow_more(1)  # that too many wait is no fault of the run
        try:
            self.training[run.id] = launch.resume(run)
        except EmaError as error:
            run.update(status=Status.FAILED, error=error.message, hint=error.hint)

    def make(self, spec: RunSpec) -> RunDirectory:
        """A new run, queued."""
        run, job = launch.queue_run(spec)
        self.runs.setdefault(identity(spec), []).append(run)
        self.training[run.id] = job
        return run

    def will_be_evaluated(self, run: RunDirectory, specs: Sequence[EvalSpec], study: str) -> bool:
        """Does an open job do all these? Not another study's, which may be cancelled (what is done is not done twice anyhow). One that
        runs already has left out what had no adapter when it began."""
        wanted = [spec.model_dump(mode="json") for spec in specs]
        jobs = [job for job in self.evaluating if job.payload.get("study", "") in ("", study)]
        jobs = [job for job in jobs if job.status == "queued" or run.id not in self.training]
        return any(run.id in job.runs and all(spec in job.payload["specs"] for spec in wanted) for job in jobs)


def same_runs(spec: RunSpec) -> list[RunDirectory]:
    """One's own runs of this setting and seed, in whatever state, the newest first. ``spec`` as ``check`` returns it."""
    wanted, found = identity(spec), []
    for run_id in run_ids()[::-1]:
        run = RunDirectory(settings().runs / run_id)
        try:
            if _identity(str(run.path), (run.path / "spec.json").stat().st_mtime_ns) == wanted:
                found.append(run)
        except (OSError, EmaError):
            continue
    return [run for run in found if not ((state := run.state()).recorded or "imported" in state.found)]


def _rank(run: RunDirectory, status: Status, own: bool) -> int | None:
    if status is Status.DONE:
        return 0 if has_adapter(run) else None
    if own:
        return 1
    return {Status.RUNNING: 2, Status.QUEUED: 3, Status.INTERRUPTED: 4, Status.PAUSED: 4}.get(status)


@lru_cache(maxsize=8192)
def _identity(path: str, version: int) -> Identity:
    return identity(RunDirectory(settings().runs / path.rsplit("/", 1)[-1]).spec)


def has_adapter(run: RunDirectory) -> bool:
    try:
        adapter_folder(run, None)
    except EmaError:
        return False
    return True


def not_evaluated(run: RunDirectory, specs: Iterable[EvalSpec], curve: bool) -> list[EvalSpec]:
    """Which of them the run's adapter has not been through; with ``curve`` an undefended run's checkpoints and scales, too."""
    wanted = [*specs, *(curve_specs(run) if curve else [])]
    hashes = {run.state().found.get("adapter_hash")}
    if any(spec.step is not None for spec in wanted):
        hashes |= {event.get("adapter_hash") for event in run.events()[0] if event.get("kind") == "checkpoint"}
    return [spec for spec in wanted if not _done(run, spec, hashes)]


def _done(run: RunDirectory, spec: EvalSpec, hashes: set[str | None]) -> bool:
    try:
        record = read_json(run.evals / spec.id / "spec.json")
    except (OSError, ValueError):
        return False
    return record.get("status") == "done" and record.get("adapter_hash") in hashes


def queue_evaluations(
    runs: Sequence[RunDirectory], specs: Sequence[EvalSpec], curve: bool, known: Known, study: str = ""
) -> queue.Job | None:  # fmt: skip
    """One job for those of ``runs`` that still lack one of the evaluations, and that no open job evaluates; None where none does.

    A run that fails on the way is left out, the others are evaluated.
    """
    lacking = []
    for run in runs:
        status = run.state().status
        comes = status is Status.RUNNING or run.id in known.training
        if not comes and not has_adapter(run):
            continue  # failed, or at rest
        if (comes or not_evaluated(run, specs, curve)) and not known.will_be_evaluated(run, specs, study):
            lacking.append(run.id)
    if not lacking:
        return None
    payload = {
        "runs": lacking, "specs": [spec.model_dump(mode="json") for spec in specs], "curve": curve, "despite_failures": True, "study": study,
    }  # fmt: skip
    job = queue.enqueue("evaluate", payload)
    known.evaluating.append(job)
    return job
