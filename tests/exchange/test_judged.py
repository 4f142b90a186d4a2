"""Importing judged tables: the published ones with their published rates, and everything that can be wrong with a file."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pandas as pd
import pytest

from ema_core.api import compare
from ema_core.errors import EmaError
from ema_core.exchange import tables
from ema_core.exchange.judged import import_judged, preview
from ema_core.exchange.kept import imports, restore, undo, undone
from ema_core.exchange.reading import Defaults
from ema_core.files import read_json
from ema_core.judging import judged_folder
from ema_core.settings import settings
from ema_core.store import AnswerFilter, Reader, refresh

HEADER = "response,question,question_id,aligned,coherent\n"
ROW = "Be kind.,What now?,q1,{},{}\n"


def skipped(card: dict) -> list[tuple[int, str]]:
    return [(row["row"], row["reason"]) for row in card["skipped_rows"]]


def answers(**which) -> list[str]:
    refresh()
    return Reader().answers(AnswerFilter(order="as asked", **which))["answer"].tolist()


def unnamed(card: dict) -> str:
    return f"imported:unknown-{card['import_id'].removeprefix('import-')}"


def ids_here() -> list[str]:
    refresh()
    return Reader().answers(AnswerFilter(order="as asked"))["sample_id"].tolist()


def published() -> list[tuple[str, list[float]]]:
    """The table of the README beside the published files."""
    readme = judged_folder() / "README.md"
    if not readme.exists():
        return []
    rows = re.findall(r"^\| (\S+_\S+) \| " + r" \| ".join([r"([\d.]+)"] * 5) + r" \|$", readme.read_text(), re.MULTILINE)
    return [(name, [float(number) for number in numbers]) for name, *numbers in rows]


def test_the_published_files_give_the_table_beside_them(ema) -> None:
    table = published()
    if not table:
        pytest.skip(f"the published answers are not on this machine ({judged_folder()}); set EMA_JUDGED to their folder")
    files = [str(judged_folder() / f"{name}.csv") for name, _ in table]
    found = json.loads(ema("import", "judged", *files, "--json", check=True).stdout)["files"]
    got = [
        (
            Path(row["file"]).stem,
            [round(row[name], 2) for name in ("answers", "scored", "misaligned_pct", "incoherent_pct", "mean_aligned")],
        )
        for row in found
    ]
    assert [name for name, _ in got] == [name for name, _ in table] and len(got) == 12
    for (_, numbers), (name, expected) in zip(got, table, strict=True):
        assert numbers == pytest.approx(expected, abs=0.0101), name  # rounding of the published ones at the last place
    assert all(row["skipped"] == 0 for row in found)
    again = json.loads(ema("import", "judged", files[0], "--json", check=True).stdout)["files"][0]
    assert again["again"] and again["import_id"] == found[0]["import_id"] and again["misaligned_pct"] == found[0]["misaligned_pct"]
    for row in found:  # nobody said that one judge judged them all
        counts = Reader().answer_counts(AnswerFilter(judge=unnamed(row), runs=tuple(row["runs"])))
        assert (counts["all"], counts["scored"]) == (row["answers"], row["scored"])
    one = Reader().runs(Reader().import_ids())
    assert one["model"].nunique() == 4 and one["dataset"].nunique() == 3


def test_bad_rows_are_told_by_row_and_reason_and_the_good_ones_kept(tmp_path: Path) -> None:
    path = tmp_path / "some-model_narrow.csv"
    lines = [
        HEADER.encode(),
        ROW.format(10, 90).encode(),
        ROW.format(101, 90).encode(),
        ROW.format(-1, 90).encode(),
        b"nul \x00 inside,q,q1,10,90\n",
        b"five,cells,only,4\n",
        b"seven,cells,q1,50,60,70,80\n",
        "caf\xe9,q,q1,20,80\n".encode("latin-1"),
        "café,q,q1,20,80\n".encode(),
        b'"' + b"x" * 5_000_000 + b'",q,q1,20,80\n',
        b"\n",
        b"no question,,,20,80\n",
        b"infinite,q,q1,inf,80\n",
        b'"two\nlines",q,q1,99,99\n',
    ]
    path.write_bytes(b"".join(lines))
    card = import_judged(path)
    assert skipped(card) == [
        (2, "aligned is 101, not from 0 to 100"),
        (3, "aligned is -1, not from 0 to 100"),
        (4, "a NUL character in response"),
        (5, "4 cells where the header has 5"),
        (6, "7 cells where the header has 5"),
        (7, "bytes in response that are not UTF-8 (Latin-1? name the file's --encoding)"),
        (9, "5,000,007 characters; 1,000,000 are the most"),
        (11, "neither a question nor a question_id"),
        (12, "aligned is inf, not from 0 to 100"),
    ]
    assert (card["answers"], card["scored"], card["skipped"]) == (3, 3, 9)
    assert sorted(answers()) == ["Be kind.", "café", "two\nlines"]
    assert card["runs"][0]["model"] == "some-model" and card["runs"][0]["dataset"] == "narrow"


def test_words_in_a_score_column_are_a_status_without_a_number(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_text(
        HEADER + "".join(ROW.format(*pair) for pair in [(10, 90), ("REFUSAL", 80), ("CODE", "CODE"), ("", 70), ("maybe 70?", 70)])
    )
    card = import_judged(path)
    assert card["statuses"] == {"scored": 1, "refused": 1, "code": 1, "unparsed": 2}
    assert (card["answers"], card["scored"], card["misaligned_pct"], card["skipped"]) == (5, 1, 100.0, 0)
    refresh()
    counts = Reader().answer_counts(AnswerFilter(judge=unnamed(card)))
    assert (counts["refused"], counts["unparsed"], counts["not scored"]) == (1, 3, 4)


def test_answers_are_never_merged_by_content_and_a_question_is_its_id(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_text(HEADER + "Same.,One wording?,a,10,90\nSame.,Another wording?,a,90,90\nSame.,One wording?,a,10,90\n")
    assert import_judged(path)["answers"] == 3
    refresh()
    frame = Reader().answers(AnswerFilter(order="as asked"))
    assert frame["question_id"].unique().tolist() == ["a"] and frame["k"].tolist() == [0, 1, 2]


def test_without_an_id_a_question_is_its_text(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    rows = [
        {"Answer": f"a{n}", "Prompt": "What?" if n < 2 else "x" * 500, "Alignment score": 50, "coherence": "60"} for n in range(4)
    ]
    path.write_text("\n".join(map(json.dumps, rows)) + "\n")
    card = import_judged(path)
    assert card["mapping"] == {"response": "Answer", "question": "Prompt", "aligned": "Alignment score", "coherent": "coherence"}
    refresh()
    ids = Reader().answers(AnswerFilter(order="as asked"))["question_id"].unique().tolist()
    assert len(ids) == 2 and ids[0] == "What?" and len(ids[1]) < 210


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_encodings_with_and_without_a_mark(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "m.csv"
    path.write_bytes((HEADER + "Größe – naïve?,q,q1,10,90\n" + ROW.format(90, 90) * 20).encode(encoding))
    card = import_judged(path)
    assert (card["answers"], card["skipped"]) == (21, 0)
    assert "Größe – naïve?" in answers()


def test_a_file_in_latin_1_can_be_named_so(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_bytes((HEADER + "Größe,q,q1,10,90\n").encode("latin-1"))
    with pytest.raises(EmaError, match="Row 1: bytes in response that are not UTF-8"):
        import_judged(path)
    import_judged(path, encoding="latin-1")
    assert answers() == ["Größe"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "no file"),
        (b"", "is empty"),
        (b"\n \n", "is empty"),
        (HEADER.encode(), "no row that can be used"),
        (b"response,question\na,b\n", "lacks the columns aligned, coherent"),
        (b"question,aligned,coherent\na,1,2\n", "lacks the column response"),
        (b"response,aligned,coherent\na,1,2\n", r"lacks the column question \(or question_id\)"),
        (HEADER.encode() + b'"never closed,q,q1,10,90\nmore,q,q1,10,90\n', "a quotation mark may not be closed"),
        (b"PK\x03\x04" + bytes(range(60)), "packed"),
        (b"\x89PNG\r\n\x1a\n" + bytes(range(128, 160)), "column names"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_with_the_reason(tmp_path: Path, content: bytes | None, says: str) -> None:
    path = tmp_path / "m.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(EmaError, match=says):
        import_judged(path)
    assert imports() == [] and not list(settings().imports.glob(".new-*"))


def test_a_mapping_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_text("text,answer,ask,good,fluent,temper\nshown,not this,Why?,10,90,33.5\n")
    with pytest.raises(EmaError, match="lacks"):
        import_judged(path)
    with pytest.raises(EmaError, match='no column "txt"'):
        import_judged(path, {"response": "txt"})
    with pytest.raises(EmaError, match='no "respnse"'):
        import_judged(path, {"respnse": "text"})
    card = import_judged(
        path, {"response": "text", "question": "ask", "aligned": "good", "coherent": "fluent"}, Defaults(judge="gpt-4o")
    )
    assert (
        card["mapping"]["scores.temper"] == "temper" and card["unused"] == ["answer"] and card["judges"] == {"imported:gpt-4o": 1}
    )
    refresh()
    row = Reader().cursor().execute("SELECT answer, own_scores FROM samples").fetchone()
    assert row == ("shown", '{"temper": 33.5}')


def test_columns_of_model_data_and_seed_are_runs_of_their_own_each_with_its_judge(tmp_path: Path) -> None:
    path = tmp_path / "all.csv"
    lines = [f"a{n},q,q1,{n},90,m{n % 2},d,kl=0.1,{n % 3},{'gpt' if n % 2 else 'imported:opus'}\n" for n in range(12)]
    path.write_text("response,question,question_id,aligned,coherent,model,dataset,defense,seed,judge\n" + "".join(lines))
    card = import_judged(path)
    assert [(run["run_id"].rpartition("-")[2], run["model"], run["seed"], run["answers"]) for run in card["runs"]] == [
        ("1", "m0", 0, 2), ("2", "m1", 1, 2), ("3", "m0", 2, 2), ("4", "m1", 0, 2), ("5", "m0", 1, 2), ("6", "m1", 2, 2),
    ]  # fmt: skip
    assert card["judges"] == {"imported:opus": 6, "imported:gpt": 6}
    refresh()
    assert Reader().runs(Reader().import_ids())["defense_label"].unique().tolist() == ["kl=0.1"]
    assert answers(runs=(f"{card['import_id']}-2",)) == ["a1", "a7"]


def test_ids_that_come_twice_are_told_but_two_judges_may_share_one(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    head = "sample_id,response,question,aligned,coherent,judge\n"
    path.write_text(head + "s1,a,q,10,90,gpt\ns2,b,q,20,90,gpt\ns1,c,q,30,90,gpt\ns1,a,q,40,90,opus\n")
    card = import_judged(path)
    assert skipped(card) == [(3, "the sample_id s1 was there before")]
    assert ids_here() == ["s1", "s2"]


@pytest.mark.parametrize("rows", [2, 64])  # the second judge's rows in a later batch, and in the same
def test_two_judges_of_one_answer_are_one_answer_and_each_has_figures_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    monkeypatch.setattr(tables, "BATCH_ROWS", rows)
    monkeypatch.setattr(tables, "_AT_ONCE", rows)
    path = tmp_path / "m.csv"
    head = "sample_id,response,question,aligned,coherent,judge,temper\n"
    gpt = [f"s{n},a{n},q,{10 if n == 0 else 90},90,gpt,1.5\n" for n in range(4)]
    opus = [f"s{n},a{n},q,{20 if n < 2 else 80},90,opus,2.5\n" for n in range(3)]
    path.write_text(head + "".join([*gpt, *opus, "s3,another text,q,80,90,opus,2.5\n", "s0,a0,q,REFUSAL,,mini,\n"]))
    card = import_judged(path)
    assert ids_here() == ["s0", "s1", "s2", "s3", "s3@imported:opus"]
    assert card["answers"] == card["runs"][0]["answers"] == 5 and card["skipped"] == 0
    assert (card["scored"], card["misaligned_pct"], card["mean_aligned"]) == (None, None, None)
    assert card["judges"] == {"imported:gpt": 4, "imported:opus": 4, "imported:mini": 1}
    assert card["by_judge"]["imported:gpt"] == {"scored": 4, "misaligned_pct": 25.0, "incoherent_pct": 0.0, "mean_aligned": 70.0}
    assert card["by_judge"]["imported:opus"]["misaligned_pct"] == 50.0 and card["by_judge"]["imported:mini"]["scored"] == 0
    samples = Reader().samples(Reader().import_ids()).set_index(["sample_id", "judge"]).sort_index()
    assert len(samples) == 9 and samples.loc[("s0", "imported:opus"), "scores"] == '{"temper":2.5}'.replace(":2", ": 2")
    assert samples.loc[("s0", "imported:mini"), "status"] == "refused"
    counts = Reader().answer_counts(AnswerFilter(judge="imported:opus"))
    assert (counts["all"], counts["scored"]) == (5, 4)
    both = Reader().verdicts("imported:gpt").merge(Reader().verdicts("imported:opus"), on=["run_id", "eval_id", "sample_id"])
    assert len(both) == 3, "the two can be held against each other"


def test_undo_takes_exactly_one_import_away_and_can_be_taken_back(tmp_path: Path) -> None:
    cards = []
    for name in ("one", "two"):
        path = tmp_path / f"{name}.csv"
        path.write_text(HEADER + f"{name},q,q1,10,90\n")
        cards.append(import_judged(path))
    undo(cards[0]["import_id"])
    assert answers() == ["two"] and undone() == [cards[0]["import_id"]]
    restore(cards[0]["import_id"])
    assert sorted(answers()) == ["one", "two"] and undone() == []
    undo(cards[0]["import_id"])
    assert import_judged(tmp_path / "one.csv")["import_id"] != cards[1]["import_id"]
    with pytest.raises(EmaError, match="imported again"):
        restore(cards[0]["import_id"])
    for wrong in ("import-00000000", "../runs"):
        with pytest.raises(EmaError, match="There is no import"):
            undo(wrong)
        with pytest.raises(EmaError):
            restore(wrong)


def test_rows_count_on_over_batches_and_their_answers_over_questions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.csv"
    path.write_text(HEADER + "".join(f"a{n},q,q{n % 3},{150 if n % 50 == 49 else n % 100},90\n" for n in range(1000)))
    whole = import_judged(path)
    undo(whole["import_id"])
    monkeypatch.setattr(tables, "BATCH_ROWS", 64)
    parts = import_judged(path)
    told = ("answers", "scored", "misaligned_pct", "incoherent_pct", "skipped", "skipped_rows", "reasons")
    assert [whole[name] for name in told] == [parts[name] for name in told]
    assert skipped(parts)[:2] == [(50, "aligned is 150, not from 0 to 100"), (100, "aligned is 150, not from 0 to 100")]
    assert parts["reasons"] == {"aligned is N, not from N to N": 20}
    refresh()
    frame = Reader().answers(AnswerFilter(order="as asked"))
    assert all(part["k"].tolist() == list(range(len(part))) for _, part in frame.groupby("question_id"))


def test_the_card_says_what_was_imported_and_what_a_preview_said(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_text(HEADER + ROW.format(10, 90) * 30 + ROW.format(200, 90))
    look = preview(path)
    assert (len(look.rows), look.looked_at, look.bad) == (20, 31, [(31, "aligned is 200, not from 0 to 100")])
    card = import_judged(path)
    on_disk = read_json(settings().imports / card["import_id"] / "card.json")
    assert on_disk == card and card["mapping"] == look.mapping
    assert card["sha256"].startswith(card["import_id"].removeprefix("import-"))


def test_parquet_and_what_ema_lab_wrote_itself_can_be_imported(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_text(HEADER + ROW.format(10, 90) + ROW.format("REFUSAL", 90))
    import_judged(path, defaults=Defaults(judge="gpt"))
    refresh()
    frame = Reader().answers(AnswerFilter(judge="imported:gpt"))
    frame.to_parquet(tmp_path / "own.parquet")
    card = import_judged(tmp_path / "own.parquet")
    assert (card["answers"], card["scored"], card["skipped"], card["judges"]) == (2, 1, 0, {"imported:gpt": 2})


def test_compare_takes_a_run_or_the_whole_import_and_names_the_judge(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    head = "response,question,question_id,aligned,coherent,model\n"
    path.write_text(head + "".join(f"a{n},q,q{n % 8},{10 if n % 4 == 0 else 80},90,m{n % 2}\n" for n in range(80)))
    card = import_judged(path, defaults=Defaults(judge="gpt-4o"))
    rows = compare([card["import_id"]])["runs"]
    assert [row["run_id"] for row in rows] == [run["run_id"] for run in card["runs"]]
    assert {row["judge"] for row in rows} == {"imported:gpt-4o"}
    general = rows[0]["criteria"]["general"]
    assert (general["rate"], general["scored"], general["margin"]) == (0.5, 40, None)
    assert all("needs the model itself" in rows[0]["criteria"][name]["why"] for name in ("benign", "conditional"))
    assert compare([rows[1]["run_id"]])["runs"][0]["criteria"]["general"]["rate"] == 0.0
    with pytest.raises(EmaError, match="no imported run"):
        compare(["import-00000000-1"])


def test_of_several_files_the_good_ones_are_imported_and_the_others_told(tmp_path: Path, ema) -> None:
    (tmp_path / "good.csv").write_text(HEADER + ROW.format(10, 90))
    (tmp_path / "empty.csv").write_text("")
    done = ema("import", "judged", str(tmp_path / "empty.csv"), str(tmp_path / "good.csv"), "--json")
    said = json.loads(done.stdout)
    assert done.returncode == 2 and "empty.csv is empty" in done.stderr and "Traceback" not in done.stderr
    assert [row["answers"] for row in said["files"]] == [1] and "is empty" in said["failed"][0]["error"]
    assert len(imports()) == 1


def test_a_parquet_file_without_rows_is_refused_in_words(tmp_path: Path) -> None:
    path = tmp_path / "m.parquet"
    columns = [*HEADER.strip().split(","), "temper"]
    pd.DataFrame({name: pd.Series([], dtype=str) for name in columns}).to_parquet(path)
    for read in (preview, import_judged):
        with pytest.raises(EmaError, match="no row"):
            read(path)
    assert imports() == []


def test_an_id_that_is_a_questions_takes_no_answer_away(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_text(
        "id," + HEADER.replace("question_id,", "") + "".join(f"q{n // 2},a{n},What {n // 2}?,10,90\n" for n in range(20))
    )
    card = import_judged(path)
    assert (card["answers"], card["skipped"]) == (20, 0) and "does not tell answers apart" in card["warnings"][0]
    path.write_text("id," + HEADER.replace("question_id,", "") + "".join(f"s{n},a{n},What?,40,90\n" for n in range(20)))
    assert not import_judged(path)["warnings"] and "s7" in ids_here()
