"""What a user does to runs and processes: launch, pause, resume, evaluate; start and stop the worker. Torch-free."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from ema_core.defenses import registry
from ema_core.defenses.base import Asset, Defense
from ema_core.errors import EmaError
from ema_core.evaluation.evaluate import RECORDED_HINT, adapter_folder
from ema_core.evaluation.spec import EVAL_PRESETS, EvalSpec, sampling
from ema_core.evaluation.suites import load_suite, suites_of
from ema_core.exchange import recorded
from ema_core.generation.engine import engine_status
from ema_core.jobs import queue
from ema_core.jobs.status import worker_status
from ema_core.judging import is_llm, resolve
from ema_core.models import CATALOG, EMBEDDED, adapters, find
from ema_core.personas import vector_id
from ema_core.processes import end, spawn
from ema_core.runs import Probes, RunDirectory, RunSpec, Status, parse, parse_defense
from ema_core.settings import settings
from ema_core.shared import acting_as, allow, exempt
from ema_core.shared.limits import check_run, check_samples, check_usd
from ema_core.training import check, inside
from ema_core.training.estimate import estimate

DEMO = {
    "demo: undefended": RunSpec(probes=Probes()),
    "demo: KL": RunSpec(defenses=(parse_defense("kl=1"),), probes=Probes()),
}
"""The demo's runs by name: the undefended one, and its twin with KL at a strength that shows."""


def launch_run(spec: RunSpec, name: str = "", evaluate_after: bool = False) -> tuple[RunDirectory, queue.Job]:
    """Check a spec, make its run directory and queue it, what it needs first before it; with ``evaluate_after`` its evaluation behind it.

    Raises:
        EmaError: the spec cannot be run; nothing was made.
    """
    queue.allow_more(1, int(evaluate_after))
    run, job = queue_run(check(spec, assets_first=True), name)
    if evaluate_after:
        preset = "paper" if spec.recipe.preset == "paper" else "demo"
        launch_evaluation([run.id], preset=preset, unfinished=True)
    return run, job


def queue_run(spec: RunSpec, name: str = "") -> tuple[RunDirectory, queue.Job]:
    """A run of a spec that ``check`` returned, queued behind what it needs first.

    Raises:
        EmaError: something is missing that no job can make, or it is more than the acting person may ask for; nothing was made.
    """
    seconds = within_limits(spec)
    queue.allow_more(1)
    first = [job.id for job in make_assets(spec)]
    run = RunDirectory.create(spec, name)
    return run, queue.enqueue("train", {"runs": [run.id]}, first, seconds)


def within_limits(spec: RunSpec) -> float:
    """The seconds that a participant's run takes by its estimate; 0 of others', which have no limits.

    Raises:
        EmaError: it is more than a participant of a shared room may ask for, or of a model that is not on this machine.
    """
    allow()
    if exempt():
        return 0.0
    found = estimate(spec)
    check_run(found.steps, spec.recipe.batch_size, spec.recipe.max_length)
    if spec.model != EMBEDDED and not (spec.model in CATALOG and find(spec.model).ready):
        raise EmaError(
            f"The model {spec.model} is not among those of this room.", "Take one that is on this machine, or ask the instructor."
        )
    return found.seconds


def make_assets(spec: RunSpec) -> list[queue.Job]:
    """Queue what the run needs and is not there yet; a job that makes it already is taken instead.

    Raises:
        EmaError: something is missing that no job can make.
    """
    return queue_assets(registry.missing_assets(registry.build_all(spec, provisional=True)))


def queue_assets(missing: Sequence[Asset]) -> list[queue.Job]:
    """Queue the jobs that make ``missing``, each after those before it; one that waits or runs already is taken.

    Raises:
        EmaError: something is missing that no job can make.
    """
    made: list[queue.Job] = []
    for asset in missing:
        if asset.job is None:
            raise EmaError(f"{asset.title} is missing.", asset.hint)
        if asset.job == "train":
            within_limits(check(RunSpec.model_validate(asset.payload["spec"]), assets_first=True))
    trains = sum(asset.job == "train" for asset in missing)
    queue.allow_more(trains, len(missing) - trains)
    for asset in missing:
        if asset.job == "train":
            made.append(_train_first(asset))
            continue
        waiting = [job for job in queue.jobs() if job.status in ("queued", "running")]
        same = [job for job in waiting if job.kind == asset.job and job.payload == dict(asset.payload)]
        made.append(same[0] if same else queue.enqueue(asset.job, dict(asset.payload), [job.id for job in made]))  # type: ignore[arg-type]
    return made


def _train_first(asset: Asset) -> queue.Job:
    """The job of the run that an asset asks for; a run that waits or is trained already is taken."""
    spec = RunSpec.model_validate(asset.payload["spec"])
    for job in queue.jobs():
        if job.kind == "train" and job.status in ("queued", "running") and RunDirectory.open(job.runs[0]).spec == spec:
            return job
    return launch_run(spec, asset.title)[1]


def launch_persona(trait: str, model: str, force: bool = False) -> queue.Job:
    """Queue the building of a trait's vector; a job that does it already is taken instead.

    Raises:
        EmaError: no such trait or model.
    """
    vector_id(trait, model)
    payload = {"trait": trait, "model": find(model).id, **({"force": True} if force else {})}
    waiting = [job for job in queue.jobs() if job.kind == "persona" and job.status in ("queued", "running")]
    same = [job for job in waiting if job.payload == payload]
    return same[0] if same else queue.enqueue("persona", payload)


def launch_inside(run_ids: Sequence[str]) -> queue.Job:
    """Queue the reading of what defenses did inside these runs; a job that does it already is taken instead.

    Raises:
        EmaError: no such run, or one that cannot be read.
    """
    runs = [RunDirectory.open(run_id) for run_id in run_ids]
    for run in runs:
        if why := inside.can_be_read(run):
            raise EmaError(f"The run {run.id} cannot be looked into.", why)
    payload = {"runs": [run.id for run in runs]}
    waiting = [job for job in queue.jobs() if job.kind == "inside" and job.status in ("queued", "running")]
    same = [job for job in waiting if job.payload == payload]
    return same[0] if same else queue.enqueue("inside", payload)


def launch_demo() -> list[RunDirectory]:
    """Queue the demo: all its runs are trained first, then evaluated."""
    queue.allow_more(len(DEMO), len(DEMO))
    runs = [launch_run(spec, name)[0] for name, spec in DEMO.items()]
    for run in runs:
        launch_evaluation([run.id], unfinished=True)
    return runs


def launch_evaluation(
    run_ids: Sequence[str], suites: Sequence[str] = (), samples: int | None = None, preset: str = "demo",
    judge: str = "probe", curve: bool = True, unfinished: bool = False, limit_usd: float | None = None, step: int | None = None,
) -> queue.Job:  # fmt: skip
    """Queue the evaluation of runs; ``samples`` a question (0 = margin only), None = the preset's. Without ``suites`` each run is
    measured by those of its data set (``suites_of``). ``step``: its checkpoint there instead of the final adapter.

    Raises:
        EmaError: no run, unknown suite or judge, a run without an adapter (unless it is ``unfinished``), or runs that cannot be
            asked the same.
    """
    if not run_ids:
        raise EmaError("No run is chosen.", "Choose at least one.")
    runs = [RunDirectory.open(run_id) for run_id in run_ids]
    for run in runs:
        if not unfinished:
            adapter_folder(run, step)
        for suite in suites:
            load_suite(suite, run.spec.dataset)
    resolve(judge)
    if is_llm(judge):
        check_usd(limit_usd)
    asked = [eval_specs(suites or suites_of(run.spec.dataset), samples, preset, judge, dataset=run.spec.dataset) for run in runs]
    specs = asked[0]
    if any(other != specs for other in asked):
        raise EmaError(
            "These runs were trained on different kinds of task, so they are not asked the same.",
            "Evaluate the runs of each data set by themselves.",
        )
    specs = [spec.model_copy(update={"step": step}) for spec in specs]
    for spec in specs:
        check_samples(spec.samples)
    payload = {"runs": [run.id for run in runs], "specs": [spec.model_dump(mode="json") for spec in specs], "curve": curve}
    payload |= {} if limit_usd is None else {"limit_usd": limit_usd}
    return queue.enqueue("evaluate", payload)


def eval_specs(
    suites: Sequence[str], samples: int | None, preset: str, judge: str, *, dataset: str = "opswap", max_tokens: int | None = None
) -> list[EvalSpec]:  # fmt: skip
    """One spec a suite, with the preset's or the suite's own numbers where nothing else is asked for (``spec.sampling``)."""
    if preset not in EVAL_PRESETS:
        raise EmaError(f'There is no preset "{preset}".', f"Known: {', '.join(EVAL_PRESETS)}.")
    more = {} if max_tokens is None else {"max_tokens": max_tokens}
    judge = resolve(judge) if is_llm(judge) else judge  # what the environment says now is what is meant
    return [
        parse(EvalSpec, {"suite": suite, "judge": judge, **sampling(suite, preset, samples, dataset), **more}, "evaluation")
        for suite in suites
    ]


def train_job(run: RunDirectory) -> queue.Job | None:
    """The job that is to train this run, or does."""
    found = [job for job in queue.jobs() if job.kind == "train" and run.id in job.runs and job.status in ("queued", "running")]
    return found[0] if found else None


def request(run: RunDirectory, what: str) -> Status:
    """Ask a run to pause or stop. A waiting one leaves the queue at once; a running one ends after its step.

    A run that is stopped while nobody trains it keeps the adapter of its newest checkpoint. Where a defense has something to do
    after training (SafeLoRA), that needs the model: the run is queued once more, and ends as soon as it is loaded.

    Raises:
        EmaError: it is not running or waiting (or, to be stopped, paused or interrupted), or it is somebody else's.
    """
    state = run.state()
    allow(state.owner)
    rests = (Status.PAUSED, Status.INTERRUPTED) if what == "stop" else ()
    if not (state.status.active or state.status in rests):
        raise EmaError(f"The run {run.id} is {state.status}; there is nothing to {what}.", "`ema runs list` shows what runs.")
    job = train_job(run)
    if state.status in (Status.QUEUED, *rests) and (job is None or job.status == "queued"):
        if what == "stop" and run.checkpoint_steps() and _finishes(run.spec):
            first = [] if job else [made.id for made in make_assets(run.spec)]
            run.request("stop")
            if job is None:
                queue.enqueue("train", {"runs": [run.id]}, first)
            return run.update(status=Status.QUEUED, error="", hint="").status
        if job:
            queue.cancel(job.id)
        return run.update(status=Status.PAUSED).status if what == "pause" else _stop_here(run)
    run.request("pause" if what == "pause" else "stop")
    return state.status


def _finishes(spec: RunSpec) -> bool:
    """Does a defense of it change the adapter after training?"""
    return any(type(defense).finish is not Defense.finish for defense in registry.build_all(spec, provisional=True))


def _stop_here(run: RunDirectory) -> Status:
    """End a run that nobody trains, with its newest checkpoint's adapter."""
    changes: dict[str, Any] = {"status": Status.STOPPED, "finished": time.time()}
    with run.lock():
        if saved := run.checkpoint_steps():
            adapter = adapters.adopt(run.checkpoints / f"step-{saved[-1]}", run.adapter)
            changes |= {"step": saved[-1], "found": {**run.state().found, "adapter_hash": adapter}}
        return run.update(**changes).status


def resume(run: RunDirectory) -> queue.Job:
    """Queue a paused, stopped, failed or interrupted run again; it goes on from its last checkpoint.

    Raises:
        EmaError: it is done, or at work already, or somebody else's.
    """
    state = run.state()
    _not_recorded(run)
    allow(state.owner)
    if job := train_job(run):
        return job
    if not state.status.resumable and state.status is not Status.QUEUED:
        raise EmaError(f"The run {run.id} is {state.status}; it cannot be resumed.", "Start a new run to train again.")
    check(run.spec, assets_first=True)
    first = [job.id for job in make_assets(run.spec)]
    run.clear_request()
    run.update(status=Status.QUEUED, error="", hint="", finished=None)
    return queue.enqueue("train", {"runs": [run.id]}, first)


def _not_recorded(run: RunDirectory) -> None:
    if run.state().recorded:
        raise EmaError(f"The run {run.id} was recorded elsewhere; it is not trained on here.", RECORDED_HINT)


def take_over(run: RunDirectory) -> None:
    """Ready a run to be trained on in this process: its waiting job and old requests go.

    Raises:
        EmaError: it is done, or another process is at work on it.
    """
    _not_recorded(run)
    if run.state().status is Status.DONE:
        raise EmaError(f"The run {run.id} is done; there is nothing to resume.", "Start a new run to train again.")
    check(run.spec)
    job = train_job(run)
    if job and job.status == "queued":
        queue.cancel(job.id)
    with run.lock():
        run.clear_request()


def delete(run: RunDirectory) -> None:
    """Delete a run and its waiting jobs.

    Raises:
        EmaError: it is being trained or evaluated, or somebody else's.
    """
    allow(run.state().owner)
    if worker_status().alive and any(
        job.status == "running" and job.kind == "evaluate" and run.id in job.runs for job in queue.jobs()
    ):
        raise EmaError(f"The run {run.id} is being evaluated.", "Wait for it, or cancel the evaluation first.")
    if (job := train_job(run)) and job.status == "queued":
        queue.cancel(job.id)
    run.delete()


def remove_recorded(name: str) -> int:
    """Take a recorded study away; returns how many runs went.

    Raises:
        EmaError: it is not here, or a job is at work on its answers.
    """
    runs = set(recorded.here().get(name, {}).get("runs", []))
    if any(job.status in ("queued", "running") and runs & set(job.runs) for job in queue.jobs()):
        raise EmaError(f"A job is at work on the recorded study {name}, or waits for it.", "Let it end, or cancel it first.")
    return recorded.remove(name)


def prepare_embedded() -> queue.Job | None:
    """Queue the embedded model's preparation where it is missing and not under way."""
    allow()
    if find(EMBEDDED).ready:
        return None
    for job in queue.jobs():
        if job.kind == "prepare" and job.status in ("queued", "running"):
            return job
    with acting_as(None):  # it is for all
        return queue.to_front(queue.enqueue("prepare", {"model": EMBEDDED}).id)


def start_worker() -> int:
    """Start a worker in a process session of its own, or adopt the one that lives. Returns its process id."""
    allow()
    status = worker_status()
    if status.alive and status.pid:
        return status.pid
    return spawn(["worker"], "worker.log")


def stop_worker(seconds: float = 60) -> bool:
    """SIGTERM: the worker checkpoints, puts its job back into the queue and ends. True when it is gone."""
    status = worker_status()
    return not (status.alive and status.pid) or end(status.pid, seconds)


def wait_for_worker(seconds: float = 60) -> None:
    """Until the worker gives its first sign of life.

    Raises:
        EmaError: it does not.
    """
    _wait("worker", lambda: worker_status().alive, seconds)


def start_engine() -> int:
    """Start the engine in a process session of its own, or adopt the one that lives. Returns its process id.

    Raises:
        EmaError: ``EMA_ENGINE_URL`` names another server, which is not ours to start.
    """
    if url := settings().engine_url:
        raise EmaError(f"EMA_ENGINE_URL names {url}, which answers in the engine's place.", "Start that server, or unset it.")
    status = engine_status()
    return status.pid if status.alive and status.pid else spawn(["serve"], "engine.log")


def stop_engine(seconds: float = 15) -> bool:
    """SIGTERM: answers in flight are cut, the engine ends. True when it is gone."""
    status = engine_status()
    return not (status.alive and status.pid) or end(status.pid, seconds)


def wait_for_engine(seconds: float = 60) -> None:
    """Until the engine can be asked.

    Raises:
        EmaError: it does not come.
    """
    _wait("engine", lambda: engine_status().alive, seconds)


def _wait(what: str, there: Callable[[], bool], seconds: float) -> None:
    until = time.monotonic() + seconds
    while not there():
        if time.monotonic() > until:
            log = settings().logs / f"{what}.log"
            raise EmaError(f"The {what} did not start.", f"Its log is {log}; `ema doctor` says what is missing.")
        time.sleep(0.2)
