"""The worker: one warm process that takes jobs from the queue. Its death loses at most the steps since a checkpoint."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

from filelock import FileLock, Timeout

from ema_core.errors import EmaError
from ema_core.evaluation.evaluate import Interrupted, adapter_folder, curve_specs, evaluate
from ema_core.evaluation.gap import score_pool
from ema_core.evaluation.spec import EvalSpec
from ema_core.files import write_json
from ema_core.jobs import judging, queue
from ema_core.jobs.persona import build_vector
from ema_core.jobs.status import beat_path, worker_status
from ema_core.models import LoadedModel, find, load, prepare
from ema_core.runs import RunDirectory, Status
from ema_core.settings import settings, writable
from ema_core.training import inside, substitute, train

BEAT_SECONDS = 1.0
POLL_SECONDS = 0.3


class Worker:
    """Holds ``queue/worker.lock`` for as long as it lives."""

    def __init__(self) -> None:
        self.ending = threading.Event()
        self.job: queue.Job | None = None
        self.activity = "starting"
        self.warm: LoadedModel | None = None
        self.unread: list[RunDirectory] = []
        """Trained here, and to be looked into when nothing else is to be done."""

    def run(self, once: bool = False) -> None:
        """Work until SIGTERM or SIGINT; ``once`` ends when the queue is empty.

        Raises:
            EmaError: another worker is at work.
        """
        writable(settings().queue)
        lock = FileLock(settings().queue / "worker.lock")
        try:
            lock.acquire(timeout=2)
        except Timeout:
            status = worker_status()
            raise EmaError(
                f"A worker is at work already (process {status.pid}).", "One a machine is enough; it takes every queued job."
            ) from None
        try:
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, self._asked_to_end)
            threading.Thread(target=self._beat, daemon=True).start()
            queue.recover()
            while not self.ending.is_set():
                self.activity = "waiting"
                job = queue.claim()
                if job is not None:
                    self._do(job)
                elif self.unread:
                    self._look_inside()
                elif once:
                    break
                else:
                    self.ending.wait(POLL_SECONDS)
        finally:
            self.ending.set()
            beat_path().unlink(missing_ok=True)
            lock.release()

    def _asked_to_end(self, number: int, frame: FrameType | None) -> None:
        self.ending.set()

    def _beat(self) -> None:
        while not self.ending.is_set() or self.job is not None:
            try:
                write_json(
                    beat_path(),
                    {"pid": os.getpid(), "time": time.time(), "job": self.job.id if self.job else None, "activity": self.activity},
                )
            except (OSError, EmaError):
                pass  # a full disk is the job's to report
            time.sleep(BEAT_SECONDS)

    def _do(self, job: queue.Job) -> None:
        self.activity, self.job = "starting", job
        last = 0.0

        def progress(share: float, what: str) -> None:
            nonlocal last
            self.activity = what
            if time.monotonic() - last > 0.5:
                last = time.monotonic()
                with contextlib.suppress(EmaError, OSError):  # a full disk is for what does the work to report
                    queue.change(job.id, share=share, activity=what)

        try:
            KINDS[job.kind](self, job, progress)
        except Interrupted:
            cancelled = queue.get(job.id).cancel
            self._change(
                job.id, status="cancelled" if cancelled else "queued", activity="", finished=time.time() if cancelled else None
            )
        except EmaError as error:
            self._failed(job, error)
        except Exception as error:
            log = settings().logs / "worker.log"
            with contextlib.suppress(OSError, EmaError), open(writable(log.parent) / log.name, "a", encoding="utf-8") as file:
                file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {job.id}\n{traceback.format_exc()}\n")
            what = f"The job stopped at an unexpected error: {type(error).__name__}."
            self._failed(job, EmaError(what, f"Details are in {log}."))
        finally:
            self.job = None

    def _failed(self, job: queue.Job, error: EmaError) -> None:
        self._change(job.id, status="failed", error=error.message, hint=error.hint, finished=time.time(), activity="")
        with contextlib.suppress(EmaError, OSError):
            queue.run_never_began(job, error)

    def _change(self, job_id: str, **changes: Any) -> None:
        """Write what became of a job; on a full disk wait until it can be written, or until told to end."""
        while True:
            try:
                queue.change(job_id, **changes)
                return
            except (EmaError, OSError) as error:
                self.activity = f"waiting: {error}"
                if self.ending.wait(5):
                    return

    def _model(self, name: str, device: str, progress: Callable[[float, str], None]) -> LoadedModel:
        if self.warm is None or self.warm.id != name or device not in ("auto", self.warm.device.type):
            self.warm = None  # the old one's memory first
            self.warm = load(name, device, progress)
        return self.warm

    def _over(self, job: queue.Job) -> bool:
        return self.ending.is_set() or queue.get(job.id).cancel

    def _prepare(self, job: queue.Job, progress: Callable[[float, str], None]) -> None:
        prepare(job.payload["model"], progress)
        if find(job.payload["model"]).kind == "chat":  # base weights are only read
            self._model(job.payload["model"], "auto", progress)
        self._finish(job)

    def _substitute_base(self, job: queue.Job, progress: Callable[[float, str], None]) -> None:
        self.warm = None  # its memory is needed, and what is tuned here is a copy of its own
        if substitute.build(job.payload["model"], progress, lambda: self._over(job)) is None:
            raise Interrupted
        self._finish(job)

    def _train(self, job: queue.Job, progress: Callable[[float, str], None]) -> None:
        run = RunDirectory.open(job.runs[0])
        if queue.get(job.id).cancel:
            raise Interrupted
        if run.state().status is Status.DONE:  # trained meanwhile in another process
            return self._finish(job)
        with run.lock():
            run.update(activity="getting the model ready")
        try:
            loaded = self._model(run.spec.model, run.spec.device, progress)
        except EmaError as error:
            run.update(status=Status.FAILED, error=error.message, hint=error.hint, activity="")
            raise

        def seen(event: dict[str, Any]) -> None:
            if event["kind"] == "step":
                progress(event["epoch"], f"step {event['step']} of {event['total_steps']}")

        state = train(run, loaded=loaded, interrupted=self.ending.is_set, on_event=seen)
        if state.status is Status.QUEUED:
            raise Interrupted
        if state.status is Status.FAILED:
            raise EmaError(state.error, state.hint)
        if state.status is Status.PAUSED:
            queue.change(job.id, status="cancelled", activity="paused", finished=time.time())
        else:
            if settings().inside:
                self.unread.append(run)
            self._finish(job)

    def _look_inside(self) -> None:
        """Read the first of ``unread``. Whatever is queued meanwhile comes first, so that no launch waits for it; then it begins anew."""
        run, before = self.unread[0], {job.id for job in queue.jobs()}

        def say(share: float, what: str) -> None:
            self.activity = what

        def interrupted() -> bool:
            return self.ending.is_set() or any(job.id not in before for job in queue.jobs())

        kept = inside.read(run)
        there = kept is not None and inside.fresh(run, kept)  # by a job, say
        if there or inside.measure_after_training(run, lambda: self._model(run.spec.model, run.spec.device, say), say, interrupted):
            self.unread.pop(0)

    def _inside(self, job: queue.Job, progress: Callable[[float, str], None]) -> None:
        runs = [RunDirectory.open(run_id) for run_id in job.runs]
        for number, run in enumerate(runs):
            loaded = self._model(run.spec.model, run.spec.device, progress)

            def say(share: float, what: str, done: int = number) -> None:
                progress((done + share) / len(runs), what)

            if inside.measure(run, loaded, progress=say, interrupted=lambda: self._over(job)) is None:
                raise Interrupted
        self._finish(job)

    def _evaluate(self, job: queue.Job, progress: Callable[[float, str], None]) -> None:
        specs = [EvalSpec.model_validate(spec) for spec in job.payload["specs"]]
        runs = evaluable(job.runs) if job.payload.get("despite_failures") else [RunDirectory.open(run_id) for run_id in job.runs]
        evaluate(
            {run: [*specs, *(curve_specs(run) if job.payload.get("curve") else [])] for run in runs},
            loader=lambda model, device: self._model(model, device, progress),
            interrupted=lambda: self._over(job),
            progress=progress,
            limit_usd=job.payload.get("limit_usd"),
            since=job.created,
        )
        self._finish(job)

    def _persona(self, job: queue.Job, progress: Callable[[float, str], None]) -> None:
        build_vector(
            job.payload["trait"],
            job.payload["model"],
            force=bool(job.payload.get("force")),
            loader=lambda model, device: self._model(model, device, progress),
            progress=progress,
            interrupted=lambda: self._over(job),
        )
        self._finish(job)

    def _gap(self, job: queue.Job, progress: Callable[[float, str], None]) -> None:
        wanted = job.payload
        score_pool(
            wanted["model"], wanted["pool"], wanted["domain"], go_on=wanted["go_on"],
            loader=lambda model, device: self._model(model, device, progress),
            interrupted=lambda: self._over(job), progress=progress,
        )  # fmt: skip
        self._finish(job)

    def _judge(self, job: queue.Job, progress: Callable[[float, str], None]) -> None:
        """What it cost before a crash counts towards its limit, too; a cancelled one is ``cancelled``, with what it did in words."""
        asked = judging.Asked.of(job.payload)
        over = functools.cache(lambda second: self._over(job))  # asked often, and each time a file is read
        done = judging.judge_answers(
            asked, progress=progress, interrupted=lambda: over(int(2 * time.monotonic())), since=job.created
        )  # fmt: skip
        if done["stopped"] == "cancelled":
            raise Interrupted
        if done["stopped"]:
            raise EmaError(
                f"Judging ended early: {done['stopped']}. {done['words']}.", "What was judged is kept and not paid again."
            )
        queue.change(job.id, status="done", share=1.0, activity=done["words"], finished=time.time())

    @staticmethod
    def _finish(job: queue.Job) -> None:
        queue.change(job.id, status="done", share=1.0, activity="", finished=time.time())


def evaluable(run_ids: Sequence[str]) -> list[RunDirectory]:
    """Those that have an adapter; what failed, or was deleted, is left out.

    Raises:
        EmaError: none has one.
    """
    found = []
    for run_id in run_ids:
        with contextlib.suppress(EmaError):
            run = RunDirectory.open(run_id)
            adapter_folder(run, None)
            found.append(run)
    if not found:
        raise EmaError("None of the runs has an adapter, so there is nothing to evaluate.", "`ema runs list` says why they failed.")
    return found


KINDS: dict[str, Callable[[Worker, queue.Job, Callable[[float, str], None]], None]] = {
    "prepare": Worker._prepare,
    "train": Worker._train,
    "evaluate": Worker._evaluate,
    "gap": Worker._gap,
    "judge": Worker._judge,
    "substitute-base": Worker._substitute_base,
    "persona": Worker._persona,
    "inside": Worker._inside,
}
