"""The benchmarks' frame: what a target is held against, and that no row is dropped, whatever happens to its topic."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import bench, targets
from benchmarks.frame import interleaved, row
from benchmarks.targets import TARGETS, TOPICS, Target

ROOT = Path(__file__).resolve().parents[2]


def held(direction: Any, target: float | None, ours: float, peer: float | None) -> tuple[float | None, bool | None]:
    found = bench.held(row("x", [ours], None if peer is None else [peer], "s", "", ""), Target("x", "t", direction, target))
    return found["ratio"], found["met"]


def test_ratio_and_target_of_each_direction() -> None:
    assert held("higher", 1.5, 300.0, 200.0) == (1.5, True)
    assert held("higher", 1.6, 300.0, 200.0) == (1.5, False)
    assert held("lower", 0.5, 1.0, 2.0) == (0.5, True)
    assert held("lower", 0.4, 1.0, 2.0) == (0.5, False)
    assert held("faster", 4, 0.5, 2.0) == (4.0, True)
    assert held("faster", 5, 0.5, 2.0) == (4.0, False)
    assert held("at most", 1.05, 1.05, 1.7) == (1.05, True)  # the cost itself, whatever the peer's
    assert held("at most", 1.05, 1.06, None) == (1.06, False)
    assert held("higher", None, 300.0, 200.0) == (1.5, None)
    assert held("faster", 2, 1.0, None) == (None, False)  # nothing to compare with is not met


def test_medians_of_interleaved_rounds() -> None:
    order: list[str] = []
    values = {"ours": iter([3.0, 9.0, 1.0]), "peer": iter([10.0, 30.0, 20.0])}

    def side(name: str) -> float:
        order.append(name)
        return next(values[name])

    ours, peer = interleaved(lambda: side("ours"), lambda: side("peer"), 3)
    assert order == ["ours", "peer"] * 3
    found = row("x", ours, peer, "s", "", "")
    assert (found["ours"], found["peer"]) == (3.0, 20.0)
    assert found["samples"] == {"ours": [3.0, 9.0, 1.0], "peer": [10.0, 30.0, 20.0]}


BROKEN = """
from benchmarks.frame import Disagree, main, measures, row

@measures("good")
def good(quick):
    return [row("good", [2.0], [1.0], "s", "did it", "the same")]

@measures("bad")
def bad(quick):
    raise Disagree("losses do not agree: 1 and 2")

@measures("never")
def never(quick):
    import os
    os._exit(9)

if __name__ == "__main__":
    main(good, bad, never)
"""


@pytest.fixture
def topic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the frame with one topic, whose second part fails and whose third kills the process."""
    folder = tmp_path / "benchmarks"
    folder.mkdir()
    for name in ("__init__", "frame", "targets", "bench"):
        (folder / f"{name}.py").write_bytes((ROOT / "benchmarks" / f"{name}.py").read_bytes())
    (folder / "broken.py").write_text(BROKEN)
    monkeypatch.setattr(bench, "HERE", folder)
    return folder


def test_a_failed_part_and_a_killed_topic_keep_their_rows(topic: Path) -> None:
    found = {one["name"]: one for one in bench.measure("broken", ["good", "bad", "never"], quick=False)}
    assert found["good"]["ours"] == 2.0
    assert found["bad"]["ours"] is None and "losses do not agree: 1 and 2" in found["bad"]["note"]
    assert found["never"]["ours"] is None and "code 9" in found["never"]["note"]
    bad = bench.held(found["bad"], Target("bad", "broken", "higher", 2))
    assert (bad["ratio"], bad["met"]) == (None, False)
    assert "| bad | – | – |  | – | ≥ 2 | failed |" in bench.table([bad])


def test_a_topic_that_hangs_is_ended(topic: Path) -> None:
    (topic / "broken.py").write_text("import time\ntime.sleep(600)\n")
    (found,) = bench.measure("broken", ["good"], quick=False, limit=1)
    assert found["ours"] is None and "ended after 1 s" in found["note"]


def test_rows_that_are_not_measured_again_stay(tmp_path: Path) -> None:
    first, second = TARGETS[0], next(target for target in TARGETS if target.topic != TARGETS[0].topic)
    old = [row(first.name, [1.0], [1.0], "s", "old", ""), row(second.name, [1.0], [1.0], "s", "old", "")]
    rows = bench.merged(old, [row(second.name, [2.0], [1.0], "s", "new", "")])
    assert [(one["name"], one["note"]) for one in rows] == [(first.name, "old"), (second.name, "new")]
    assert all(one["target"] is not None and one["met"] is not None for one in rows)
    assert list(json.loads(json.dumps(rows))[0]) == list(bench.FIELDS)


def test_only_chooses_topics_or_rows() -> None:
    assert list(bench.chosen(["sampling"], quick=False)) == ["sampling"]
    assert [target.name for target in bench.chosen([targets.LDIFS], quick=False)["training"]] == [targets.LDIFS]
    assert sum(map(len, bench.chosen([], quick=False).values())) == len(TARGETS)


def test_a_missed_target_is_reported_with_what_it_missed_by() -> None:
    missed = bench.merged([], [row(targets.SAMPLING, [200.0], [100.0], "tokens/s", "", "")])
    text = bench.report(missed, quick=False, seconds=60, load=0.0)
    assert f"- {targets.SAMPLING}: 2 instead of ≥ 3." in text
    assert "MISSED" in text


@pytest.mark.parametrize("name", TOPICS)
def test_every_topic_writes_the_rows_that_the_targets_name(name: str) -> None:
    module = importlib.import_module(f"benchmarks.{name}")
    parts = [part for part in vars(module).values() if hasattr(part, "rows") and part.__module__ == module.__name__]
    rows = [one for part in parts for one in part.rows]
    assert sorted(rows) == sorted(target.name for target in TARGETS if target.topic == name)


def test_a_topic_is_imported_without_torch() -> None:
    """So that its command line answers at once, and that a topic decides itself what its home is before anything reads it."""
    code = f"import sys; [__import__('benchmarks.' + name) for name in {TOPICS!r}]; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
