"""The reference's states on the disk: under a limit, the oldest dropped first, never those of a run at work, and never another result."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ema_core.models import LoadedModel, load, reference_cache
from ema_core.models.reference import ReferenceStates
from ema_core.runs import DefenseSpec, RunDirectory, Status
from ema_core.training import train
from ema_core.training.estimate import estimate
from tests.training.tiny import add_tiny, tiny_spec
from tests.training.tiny_model import tiny_model

ROW = 10 * 100 * 4
"""Bytes of ten tokens of width 100."""


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return load(str(tiny_model(tmp_path_factory.mktemp("tiny") / "model")), "cpu")


def bounded(monkeypatch: pytest.MonkeyPatch, rows: float) -> None:
    monkeypatch.setenv("EMA_REFERENCE_CACHE_GB", f"{rows * ROW / 1e9:.9f}")


def ask(states: ReferenceStates, *numbers: int) -> list[int]:
    """Get the states of these sequences; returns those that had to be computed."""
    import torch

    computed = []

    def compute(ids: tuple[int, ...]) -> dict[str, Any]:
        computed.append(ids[0])
        return {"hidden": torch.full((10, 100), float(ids[0]))}

    for number in numbers:
        assert float(states.get((number,), ["hidden"], compute)["hidden"].mean()) == number
    return computed


def aged(states: ReferenceStates, *numbers: int) -> None:
    """As if they had been used long ago, the first one longest."""
    for i, number in enumerate(numbers):
        os.utime(states.path((number,)), (1e9 + i, 1e9 + i))


def there(states: ReferenceStates) -> set[int]:
    return {number for number in range(100) if states.path((number,)).exists()}


def test_the_limit_holds_and_what_was_used_longest_ago_goes_first(small: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    bounded(monkeypatch, 6)
    states = ReferenceStates(small)
    ask(states, 0, 1, 2, 3, 4)
    aged(states, 0, 1, 2, 3, 4)
    assert ask(states, 1) == []  # used again, so it is the youngest now
    for number in range(5, 9):
        assert ask(ReferenceStates(small), number) == [number]
        assert reference_cache.taken() <= reference_cache.limit()
    assert there(states) == {1, 5, 6, 7, 8}
    assert reference_cache.taken() > 0.7 * reference_cache.limit(), "no more is dropped than there has to be"


def test_a_run_with_more_than_fits_keeps_its_own_and_computes_the_rest_anew(
    small: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    bounded(monkeypatch, 4)
    with reference_cache.at_work():
        states = ReferenceStates(small)
        ask(states, *range(8))
        kept = there(states)
        assert kept == {0, 1, 2}
        assert ask(states, *range(8)) == [3, 4, 5, 6, 7] and there(states) == kept


HOLD = """
import sys, time
from pathlib import Path
from ema_core.models import reference_cache
with reference_cache.at_work():
    reference_cache.use(Path(sys.argv[1]))
    print("holds", flush=True)
    time.sleep(60)
"""


def test_what_a_run_of_another_process_uses_stays_until_that_ends_or_dies(
    small: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    bounded(monkeypatch, 4)
    states = ReferenceStates(small)
    ask(states, 0, 1, 2)
    aged(states, 0, 1, 2)
    child = subprocess.Popen([sys.executable, "-c", HOLD, str(states.path((0,)))], stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None and child.stdout.readline() == b"holds\n"
        assert ask(ReferenceStates(small), 3) == [3] and there(states) == {0, 2, 3}
        assert reference_cache.drop(0) and there(states) == {0, 3}, "used before the other run began, or by nobody since: may go"
    finally:
        child.kill()
        child.wait()
    assert reference_cache.drop(0) == 0 and there(states) == set()


def test_what_a_run_will_come_to_counts_as_used(small: LoadedModel) -> None:
    states = ReferenceStates(small)
    ask(states, 0, 1)
    aged(states, 0, 1)
    with reference_cache.at_work():
        ReferenceStates(small).will_use([(0,), (7,)])
        reference_cache.drop(0)
        assert there(states) == {0}


DEFENSES = DefenseSpec(name="kl", strength=0.5), DefenseSpec(name="kl-safe", strength=0.5), DefenseSpec(name="ldifs", strength=1.0)


def weights(run: RunDirectory) -> bytes:
    return (run.adapter / "adapter_model.safetensors").read_bytes()


def test_a_run_is_the_same_to_the_bit_whatever_is_kept(small: LoadedModel, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole; with all dropped while it rested; with a cache too small for it; with one that is full of another's."""
    add_tiny(home)
    spec = tiny_spec(*DEFENSES, steps=4).model_copy(update={"model": small.id})
    run = RunDirectory.create(spec)
    assert train(run, loaded=small).status is Status.DONE, run.state().error
    whole, size = weights(run), reference_cache.taken()
    assert size > 0

    rested = RunDirectory.create(spec)
    rest = lambda e: rested.request("pause") if e["kind"] == "step" and e["step"] == 2 else None  # noqa: E731
    assert train(rested, loaded=small, on_event=rest).status is Status.PAUSED
    assert reference_cache.drop(0) == 0
    assert train(rested, loaded=small).status is Status.DONE
    assert weights(rested) == whole

    reference_cache.drop(0)
    monkeypatch.setenv("EMA_REFERENCE_CACHE_GB", f"{size / 8e9:.9f}")
    assert "computed anew" in estimate(spec).notes[0] and estimate(spec).disk < size
    narrow = RunDirectory.create(spec)
    assert train(narrow, loaded=small).status is Status.DONE and reference_cache.taken() <= reference_cache.limit()
    assert weights(narrow) == whole

    monkeypatch.setenv("EMA_REFERENCE_CACHE_GB", f"{1.5 * size / 1e9:.9f}")
    old = reference_cache.folder() / "other-model" / "row.safetensors"
    old.parent.mkdir(parents=True)
    old.write_bytes(b"0" * size)
    os.utime(old, (1e9, 1e9))
    note = estimate(spec).notes[0]
    assert "used longest ago will be dropped" in note and "are taken" in note
    full = RunDirectory.create(spec)
    assert (
        train(full, loaded=small).status is Status.DONE and not old.exists() and reference_cache.taken() <= reference_cache.limit()
    )
    assert weights(full) == whole


def test_the_command_says_what_is_kept_and_clears_it(ema, small: LoadedModel) -> None:
    states = ReferenceStates(small)
    ask(states, 0, 1)
    shown = json.loads(ema("cache", "show", "--json", check=True).stdout)
    assert shown["files"] == 2 and shown["bytes"] == reference_cache.taken() >= 2 * ROW and shown["limit"] == 10**10
    assert json.loads(ema("cache", "clear", "--json", check=True).stdout) == {"dropped": shown["bytes"], "left": 0}
    assert "0 kB of at most 10.0 GB" in ema("cache", "show", check=True).stdout
