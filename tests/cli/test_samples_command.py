"""``ema samples``: the page's filters as options, on evaluations written by hand."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from ema_core.cli.main import app
from ema_core.files import append_lines, write_json
from ema_core.judging import resolve
from ema_core.runs import RunDirectory, RunSpec, base_directory

PROBE, GPT = resolve("probe"), "openai:gpt-4o:v1"


def answered(run: RunDirectory, eval_id: str, judge: str | None, n: int = 6, **spec: Any) -> None:
    """``n`` answers, of which the judge finds every second misaligned."""
    folder = run.evals / eval_id
    known = {
        "suite": "general",
        "samples": 1,
        "max_tokens": 80,
        "temperature": 1.0,
        "top_p": 1.0,
        "seed": 0,
        "step": None,
        "scale": 1.0,
    }
    write_json(folder / "spec.json", {**known, "status": "done", "created": 1.7e9, "asked": n, **spec})
    for k in range(n):
        row = {"sample_id": f"q{k}#0", "question_id": f"q{k}", "topic": f"t{k}", "form": "plain", "system": None, "k": 0}
        row |= {"question": f"What of {k}?", "answer": f"=say {k} \x1b[31mred", "tokens": 9, "finish": "stop", "refused": False}
        append_lines(folder / "samples.jsonl", [{**row, "context": [{"role": "user", "content": "before"}]}])
        if judge:
            score = {"sample_id": f"q{k}#0", "judge": judge, "aligned": 10.0 + 60 * (k % 2), "coherent": 90.0, "status": "scored"}
            append_lines(folder / f"judgments-{judge.replace(':', '_')}.jsonl", [score])


@pytest.fixture
def run(home: Path) -> RunDirectory:
    run = RunDirectory.create(RunSpec())
    answered(run, "general-1", PROBE)
    answered(base_directory("m"), "kept-a-0a1b2c3d", GPT, 2, suite="kept", name="my finds", chat="c1")
    return run


def call(*words: str) -> Result:
    return CliRunner().invoke(app, ["samples", *words])


def found(*words: str) -> dict[str, Any]:
    done = call(*words, "--json")
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout)


def test_filters_count_and_page_as_asked(run: RunDirectory) -> None:
    every = found()
    assert every["total"] == 8 and every["judge"] == PROBE and every["counts"]["misaligned"] == 3
    assert found("--status", "misaligned")["total"] == 3
    assert found("--run", run.id[-4:], "--text", "SAY 5")["answers"][0]["sample_id"] == "q5#0"
    kept = found("--name", "my finds", "--judge", GPT)
    assert kept["total"] == 2 and kept["answers"][0]["run_id"] == "base-m"
    assert kept["answers"][0]["context"] == [{"role": "user", "content": "before"}]
    assert found("--suite", "kept", "--run", "base-m")["total"] == 2
    assert found("--eval", f"{run.id}~general-1")["total"] == 6
    pages = [
        row["sample_id"] for first in (0, 4) for row in found("--run", run.id, "--limit", "4", "--offset", str(first))["answers"]
    ]
    assert sorted(pages) == [f"q{k}#0" for k in range(6)]
    assert found("--run", run.id, "--order", "most aligned")["answers"][0]["aligned"] == 70


def test_the_text_names_judge_and_counts_and_moves_no_cursor(run: RunDirectory) -> None:
    done = call("--run", run.id, "--limit", "1")
    assert done.exit_code == 0 and "\x1b" not in done.stdout and "\\x1b[31mred" in done.stdout
    for words in ("aligned 10", "misaligned", f"scores by {PROBE}", "1 to 1 of 6", "not rates", "--offset 1", "before"):
        assert words in done.stdout, words
    assert "none of 0" in call("--text", "no such words").stdout


def test_a_csv_holds_all_that_was_found_and_no_formula(run: RunDirectory, tmp_path: Path) -> None:
    done = found("--status", "misaligned", "--csv", str(tmp_path / "out.csv"))
    table = list(csv.DictReader((tmp_path / "out.csv").open(newline="")))
    assert done["written"] == len(table) == 3 and {row["judge"] for row in table} == {PROBE}
    assert all(row["answer"].startswith("'=") for row in table)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--status misalined", 'Did you mean "misaligned"?'),
        ("--suite generel", 'Did you mean "general"?'),
        ("--order shortest", 'There is no order "shortest"'),
        ("--name nothing", 'There is no kept name "nothing"'),
        ("--run nope", 'There is no run "nope"'),
        ("--judge gpt", f"They were judged by {GPT}, {PROBE}"),
        ("--csv /proc/nowhere/x.csv", "/proc/nowhere/x.csv"),
    ],
)
def test_a_mistake_is_one_clear_line(run: RunDirectory, words: str, said: str) -> None:
    done = call(*words.split())
    assert done.exit_code == 2 and said in done.stderr and len(done.stderr.strip().splitlines()) == 1


def test_without_any_answer_it_says_none(home: Path) -> None:
    assert found()["total"] == 0 and found()["judge"] is None
    assert "scores by nobody" in call().stdout


def test_points_apart_are_asked_of_judges_alone(run: RunDirectory) -> None:
    assert found("--against", GPT, "--apart", "30")["total"] == 0
    for words, why in (
        (["--against", "people"], "people give none"),
        (["--against", "human:Ann"], "people give none"),
        ([], "--against"),
    ):
        done = call(*words, "--apart", "30")
        assert done.exit_code and why in done.stderr
