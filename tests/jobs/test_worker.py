"""A real worker process: it claims, recovers, gives way, and never trains one run twice at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from ema_core.errors import EmaError
from ema_core.jobs import launch, queue
from ema_core.jobs.status import worker_status
from ema_core.runs import RunDirectory, Status, steps
from tests.training.tiny import add_tiny, tiny_spec


def until(what: Callable[[], bool], seconds: float = 240) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, f"{queue.jobs()} {worker_status()}"
        time.sleep(0.1)


@pytest.fixture
def worker(home: Path) -> Iterator[Callable[[], int]]:
    """Start a real worker; what is left of it is killed afterwards."""
    pids: list[int] = []

    def start() -> int:
        launch.start_worker()
        launch.wait_for_worker(60)
        pid = worker_status().pid
        assert pid
        pids.append(pid)
        return pid

    yield start
    for pid in pids:
        if psutil.pid_exists(pid):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.slow
def test_a_killed_workers_run_goes_on_and_sigterm_puts_it_back(worker: Callable[[], int], home: Path) -> None:
    add_tiny(home)
    run, job = launch.launch_run(tiny_spec(steps=60, batch_size=1, checkpoint_every=3))
    first = worker()
    until(lambda: run.state().step >= 4)
    os.kill(first, signal.SIGKILL)
    until(lambda: not worker_status().alive)
    until(lambda: run.state().status is Status.INTERRUPTED, 10)  # its lock goes with its last thread
    assert queue.get(job.id).status == "running"

    worker()
    until(lambda: run.state().attempt == 2 and run.state().step >= 5)
    assert launch.stop_worker(60)
    assert run.state().status is Status.QUEUED and queue.get(job.id).status == "queued"
    at = run.state().step
    assert f"step-{at}" in {p.name for p in run.checkpoints.iterdir()}

    worker()
    until(lambda: run.state().attempt == 3 and run.state().step > at)
    assert launch.request(run, "pause") is Status.RUNNING
    until(lambda: run.state().status is Status.PAUSED)
    starts = [event["step"] for event in run.events()[0] if event["kind"] == "start"]
    assert starts[0] == 0 and 3 <= starts[1] <= starts[2] == at
    seen = [event["step"] for event in steps(run.events()[0])]
    assert seen == list(range(1, seen[-1] + 1))


def test_a_second_worker_is_refused_with_words(worker: Callable[[], int]) -> None:
    pid = worker()
    other = subprocess.run([sys.executable, "-m", "ema_core.cli.main", "worker"], capture_output=True, text=True, timeout=60)
    assert other.returncode == 2 and f"process {pid}" in other.stderr and "Traceback" not in other.stderr
    assert launch.start_worker() == pid


def test_jobs_run_in_order_and_can_be_moved_and_cancelled() -> None:
    jobs = [queue.enqueue("prepare", {"model": str(n)}) for n in range(4)]
    queue.to_front(jobs[2].id)
    queue.cancel(jobs[0].id)
    taken = [job.payload["model"] for job in iter(queue.claim, None)]
    assert taken == ["2", "1", "3"]
    assert queue.get(jobs[0].id).status == "cancelled"


def test_what_a_dead_worker_left_goes_back_to_its_place() -> None:
    first, second = (queue.enqueue("prepare", {"model": str(n)}) for n in range(2))
    assert queue.claim() is not None
    assert [job.id for job in queue.recover()] == [first.id]
    claimed = queue.claim()
    assert claimed is not None and claimed.id == first.id and queue.get(second.id).status == "queued"


def test_an_evaluation_waits_for_its_run_and_fails_with_it(home: Path) -> None:
    add_tiny(home)
    run = RunDirectory.create(tiny_spec())
    job = queue.enqueue("evaluate", {"runs": [run.id], "specs": []})
    assert queue.claim() is None
    run.update(status=Status.PAUSED)
    assert queue.claim() is None and queue.get(job.id).status == "queued"
    run.update(status=Status.FAILED)
    assert queue.claim() is None and queue.get(job.id).status == "failed" and "failed" in queue.get(job.id).error


def test_pausing_a_waiting_run_takes_it_out_of_the_queue_and_resuming_puts_it_back(home: Path) -> None:
    add_tiny(home)
    run, job = launch.launch_run(tiny_spec())
    assert launch.request(run, "pause") is Status.PAUSED and queue.get(job.id).status == "cancelled"
    again = launch.resume(run)
    assert again.status == "queued" and launch.resume(run).id == again.id
    launch.delete(run)
    assert queue.get(again.id).status == "cancelled"


@pytest.mark.parametrize("status", [Status.DONE])
def test_what_cannot_be_resumed_is_said(status: Status, home: Path) -> None:
    add_tiny(home)
    run = RunDirectory.create(tiny_spec())
    run.update(status=status)
    with pytest.raises(EmaError, match="cannot be resumed"):
        launch.resume(run)
    with pytest.raises(EmaError, match="nothing to stop"):
        launch.request(run, "stop")


def test_evaluating_a_run_without_an_adapter_is_refused_at_once(home: Path) -> None:
    add_tiny(home)
    run = RunDirectory.create(tiny_spec())
    with pytest.raises(EmaError, match="no adapter yet"):
        launch.launch_evaluation([run.id], suites=["general"])
