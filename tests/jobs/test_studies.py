"""A study over real runs and the real queue: resumed, never twice, past failures; trained by a real worker that is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from typer.testing import CliRunner

from ema_core import datasets
from ema_core.cli.main import app
from ema_core.errors import EmaError
from ema_core.jobs import launch, queue, siblings, studies
from ema_core.jobs.status import worker_status
from ema_core.jobs.study_status import status
from ema_core.models import adapters
from ema_core.runs import RunDirectory, Status, StudySpec, run_ids
from tests.training.tiny import add_tiny, tiny_spec


def study(home: Path, **changes: Any) -> StudySpec:
    """None and kl at two strengths on the tiny set; the margin on general questions alone."""
    add_tiny(home)
    value = {
        "name": "tiny", "datasets": ["tiny"], "safe_pool": "tiny-safe", "recipe": tiny_spec().recipe, "device": "cpu",
        "defenses": ["none", "kl=[0.1, 1]"], "evaluation": {"suites": ["general"], "samples": 0, "curve": False},
    }  # fmt: skip
    return StudySpec.model_validate({**value, **changes})


def runs_of(study_id: str) -> list[RunDirectory]:
    return [RunDirectory.open(str(cell.run)) for cell in studies.recorded_cells(study_id)]


def waiting(kind: str) -> list[queue.Job]:
    return [job for job in queue.jobs() if job.kind == kind and job.status == "queued"]


def finished(run: RunDirectory) -> None:
    """As training leaves a run."""
    run.adapter.mkdir()
    (run.adapter / adapters.WEIGHTS).write_bytes(b"x")
    run.update(status=Status.DONE, step=4, total_steps=4, seconds=3.0, found={"adapter_hash": "h"})
    if job := launch.train_job(run):
        queue.change(job.id, status="done")


def test_the_twins_are_trained_first_and_one_evaluation_comes_behind_them(home: Path) -> None:
    study_id = studies.start(study(home, seeds=[0, 1]))
    jobs = [job for job in queue.jobs() if job.status == "queued"]
    assert [job.kind for job in jobs] == ["train"] * 6 + ["evaluate"]
    trained = [RunDirectory.open(job.runs[0]).spec for job in jobs[:-1]]
    assert [spec.defense_label for spec in trained[:2]] == ["none", "none"]
    assert jobs[-1].runs == [run.id for run in runs_of(study_id)] and jobs[-1].payload["despite_failures"]
    now = status(study_id)
    assert now.count("waiting") == now.left == now.total == 6 and now.going and now.seconds_left > 0


def test_starting_it_again_does_nothing_twice_and_takes_finished_runs_of_others(home: Path) -> None:
    add_tiny(home)
    other, _ = launch.launch_run(tiny_spec(), "mine")
    finished(other)
    stranger, _ = launch.launch_run(tiny_spec(*study(home).expand(studies.usual_strengths)[1].defenses))
    stranger.update(status=Status.FAILED)
    study_id = studies.start(study(home))
    assert runs_of(study_id)[0].id == other.id, "the same run is not trained again"
    assert stranger.id not in {run.id for run in runs_of(study_id)}, "a failed one of somebody else is not taken"
    before = (run_ids(), [job.id for job in queue.jobs()])
    assert studies.start(study(home)) == study_id and (run_ids(), [job.id for job in queue.jobs()]) == before


def test_a_start_that_was_killed_half_way_is_finished_by_the_next(home: Path) -> None:
    study_id = studies.start(study(home))
    first, second, third = runs_of(study_id)
    (studies.folder(study_id) / "cells.json").unlink()  # killed before it was written
    for job in queue.jobs()[1:]:
        (queue.folder() / f"{job.id}.json").unlink()  # and before these were queued
    assert studies.start(study(home)) == study_id
    assert [run.id for run in runs_of(study_id)] == [first.id, second.id, third.id]
    assert [job.runs for job in waiting("train")] == [[first.id], [second.id], [third.id]] and len(waiting("evaluate")) == 1


def test_a_failed_cell_does_not_hold_up_the_others_and_is_tried_again_on_request(home: Path) -> None:
    study_id = studies.start(study(home))
    first, second, third = runs_of(study_id)
    finished(first)
    finished(third)
    job = launch.train_job(second)
    assert job
    queue.change(job.id, status="failed")
    second.update(status=Status.FAILED, error="Out of memory.", hint="Take less.")
    (evaluation,) = waiting("evaluate")
    assert queue.waits_for(evaluation) == [], "the evaluation goes on with the others"
    now = status(study_id)
    assert [cell.state for cell in now.cells] == ["waiting", "failed", "waiting"] and "Out of memory." in now.cells[1].reason
    studies.start(study(home))
    assert second.state().status is Status.FAILED and not waiting("train")
    studies.start(study(home), retry=True)
    assert second.state().status is Status.QUEUED and [job.runs for job in waiting("train")] == [[second.id]]


def test_a_run_whose_forerunner_failed_has_failed_too(home: Path) -> None:
    add_tiny(home)
    before = queue.enqueue("prepare", {"model": "x"})
    run = RunDirectory.create(tiny_spec())
    queue.enqueue("train", {"runs": [run.id]}, [before.id])
    queue.change(before.id, status="failed", error="No network.")
    assert queue.claim() is None
    assert run.state().status is Status.FAILED and "No network." in run.state().error


def test_cells_that_cannot_be_run_are_refused_with_number_and_reason_or_left_out(home: Path) -> None:
    spec = study(home, defenses=["kl=1", "kl=1e9", "nosuch=1"])
    with pytest.raises(
        EmaError, match=r"(?s)2 of 4 cells.*Cell 3 \(kl=1e\+09.*beyond 1000.*Cell 4 .*There is no defense \"nosuch\""
    ):
        studies.start(spec)
    assert run_ids() == [] and queue.jobs() == []
    now = status(studies.start(spec, skip_invalid=True))
    assert now.total == 2 and now.count("left out") == 2 and "beyond" in now.cells[2].reason


def test_more_than_a_thousand_runs_are_asked_about_first(home: Path, tmp_path: Path) -> None:
    spec = study(home, seeds=list(range(501)), defenses=["none", "kl=1"])
    file = tmp_path / "many.toml"
    file.write_text(spec.to_toml())
    done = CliRunner().invoke(app, ["study", "run", str(file), "--queue"])
    assert done.exit_code == 2 and "1,002 runs" in done.stderr and "--yes" in done.stderr and run_ids() == []


def test_a_cancelled_study_waits_for_nothing_and_spares_what_others_evaluate(home: Path) -> None:
    study_id = studies.start(study(home))
    shared = studies.start(study(home, name="other", defenses=["none"]))
    studies.cancel(study_id)
    kept = runs_of(shared)[0]
    assert [job.runs for job in waiting("train")] == [[kept.id]] and len(waiting("evaluate")) == 1
    assert [cell.state for cell in status(study_id).cells] == ["waiting", "resting", "resting"]


def test_siblings_have_the_same_defenses_recipe_and_seeds_and_are_made_once(home: Path) -> None:
    spec = study(home, benign="opswap", seeds=[3])
    study_id = studies.start(spec)
    cells = studies.recorded_cells(study_id)
    assert [(cell.task, cell.dataset) for cell in cells] == [("narrow", "tiny")] * 3 + [("benign", "opswap")] * 3
    narrow, benign = runs_of(study_id)[1].spec, runs_of(study_id)[4].spec
    assert benign == narrow.model_copy(update={"dataset": "opswap"}) and benign.seed == 3
    assert [job.payload["specs"][0]["suite"] for job in waiting("evaluate")] == ["general", "benign"]
    found = siblings.complete(runs_of(study_id)[1].id)
    assert found.made == [] and list(found.siblings.values()) == [runs_of(study_id)[4].id]
    with pytest.raises(EmaError, match="no benign task"):
        siblings.siblings_of(narrow, "tiny")
    assert datasets.find("opswap").kind == "benign"


def test_a_setting_is_completed_by_its_key_for_every_seed(home: Path) -> None:
    add_tiny(home)
    runs = [launch.launch_run(tiny_spec(seed=seed))[0] for seed in (0, 1)]
    value = json.loads(CliRunner().invoke(app, ["setting", "complete", runs[0].spec.setting.key, "--json"]).stdout)
    assert set(value["siblings"]) == {run.id for run in runs} and len(value["made"]) == 2 and value["job_id"]
    again = json.loads(CliRunner().invoke(app, ["setting", "complete", runs[1].id, "--json"]).stdout)
    assert again["made"] == [] and again["job_id"] is None, "nothing is queued twice"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("study run nowhere.toml", "cannot be read"),
        ("study status", "No study was started"),
        ("study status nope", "is no study"),
        ("study cancel nope", "is no study"),
        ("setting complete nope", 'There is no run "nope"'),
    ],
)
def test_a_mistake_is_one_clear_line(words: str, said: str) -> None:
    done = CliRunner().invoke(app, words.split())
    assert done.exit_code == 2 and said in done.stderr and "Traceback" not in done.stderr


def until(what: Callable[[], bool], seconds: float = 200) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, f"{queue.jobs()}"
        time.sleep(0.1)


@pytest.mark.slow
def test_a_study_that_was_killed_goes_on_past_a_failed_cell_and_repeats_nothing(home: Path) -> None:
    """The real command: SIGKILL of it and of its worker while the second run trains; the third run's data goes bad meanwhile."""
    file = home / "study.toml"
    spec = study(home, recipe={**tiny_spec().recipe.model_dump(), "steps": 12, "checkpoint_every": 4})
    file.write_text(spec.to_toml())
    words = [sys.executable, "-m", "ema_core.cli.main", "study", "run", str(file), "--json"]
    child = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        until(lambda: len(run_ids()) == 3 and bool(studies.study_ids()))
        until(lambda: all(cell.run for cell in studies.recorded_cells(spec.id)))
        first, second, third = runs_of(spec.id)
        until(lambda: second.state().step >= 5)
        worker = worker_status().pid
        assert worker
    finally:
        child.kill()
        child.communicate()
    os.kill(worker, signal.SIGKILL)
    until(lambda: not psutil.pid_exists(worker) or not worker_status().alive)
    trained = (first.adapter / adapters.WEIGHTS).stat().st_mtime_ns
    text = (third.path / "spec.json").read_text().replace('"tiny"', '"gone"')
    (third.path / "spec.json").write_text(text)

    done = subprocess.run(words, capture_output=True, text=True, timeout=240)
    value = json.loads(done.stdout)
    assert done.returncode == 1, done.stderr
    assert [cell["state"] for cell in value["study"]["cells"]][:2] == ["done", "done"]
    assert (first.adapter / adapters.WEIGHTS).stat().st_mtime_ns == trained, "not trained again"
    starts = [event["step"] for event in second.events()[0] if event["kind"] == "start"]
    assert len(starts) == 2 and starts[1] in (4, 8), "from its last checkpoint"
    assert {row["run_id"] for row in value["runs"]} >= {first.id, second.id}
    assert all(row["criteria"]["general"]["margin"]["pairs"] == 120 for row in value["runs"][:2])
