"""The index says what the files say, whatever state they are in."""

from __future__ import annotations

import time
from pathlib import Path

import duckdb
import pytest
from store_home import Home, step_event, torn

from ema_core.errors import EmaError
from ema_core.evaluation.scorecard import setting_table
from ema_core.files import append_lines, read_json, write_json
from ema_core.runs import RunDirectory, Status, run_ids, steps
from ema_core.store import Reader, build_index, refresh
from ema_core.store.rows import lines, read_run


def test_deleting_the_index_and_making_it_again_gives_the_same_rows_by_hash(study: Home) -> None:
    first = build_index()
    study.index.unlink()
    second = build_index()
    assert first.hash == second.hash
    assert first.rows == second.rows == {
        "runs": 3, "steps": 24, "penalties": 18, "probes": 2, "evals": 4, "samples": 24, "judgments": 40, "margins": 16, "imports": 0,
        "annotations": 0,
    }  # fmt: skip
    assert not first.warnings


def test_a_refresh_reads_only_what_changed_and_ends_with_the_rows_of_a_full_build(study: Home) -> None:
    build_index()
    assert refresh() is None
    paused = RunDirectory(study.path / "runs" / run_ids()[2])
    append_lines(paused.events_path, [step_event(5, attempt=2)])
    study.run("20261124-0930-new-s0-dddd")
    RunDirectory(study.path / "runs" / run_ids()[0]).delete()
    report = refresh()
    assert report is not None and (report.read, report.kept) == (2, 1)
    assert report.hash == build_index().hash
    assert [*Reader().run_ids()] == run_ids()


def test_the_hash_changes_with_any_value_and_not_with_the_order_of_the_runs(study: Home) -> None:
    before = build_index().hash
    sample = study.path / "runs" / run_ids()[0] / "evals/general-1/samples.jsonl"
    sample.write_text(sample.read_text().replace("=answer 0 0", "=answer 0 O"))
    changed = refresh()
    assert changed is not None and changed.hash != before
    sample.write_text(sample.read_text().replace("=answer 0 O", "=answer 0 0"))
    again = refresh()
    assert again is not None and again.hash == before


def test_torn_lines_are_passed_over(home: Home) -> None:
    run = home.run("r", "kl=0.1")
    torn(run.events_path)
    assert build_index().rows["steps"] == 10
    assert lines(run.events_path) == run.events()[0]


def test_a_line_torn_so_that_the_next_completes_it_is_not_taken_for_one(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(b'{"a": [1\n2]}\n{"b": 3}\n')
    assert lines(path) == [{"b": 3}]


def test_repeated_steps_count_once_as_in_runs_steps(home: Home) -> None:
    run = home.run("r")
    append_lines(run.events_path, [step_event(step, attempt=2, ce=9.0) for step in (7, 8)])
    build_index()
    frame = Reader().steps(["r"])
    assert list(frame["step"]) == list(range(1, 11))
    assert list(frame["ce"]) == [event["ce"] for event in steps(run.events()[0])]
    assert list(frame.loc[frame["step"].isin([7, 8]), "attempt"]) == [2, 2]


@pytest.mark.parametrize("text", [None, "", "{}}", '{"version": 1, "modle": "x"}', "[1]", b"\xff\xfe"])
def test_a_damaged_run_is_left_out_with_a_warning_and_the_others_stay(study: Home, text: str | bytes | None) -> None:
    damaged = RunDirectory(study.path / "runs" / run_ids()[1])
    if text is None:
        (damaged.path / "spec.json").unlink()
    else:
        (damaged.path / "spec.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    report = build_index()
    assert report.rows["runs"] == 2
    assert len(report.warnings) == 1 and damaged.id in report.warnings[0]
    assert refresh() is None
    assert damaged.id not in Reader().run_ids()


def test_an_evaluation_without_its_spec_is_left_out_alone(study: Home) -> None:
    folder = study.path / "runs" / run_ids()[0] / "evals"
    (folder / "general-1" / "spec.json").unlink()
    (folder / "being-created").mkdir()
    report = build_index()
    assert report.rows["evals"] == 3 and report.rows["runs"] == 3
    assert len(report.warnings) == 1 and "general-1" in report.warnings[0]


def test_missing_files_give_fewer_rows_and_no_warning(home: Home) -> None:
    run = home.run("r")
    run.events_path.unlink()
    folder = home.evaluation(run, "e")
    for name in ("samples.jsonl", "margins.jsonl"):
        (folder / name).unlink()
    report = build_index()
    assert (report.rows["runs"], report.rows["steps"], report.rows["evals"], report.rows["samples"]) == (1, 0, 1, 0)
    assert not report.warnings


def test_what_does_not_fit_its_column_becomes_missing(home: Home) -> None:
    run = home.run("r", steps=0)
    odd = step_event(
        1, ce="three", tokens=1.5, grad_norm=float("nan"), loss=float("inf"), penalties={"kl": 3, "x": {"raw": "much"}}
    )
    append_lines(run.events_path, [odd, {"kind": "step", "step": "two"}, {"kind": "step", "step": 2, "tokens": 10**30}])
    folder = home.evaluation(run, "e")
    with open(folder / "samples.jsonl", "a") as file:
        file.write('{"sample_id": "odd", "answer": ["a", 1], "question": "\\ud800", "refused": "no"}\n{"k": 1}\n')
    build_index()
    reader = Reader()
    first, second = reader.steps().to_dict("records")
    assert first["ce"] != first["ce"] and first["tokens"] != first["tokens"] and first["loss"] == float("inf")
    assert second["step"] == 2 and second["attempt"] == 0
    assert reader.penalties()[["defense", "raw"]].isna().sum().tolist() == [0, 1]
    sample = reader.samples().query("sample_id == 'odd'").iloc[0]
    assert (sample["answer"], sample["question"], sample["refused"]) == ('["a", 1]', "?", None)
    assert reader.sample_count() == 7


def test_a_sample_that_a_resumed_evaluation_wrote_again_counts_once(home: Home) -> None:
    folder = home.evaluation(home.run("r"), "e")
    append_lines(folder / "samples.jsonl", [{"sample_id": "q0#0", "question_id": "q0", "k": 0, "answer": "again"}])
    again = {"sample_id": "q0#0", "judge": "probe:x:v1", "aligned": 1.0, "status": "scored"}
    append_lines(folder / "judgments-probe_x_v1.jsonl", [again])
    assert build_index().rows["samples"] == 6
    frame = Reader().samples()
    row = frame[(frame["sample_id"] == "q0#0") & (frame["judge"] == "probe:x:v1")]
    assert row[["answer", "aligned"]].values.tolist() == [["again", 1.0]]


def test_a_running_run_whose_process_died_is_indexed_as_interrupted(home: Home) -> None:
    run = home.run("r", status=Status.RUNNING)
    with run.lock():
        build_index()
        assert Reader().runs()["status"].tolist() == ["running"]
        assert refresh() is None
    assert refresh() is not None
    assert Reader().runs()["status"].tolist() == ["interrupted"]


def test_a_damaged_state_is_a_failed_run_with_its_reason(home: Home) -> None:
    run = home.run("r")
    (run.path / "state.json").write_text("{")
    build_index()
    row = Reader().runs().iloc[0]
    assert row["status"] == "failed" and "state.json" in row["error"]


def test_there_may_be_nothing_to_index(home: Home) -> None:
    report = build_index()
    assert set(report.rows.values()) == {0} and not report.warnings
    assert refresh() is None


def test_an_older_index_is_made_again(study: Home) -> None:
    expected = build_index().hash
    with duckdb.connect(str(study.index)) as connection:
        connection.execute("UPDATE made_by SET fingerprint = 'older'")
    report = refresh()
    assert report is not None and report.hash == expected and "another version" in report.note


def test_what_a_killed_indexer_left_is_cleared_away(study: Home) -> None:
    study.path.mkdir(exist_ok=True)
    (study.path / ".index-new-dead.duckdb").write_bytes(b"half")
    (study.path / ".index-new-dead.duckdb.wal").write_bytes(b"half")
    build_index()
    assert not list(study.path.glob(".index-new-*"))


def test_progress_counts_up_to_all_runs(study: Home) -> None:
    seen: list[tuple[int, int]] = []
    build_index(lambda done, total: seen.append((done, total)))
    assert seen[-1] == (3, 3)


def test_a_home_that_cannot_be_written_says_so(study: Home, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EMA_HOME", str(tmp_path / "file" / "home"))
    with pytest.raises(EmaError, match="EMA_HOME"):
        build_index()


def test_refreshing_while_a_run_writes_never_misses_its_last_step(home: Home) -> None:
    run = home.run("r", steps=0)
    for step in range(1, 6):
        append_lines(run.events_path, [step_event(step)])
        refresh()
        assert Reader().steps()["step"].max() == step


def test_unchanged_runs_are_not_read_again(home: Home) -> None:
    for number in range(60):
        home.run(f"r{number:03}", steps=2)
    build_index()
    state = home.path / "runs" / "r007" / "state.json"
    write_json(state, {**read_json(state), "name": "renamed"})
    start = time.perf_counter()
    report = refresh()
    assert report is not None and (report.read, report.kept) == (1, 59)
    assert time.perf_counter() - start < 5
    assert Reader().runs(["r007"])["name"].tolist() == ["renamed"]


def test_rows_of_a_run_are_pure_reading(study: Home) -> None:
    before = sorted((path, path.stat().st_mtime_ns) for path in (study.path / "runs").rglob("*"))
    read_run(RunDirectory(study.path / "runs" / run_ids()[0]))
    assert before == sorted((path, path.stat().st_mtime_ns) for path in (study.path / "runs").rglob("*"))


def test_of_an_adapter_from_elsewhere_no_training_is_told_and_two_are_two_settings(home: Home) -> None:
    for name in ("one", "two"):
        home.run(name, found={"adapter_hash": f"a-{name}", "imported": {"time": 1.0}})
    home.run("plain")
    refresh()
    runs = Reader().runs().set_index("run_id")
    ours = runs.loc[["one", "two"]]
    assert ours["setting_key"].nunique() == 2 and ours["recipe_label"].tolist() == ["imported adapter"] * 2
    assert ours["batch_size"].isna().all() and sorted(runs["preset"].unique())[-1] == "imported", "a filter of Compare"
    assert runs["recipe"].nunique() == 3, "nobody's twin"
    assert ours["defense_label"].tolist() == ["not stated"] * 2
    table = setting_table(Reader().frames(), "probe:x:v1")
    assert len(table) == 3 and table.loc[table["undefended"], "setting_key"].tolist() == [runs.loc["plain", "setting_key"]]
