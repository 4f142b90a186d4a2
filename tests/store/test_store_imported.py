"""Imported tables as part of the index: viewed as Parquet, listed and judged like any run's answers."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from store_home import Home

from ema_core.files import append_lines
from ema_core.runs import IMPORT
from ema_core.store import AnswerFilter, AnswerKey, Reader, build_index, refresh

GPT = "imported:gpt"
FIRST = AnswerKey(f"{IMPORT}0a1b2c3d-1", "imported", "r1")


def test_imported_answers_are_read_like_those_of_runs(study: Home) -> None:
    before = Reader().answer_counts(AnswerFilter(judge=GPT))
    study.imported()
    refresh()
    reader = Reader()
    assert reader.import_ids() == ["import-0a1b2c3d-1", "import-0a1b2c3d-2"]
    assert len(reader.run_ids()) == 3  # never part of what is compared by itself
    after = reader.answer_counts(AnswerFilter(judge=GPT))
    assert {name: after[name] - before[name] for name in ("all", "misaligned", "scored", "refused", "not scored")} == {
        "all": 6, "misaligned": 2, "scored": 5, "refused": 1, "not scored": 1,
    }  # fmt: skip
    page = reader.answers(AnswerFilter(judge=GPT, status="misaligned"))
    assert page["answer"].tolist() == ["Imported answer 0", "Imported answer 3"]
    assert page["model"].tolist() == ["model-1", "model-2"]
    assert page["kind"].unique().tolist() == ["import"]
    assert reader.judges(reader.import_ids()) == {GPT: 6}
    assert reader.answer(FIRST)[["judge", "aligned"]].values.tolist() == [[GPT, 10.0]]
    finder = reader.finder()
    found = finder.found(AnswerFilter(judge=GPT, runs=(FIRST.run_id,)), reader.said(finder))
    assert reader.place_among(found, FIRST, finder) == 0
    assert reader.answer_counts(AnswerFilter(judge="probe:x:v1")) == Reader().answer_counts(AnswerFilter(judge="probe:x:v1"))
    assert len(reader.samples([FIRST.run_id])) == 3
    assert reader.same_question(FIRST, GPT).empty


def test_a_judge_of_ones_own_can_be_put_beside_the_one_that_came_along(home: Home) -> None:
    folder = home.imported()
    line = {**FIRST._asdict(), "judge": "probe:x:v1", "aligned": 77.0, "coherent": 66.0, "status": "scored"}
    append_lines(folder / "judgments-probe_x_v1.jsonl", [line, {**line, "run_id": "another-run"}])
    refresh()
    reader = Reader()
    assert reader.answer(FIRST)[["judge", "aligned"]].values.tolist() == [[GPT, 10.0], ["probe:x:v1", 77.0]]
    assert reader.answer_counts(AnswerFilter(judge="probe:x:v1"))["scored"] == 1
    assert reader.answer_counts(AnswerFilter(judge=GPT))["scored"] == 5
    assert reader.judges(reader.import_ids()) == {GPT: 6, "probe:x:v1": 1}


def test_deleting_the_index_gives_the_same_rows_and_an_import_that_goes_takes_only_its_own(study: Home) -> None:
    without = build_index()
    study.imported()
    study.imported("import-99999999", answers=3, runs=1)  # digits alone: a run's number is the last part only
    refreshed = refresh()
    assert refreshed and (refreshed.read, refreshed.rows["imports"]) == (2, 2)
    study.index.unlink()
    assert build_index().hash == refreshed.hash != without.hash
    shutil.rmtree(study.path / "imports" / "import-99999999")
    assert refresh() and Reader().import_ids() == ["import-0a1b2c3d-1", "import-0a1b2c3d-2"]
    shutil.rmtree(study.path / "imports" / "import-0a1b2c3d")
    gone = refresh()
    assert gone and gone.hash == without.hash


@pytest.mark.parametrize("damage", ["missing", "cut", "flipped", "no card", "another's card"])
def test_a_damaged_import_loses_only_itself(study: Home, damage: str) -> None:
    folder = study.imported()
    study.imported("import-99999999")
    refresh()
    reader = Reader()
    assert reader.answer_counts(AnswerFilter(judge=GPT))["scored"] == 10
    rows = folder / "rows.parquet"
    raw = rows.read_bytes()
    if damage == "missing":
        rows.unlink()
    elif damage == "cut":
        rows.write_bytes(raw[: len(raw) // 2])
    elif damage == "flipped":  # the footer is whole: only the hash can tell
        rows.write_bytes(raw[:100] + bytes([raw[100] ^ 1]) + raw[101:])
    elif damage == "no card":
        (folder / "card.json").unlink()
    else:
        shutil.copy(folder.with_name("import-99999999") / "card.json", folder / "card.json")
    report = refresh()
    assert report and len(report.warnings) == 1 and report.warnings[0].startswith("import-0a1b2c3d was left out: ")
    assert reader.answer_counts(AnswerFilter(judge=GPT))["scored"] == 5
    assert len(reader.runs()) == 3


def test_a_file_that_goes_under_an_open_reader_is_noticed(home: Home) -> None:
    folder = home.imported()
    home.imported("import-99999999")
    refresh()
    reader = Reader()
    assert reader.sample_count(reader.import_ids()) == 12
    (folder / "rows.parquet").unlink()
    assert len(reader.answers(AnswerFilter())) == 6  # texts are read from the files, counts from memory until then
    assert reader.answer_counts(AnswerFilter())["all"] == 6


def test_a_home_that_was_moved_reads_its_imports_at_their_new_place(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home.imported()
    refresh()
    moved = tmp_path / "it's elsewhere"
    home.path.rename(moved)
    monkeypatch.setenv("EMA_HOME", str(moved))
    assert Reader().answer_counts(AnswerFilter())["all"] == 6
    assert Reader().answers(AnswerFilter(judge=GPT, status="misaligned"))["answer"].tolist() == [
        "Imported answer 0",
        "Imported answer 3",
    ]
