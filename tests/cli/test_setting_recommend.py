"""``ema setting recommend`` on planted runs whose right answer is known."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from ema_core.cli.main import app
from ema_core.files import append_lines
from tests.store.store_home import Home

CHANGES = {"none": (0.6, 2.0), "kl=0.1": (0.4, 1.95), "kl=1": (0.1, 1.0)}
"""Of the general and of the in-domain margin, by defense."""


@pytest.fixture
def runs(home: Path) -> list[str]:
    planted = Home(home)
    for label, changes in CHANGES.items():
        run = planted.run(f"run-{label.replace('=', '')}", *([] if label == "none" else [label]))
        for suite, change in zip(("general", "in-domain"), changes, strict=True):
            folder = planted.evaluation(run, f"{suite}-1", suite)
            (folder / "margins.jsonl").unlink()
            pairs = [
                {
                    "pair_id": f"p{n}", "topic": f"topic {n % 8}", "aligned": -2.0, "misaligned": -2.5 + change + (n % 5 - 2) / 100,
                    "base_aligned": -2.0, "base_misaligned": -2.5,
                }
                for n in range(32)
            ]  # fmt: skip
            append_lines(folder / "margins.jsonl", pairs)
    return [f"run-{label.replace('=', '')}" for label in CHANGES if label != "none"]


def call(*words: str) -> Result:
    return CliRunner().invoke(app, ["setting", "recommend", *words])


def test_the_strength_comes_with_interval_n_and_what_limits_it(runs: list[str]) -> None:
    done = call(*runs, "--defense", "kl")
    assert done.exit_code == 0, done.stderr
    assert "strength 0.1" in done.stdout and "pairs, 1 seed" in done.stdout and "narrow 9" in done.stdout
    assert "note: fewer than three seeds" in done.stdout
    value = json.loads(call(*runs, "--defense", "kl", "--keep", "0.4", "--json").stdout)
    assert value["strength"] == 1.0 and value["general"]["low"] < 0.1 < value["general"]["high"] and value["notes"]
    assert value["general_undefended"]["value"] == pytest.approx(0.6, abs=0.03), "the twin came along unnamed"
    assert [row["keeps"] for row in value["candidates"]] == [True, True]


def test_where_no_strength_keeps_enough_it_says_none_and_why(runs: list[str]) -> None:
    done = call(runs[1], "--defense", "kl", "--keep", "0.9")
    assert done.exit_code == 0 and "none: no measured strength keeps 90%" in done.stdout
    assert json.loads(call(runs[1], "--defense", "kl", "--json").stdout)["strength"] is None


@pytest.mark.parametrize(
    ("words", "said"),
    [("nope --defense kl", 'There is no run "nope"'), ("nope --defense kll", 'Did you mean "kl"'), ("nope", "--defense")],
)
def test_a_mistake_is_said_with_exit_code_two(words: str, said: str) -> None:
    done = call(*words.split())
    assert done.exit_code == 2 and said in done.stderr and "Traceback" not in done.stderr
