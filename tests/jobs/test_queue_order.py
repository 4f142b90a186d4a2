"""The order of the queue, taking jobs out and back, and when each begins; all without a worker."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ema_core.errors import EmaError
from ema_core.jobs import cancelled, launch, queue
from ema_core.jobs.forecast import forecast
from ema_core.runs import RunDirectory, RunSpec, Status, recipe


def waiting() -> list[str]:
    return [job.id for job in queue.jobs() if job.status == "queued"]


def quick(seed: int, **changes: object) -> RunSpec:
    return RunSpec(seed=seed, recipe=recipe("demo", steps=4), **changes)  # type: ignore[arg-type]


def test_jobs_move_up_down_first_and_last_and_no_further() -> None:
    a, b, c = (queue.enqueue("persona", {"n": n}).id for n in range(3))
    queue.move(c, "up")
    assert waiting() == [a, c, b]
    queue.move(a, "down")
    assert waiting() == [c, a, b]
    queue.move(b, "first")
    queue.move(c, "last")
    assert waiting() == [b, a, c]
    queue.move(b, "up")
    queue.move(c, "down")
    assert waiting() == [b, a, c], "at its end a job stays"


def test_jobs_of_the_same_rank_can_be_moved() -> None:
    jobs = sorted(queue.enqueue("persona", {"n": n}).id for n in range(3))
    for job in jobs:
        queue.change(job, rank=7.0)
    queue.move(jobs[2], "up")
    assert waiting() == [jobs[0], jobs[2], jobs[1]]


def test_only_a_waiting_job_has_a_place() -> None:
    job = queue.enqueue("persona", {})
    queue.claim()
    with pytest.raises(EmaError, match="is running"):
        queue.move(job.id, "up")


def test_everything_cancelled_comes_back_at_its_place() -> None:
    runs = [launch.launch_run(quick(seed), evaluate_after=True)[0] for seed in (0, 1)]
    before = waiting()
    queue.change(before[0], status="running")
    gone = cancelled.cancel_all()
    assert [job.id for job in gone] == before[1:] and waiting() == [], "what runs goes on"
    assert [run.state().status for run in runs] == [Status.QUEUED, Status.PAUSED]
    assert [job.id for job in cancelled.undo()] == before[1:] == waiting()
    assert runs[1].state().status is Status.QUEUED
    with pytest.raises(EmaError, match="Nothing was cancelled"):
        cancelled.undo()


def test_what_cannot_go_on_without_a_cancelled_job_goes_with_it() -> None:
    first = queue.enqueue("gap", {})
    needs = queue.enqueue("persona", {}, after=[first.id])
    _, train = launch.launch_run(quick(0), evaluate_after=True)
    (evaluation,) = [job.id for job in queue.jobs() if job.kind == "evaluate"]
    other = queue.enqueue("persona", {"other": 1})
    assert {job.id for job in cancelled.cancel([first.id])} == {first.id, needs.id}
    assert {job.id for job in cancelled.cancel([train.id])} == {train.id, evaluation} and waiting() == [other.id]
    assert {job.id for job in cancelled.undo()} == {train.id, evaluation}, "the last ones"


def test_a_run_that_was_resumed_or_deleted_meanwhile_is_not_queued_twice() -> None:
    run, _ = launch.launch_run(quick(0))
    gone, _ = launch.launch_run(quick(1))
    cancelled.cancel_all()
    launch.resume(run)
    launch.delete(gone)
    assert cancelled.last() is None
    assert [job.runs for job in queue.jobs() if job.status == "queued"] == [[run.id]]


def test_jobs_that_were_cleared_away_come_back_too() -> None:
    job = queue.enqueue("persona", {"n": 1})
    cancelled.cancel([job.id])
    (queue.folder() / f"{job.id}.json").unlink()
    cancelled.undo()
    assert queue.get(job.id).payload == {"n": 1} and waiting() == [job.id]


def test_the_forecast_adds_up_in_the_order_in_which_the_worker_takes_jobs() -> None:
    _, first = launch.launch_run(quick(0), evaluate_after=True)
    _, second = launch.launch_run(quick(1))
    (evaluation,) = [job for job in queue.jobs() if job.kind == "evaluate"]
    queue.move(evaluation.id, "first")  # before its run: it waits all the same
    seen = forecast(queue.jobs())
    turns = seen.turns
    takes = {name: turn.takes or 0.0 for name, turn in turns.items()}
    assert all(seconds > 0 for seconds in takes.values()) and seen.waiting == 3 and seen.unknown == 0
    assert turns[first.id].starts == 0.0
    assert turns[evaluation.id].starts == pytest.approx(takes[first.id]), "as soon as its run is trained"
    assert turns[second.id].starts == pytest.approx(takes[first.id] + takes[evaluation.id])
    assert seen.seconds == pytest.approx(sum(takes.values()))


def test_the_forecast_of_a_run_at_work_is_its_own_and_what_waits_for_nothing_in_the_queue_has_none() -> None:
    run, job = launch.launch_run(quick(0), evaluate_after=True)
    queue.change(job.id, status="running")
    run.append_event({"kind": "step", "attempt": 1, "step": 2, "total_steps": 4, "seconds_left": 37.5, "ce": 1.0})
    evaluation = next(one for one in queue.jobs() if one.kind == "evaluate")
    assert forecast(queue.jobs()).turns[job.id].takes == 37.5
    assert forecast(queue.jobs()).turns[evaluation.id].starts == 37.5
    queue.change(job.id, status="cancelled")
    run.update(status=Status.PAUSED)
    seen = forecast(queue.jobs())
    assert seen.turns[evaluation.id].starts is None


def test_the_command_line_lists_moves_cancels_and_puts_back(ema, home: Path) -> None:
    ids = [launch.launch_run(quick(seed))[0].id for seed in (0, 1)]

    def told(*words: str) -> dict:
        return json.loads(ema("queue", *words, "--json", check=True).stdout)

    listed = told("list")
    assert [row["runs"] for row in listed["jobs"]] == [[ids[0]], [ids[1]]] and listed["seconds"] > 0
    assert told("move", ids[1], "first")["place"] == 1
    assert told("cancel", ids[1])["cancelled"] == [listed["jobs"][1]["job_id"]]
    assert RunDirectory.open(ids[1]).state().status is Status.PAUSED
    assert told("undo")["queued"] == [listed["jobs"][1]["job_id"]] and [row["runs"][0] for row in told("list")["jobs"]] == ids[::-1]
    refused = ema("queue", "cancel")
    assert refused.returncode == 2 and "--all" in refused.stderr and "Traceback" not in refused.stderr
    assert len(told("cancel", "--all")["cancelled"]) == 2
