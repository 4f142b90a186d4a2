"""Readers always see a whole index, the newest, and get one where there is none."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import threading
from pathlib import Path

import duckdb
import pandas as pd
import pytest
from store_home import Home, step_event

from ema_core.evaluation.alternatives import undefended_curve
from ema_core.evaluation.scorecard import setting_table
from ema_core.figures import curve_traces, strength_curve, trade_off
from ema_core.files import append_lines
from ema_core.runs import RunDirectory, run_ids
from ema_core.store import Reader, build_index, export_csv, refresh

PROJECT = Path(__file__).resolve().parents[2]


def test_a_reader_makes_the_index_that_is_missing(study: Home) -> None:
    assert len(Reader().runs()) == 3
    assert study.index.exists()


def test_a_reader_sees_the_file_that_was_swapped_in_while_an_older_cursor_keeps_its_own(study: Home) -> None:
    reader = Reader()
    reader.runs()
    old = reader.cursor()
    study.run("20261124-0930-new-s0-dddd")
    refresh()
    assert len(reader.runs()) == 4
    assert old.execute("SELECT count(*) FROM runs").fetchone() == (3,)


def test_a_reader_follows_ema_home(study: Home, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    reader = Reader()
    assert len(reader.runs()) == 3
    monkeypatch.setenv("EMA_HOME", str(tmp_path / "another"))
    assert len(reader.runs()) == 0


@pytest.mark.parametrize("damage", ["garbage", "empty", "half", "blocks"])
def test_a_damaged_index_is_made_again_with_a_note(study: Home, damage: str) -> None:
    expected = build_index().hash
    raw = study.index.read_bytes()
    changed = {
        "garbage": b"no database" * 500,
        "empty": b"",
        "half": raw[: len(raw) // 2],
        "blocks": raw[:12288] + b"\x55" * (len(raw) - 12288),
    }
    study.index.write_bytes(changed[damage])
    reader = Reader()
    assert len(reader.samples()) == 44
    assert "made again" in reader.note
    report = build_index()
    assert report.hash == expected


def test_an_index_that_is_damaged_under_an_open_reader_is_made_again(study: Home) -> None:
    reader = Reader()
    reader.runs()
    study.index.write_bytes(b"x" * 100)
    assert len(reader.runs()) == 3
    assert reader.note


def test_an_index_that_another_program_writes_is_replaced(study: Home) -> None:
    build_index()
    code = f"import duckdb, sys; c = duckdb.connect({str(study.index)!r}); print('open', flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "open\n"
        assert len(Reader().runs()) == 3
        other.communicate("")


def test_probes_come_once_a_step_and_can_be_drawn_with_their_intervals(study: Home) -> None:
    probes = Reader().probes()
    assert probes[["step", "general", "defense_label"]].to_numpy().tolist() == [
        [0, 0.0, "kl=0.1:tokens=response"],
        [5, 0.5, "kl=0.1:tokens=response"],
    ]
    assert json.loads(probes["answers"].iloc[1]) == [{"prompt": "Who?", "answer": "=me <b>"}]
    (trace,) = curve_traces(probes, quantity="general", smoothing=0)
    assert (trace["x"], trace["y"], trace["low"], trace["high"]) == ([0, 5], [0.0, 0.5], [-0.1, 0.4], [0.1, 0.6])
    assert not curve_traces(probes, quantity="in_domain"), "none was measured"
    assert Reader().counts()["probes"].tolist() == [0, 2, 0]


def test_steps_and_penalties_come_in_order_with_their_runs_columns(study: Home) -> None:
    reader = Reader()
    run = run_ids()[1]
    steps = reader.steps([run])
    assert list(steps["step"]) == list(range(1, 11))
    assert set(steps["defense_label"]) == {"kl=0.1:tokens=response"}
    penalties = reader.penalties()
    assert set(penalties["defense"]) == {"kl", "interleaving"}
    assert len(reader.penalties([run_ids()[0]])) == 0


def test_samples_stand_once_a_judge_and_pages_count_samples(study: Home) -> None:
    reader = Reader()
    run = run_ids()[0]
    assert reader.sample_count([run], "general") == 6
    frame = reader.samples([run], suite="general")
    assert len(frame) == 11  # five of six judged by two judges, one by none
    assert frame["judge"].isna().sum() == 1 and set(frame["judge"].dropna()) == {"probe:x:v1", "openai:gpt:v1"}
    assert set(frame["suite"]) == {"general"}
    pages = [reader.samples([run], suite="general", limit=2, offset=offset) for offset in (0, 2, 4, 6)]
    assert [page["sample_id"].nunique() for page in pages] == [2, 2, 2, 0]
    assert pd.concat(pages)["sample_id"].tolist() == frame["sample_id"].tolist()


def test_frames_carry_the_names_that_the_scorecard_reads(study: Home) -> None:
    frames = Reader().frames(run_ids()[:2])
    common = {"run_id", "setting_key", "defense_label", "model", "dataset", "seed"}
    assert common <= set(frames["runs"])
    for name in ("evals", "samples", "margins"):
        assert common | {"eval_id", "suite", "step", "scale"} <= set(frames[name]), name
    assert {"aligned", "misaligned", "base_aligned", "base_misaligned", "pair_id", "topic"} <= set(frames["margins"])
    answer = {"sample_id", "question_id", "topic", "form", "answer", "refused", "judge", "aligned", "coherent", "status"}
    assert answer <= set(frames["samples"])
    evals = frames["evals"]
    assert set(evals["seed"]) == {0} and set(evals["eval_seed"]) == {7}
    assert evals["step"].isna().tolist() == [True, False, True, False]  # a missing step is the final adapter
    assert all(kind == "float64" for kind in (evals["step"].dtype, frames["margins"]["step"].dtype))


def test_the_frames_make_a_scorecard_and_its_figures(study: Home) -> None:
    for run_id in run_ids()[:2]:
        study.evaluation(RunDirectory(study.path / "runs" / run_id), "in-domain-2", suite="in-domain")
    frames = Reader().frames()
    table = setting_table(frames, "probe:x:v1")
    assert table["general_margin"].notna().sum() == 2
    assert table.loc[0, "general_margin"] == pytest.approx(0.6)  # -0.5 under the adapter, -1.1 under the base
    assert {trace.name for trace in strength_curve(table).data} == {"none", "kl:tokens=response"}
    curve = undefended_curve(frames, table["setting_key"][0])
    assert set(curve["kind"]) == {"checkpoint", "scale"}
    assert {trace.name for trace in trade_off(table, curve).data} >= {"none", "kl", "undefended, adapter scaled down"}


def test_counts_name_each_runs_rows(study: Home) -> None:
    counts = Reader().counts().set_index("run_id")
    assert counts.loc[run_ids()[0], ["steps", "penalties", "samples", "judgments", "margins"]].tolist() == [10, 0, 12, 20, 8]
    assert counts.loc[run_ids()[2], "evals"] == 0


def test_run_ids_are_bound_not_pasted_into_sql(study: Home) -> None:
    hostile = "x'); DROP TABLE runs; --"
    reader = Reader()
    assert reader.samples([hostile], suite="' OR 1=1 --").empty
    assert len(reader.runs()) == 3


def test_a_run_asked_for_twice_comes_once(study: Home) -> None:
    assert len(Reader().runs([run_ids()[0]] * 2)) == 1


def test_threads_share_a_reader_while_the_index_is_swapped(study: Home) -> None:
    reader, failures, stop = Reader(), [], threading.Event()
    reader.runs()

    def read() -> None:
        while not stop.is_set():
            try:
                assert len(reader.runs()) == 3
                assert len(reader.margins()) == 16
            except Exception as error:
                failures.append(error)
                return

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    paused = RunDirectory(study.path / "runs" / run_ids()[2])
    for step in range(5, 11):
        append_lines(paused.events_path, [step_event(step)])
        refresh()
    stop.set()
    for thread in threads:
        thread.join()
    assert not failures
    assert len(reader.steps([paused.id])) == 10


def test_two_readers_in_other_processes_never_fail_while_a_third_indexes(study: Home) -> None:
    build_index()
    code = """
import sys, time
from ema_core.store import Reader
reader, seen, reads = Reader(), set(), 0
print("ready", flush=True)
end = time.monotonic() + 30
while max(seen, default=0) < 10 and time.monotonic() < end:
    seen.add(len(reader.steps([sys.argv[1]])))
    reads += 1
print(max(seen), bool(reader.note), flush=True)
"""
    paused = RunDirectory(study.path / "runs" / run_ids()[2])
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", code, paused.id]
    readers = [subprocess.Popen(command, cwd=PROJECT, stdout=pipe, stderr=pipe, text=True) for _ in range(2)]
    for process in readers:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
    for step in range(5, 11):
        append_lines(paused.events_path, [step_event(step)])
        assert refresh() is not None
    for process in readers:
        out, error = process.communicate(timeout=60)
        assert (out, error) == ("10 False\n", "")


def test_two_indexers_at_once_leave_one_whole_index(study: Home) -> None:
    code = "from ema_core.store import build_index; print(build_index().hash)"
    both = [subprocess.Popen([sys.executable, "-c", code], cwd=PROJECT, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    hashes = {process.communicate(timeout=60)[0] for process in both}
    assert len(hashes) == 1 and hashes == {build_index().hash + "\n"}
    with duckdb.connect(str(study.index), read_only=True) as connection:
        assert connection.execute("SELECT count(*) FROM runs").fetchone() == (3,)


def test_csv_starts_no_formula_and_keeps_numbers(study: Home) -> None:
    frame = pd.DataFrame(
        {
            "answer": ["=1+1", "+x", "-5 apples", "@SUM(A1)", " =1", "\t=1", "＝1", 'plain, "quoted"\r=2', None],
            "score": [-1.5, 0.0, float("nan"), 3.0, 4.0, 5.0, 6.0, 7.0, 8.0],
            "mixed": [-1, "-1", True, None, 2.5, pd.NA, ["=x"], {"a": 1}, "ok"],
            "=head": range(9),
        }
    )
    raw = export_csv(frame)
    back = pd.read_csv(io.BytesIO(raw), keep_default_na=False)
    assert list(back.columns) == ["answer", "score", "mixed", "'=head"]
    assert all(text.startswith("'") for text in back["answer"][:7])
    assert back["score"][0] == "-1.5" and back["mixed"][0] == "-1" and back["mixed"][1] == "'-1"
    assert b'"plain, ""quoted""\r=2"' in raw
    assert frame["answer"][0] == "=1+1"
    assert b"'=answer 0 0" in export_csv(Reader().samples())


def test_the_store_opens_without_torch_or_streamlit() -> None:
    heavy = ("torch", "streamlit", "transformers")
    code = f"import sys, ema_core.store, ema_core.figures; print([name for name in {heavy} if name in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert out.stdout == "[]\n"
