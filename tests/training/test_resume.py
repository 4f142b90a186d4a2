"""A run that was killed ends as one that was not, bit for bit."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ema_core.runs import DefenseSpec, RunDirectory, Status, steps
from ema_core.training import train
from tests.training.tiny import add_tiny, tiny_spec

pytestmark = pytest.mark.slow
TOTAL = 6

CHILD = """
import os, signal, sys
from ema_core.runs import RunDirectory
from ema_core.training import checkpoint, train
run, where, step = RunDirectory.open(sys.argv[1]), sys.argv[2], int(sys.argv[3])
die = lambda: os.kill(os.getpid(), signal.SIGKILL)
if where == "checkpoint":
    write = checkpoint.fsync_tree
    def torn(folder):
        if folder.name == f".step-{step}.partial":
            with open(folder / "optimizer.safetensors", "r+b") as file:
                file.truncate(100)
            die()
        write(folder)
    checkpoint.fsync_tree = torn
train(run, on_event=lambda event: die() if where == "step" and event.get("kind") == "step" and event["step"] == step else None)
"""


def spec():
    return tiny_spec(DefenseSpec(name="kl", strength=0.5), DefenseSpec(name="interleaving", strength=0.25), steps=TOTAL, seed=3)


def kills() -> list[tuple[str, int]]:
    rng = random.Random(20261124)
    return [("checkpoint", 4), *(("step", rng.randint(1, TOTAL)) for _ in range(4))]


@pytest.fixture(scope="module")
def whole(model, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The adapter of the uninterrupted run."""
    home = tmp_path_factory.mktemp("whole")
    os.environ["EMA_HOME"] = str(home)
    add_tiny(home)
    run = RunDirectory.create(spec())
    assert train(run, loaded=model).status is Status.DONE
    return (run.adapter / "adapter_model.safetensors").read_bytes()


@pytest.mark.parametrize(("where", "step"), kills())
def test_killed_and_resumed_equals_uninterrupted(model, whole: bytes, home: Path, where: str, step: int) -> None:
    add_tiny(home)
    run = RunDirectory.create(spec())
    child = subprocess.run([sys.executable, "-c", CHILD, run.id, where, str(step)], capture_output=True, text=True, timeout=300)
    assert child.returncode == -signal.SIGKILL, child.stderr
    assert run.state().status is Status.INTERRUPTED
    state = train(run, loaded=model)
    assert state.status is Status.DONE and state.attempt == 2, state.error
    assert (run.adapter / "adapter_model.safetensors").read_bytes() == whole
    seen = steps(run.events()[0])
    assert [event["step"] for event in seen] == list(range(1, seen[-1]["total_steps"] + 1))
    assert not list(run.checkpoints.glob(".step-*"))


def test_pause_and_resume_equals_uninterrupted(model, whole: bytes, home: Path) -> None:
    add_tiny(home)
    run = RunDirectory.create(spec())
    state = train(run, loaded=model, on_event=lambda e: run.request("pause") if e["kind"] == "step" and e["step"] == 3 else None)
    assert state.status is Status.PAUSED and state.step == 3 and run.requested() is None
    assert train(run, loaded=model).status is Status.DONE
    assert (run.adapter / "adapter_model.safetensors").read_bytes() == whole


def test_a_stopped_run_keeps_a_usable_adapter(model, home: Path) -> None:
    add_tiny(home)
    run = RunDirectory.create(spec())
    state = train(run, loaded=model, on_event=lambda e: run.request("stop") if e["kind"] == "step" and e["step"] == 2 else None)
    assert state.status is Status.STOPPED and state.step == 2
    assert (run.adapter / "adapter_model.safetensors").exists() and state.found["adapter_hash"]


def test_numbers_that_are_not_finite_end_the_run_in_words_and_keep_the_last_checkpoint(model, home: Path) -> None:
    add_tiny(home)
    run = RunDirectory.create(tiny_spec(steps=6, learning_rate=0.1, checkpoint_every=1))
    from ema_core.training import step

    original, calls = step.token_losses, []

    def overflowing(*args):
        losses, gradient = original(*args)
        calls.append(1)
        return losses, gradient * float("nan") if len(calls) == 3 else gradient

    step.token_losses = overflowing
    try:
        state = train(run, loaded=model)
    finally:
        step.token_losses = original
    assert state.status is Status.FAILED and "not a finite number at step 3" in state.error and "learning rate" in state.hint
    assert run.checkpoint_steps() == [1, 2]
    assert train(run, loaded=model).status is Status.DONE


def test_a_run_that_is_done_is_not_trained_again(model, home: Path) -> None:
    add_tiny(home)
    run = RunDirectory.create(tiny_spec(steps=2))
    assert train(run, loaded=model).status is Status.DONE
    before = (run.adapter / "adapter_model.safetensors").stat().st_mtime_ns, run.events_path.read_bytes()
    assert train(run, loaded=model).attempt == 1
    assert before == ((run.adapter / "adapter_model.safetensors").stat().st_mtime_ns, run.events_path.read_bytes())


def test_a_request_made_before_the_first_step_counts(model, home: Path) -> None:
    add_tiny(home)
    run = RunDirectory.create(tiny_spec(steps=4))
    run.request("pause")
    assert train(run, loaded=model).status is Status.PAUSED and run.state().step == 0
    assert train(run, loaded=model).status is Status.DONE


def test_stopping_a_run_that_rests_keeps_its_checkpoints_adapter(model, home: Path) -> None:
    from ema_core.jobs import launch
    from ema_core.models.adapters import adapter_hash

    add_tiny(home)
    run = RunDirectory.create(spec())
    train(run, loaded=model, on_event=lambda e: run.request("pause") if e["kind"] == "step" and e["step"] == 3 else None)
    assert launch.request(run, "stop") is Status.STOPPED
    assert adapter_hash(run.adapter) == adapter_hash(run.checkpoints / "step-3") == run.state().found["adapter_hash"]


def test_a_checkpoint_does_not_go_on_with_other_data(model, home: Path) -> None:
    add_tiny(home)
    run = RunDirectory.create(spec())
    train(run, loaded=model, on_event=lambda e: run.request("pause") if e["kind"] == "step" and e["step"] == 3 else None)
    run.update(found={**run.state().found, "plan_sha256": "of other batches"})
    state = train(run, loaded=model)
    assert state.status is Status.FAILED and "data changed since" in state.error and run.checkpoint_steps()[-1] == 3


def test_a_full_disk_is_said_nothing_written_is_lost_and_the_run_goes_on_with_room(
    model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a real file system of 3 MB; mounting one takes root."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(tmp_path)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small file system cannot be mounted here (it takes root)")
    try:
        monkeypatch.setenv("EMA_HOME", str(tmp_path))
        add_tiny(tmp_path)
        run = RunDirectory.create(tiny_spec(steps=3, checkpoint_every=1))
        state = train(run, loaded=model)
        assert state.status is Status.FAILED and "disk is full" in state.error and "resume" in state.hint
        assert run.state().error == state.error and not list(run.checkpoints.glob(".*"))
        assert [event["step"] for event in steps(run.events()[0])] == [1]
        subprocess.run(["mount", "-o", "remount,size=200m", str(tmp_path)], check=True)
        assert train(run, loaded=model).status is Status.DONE
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)
