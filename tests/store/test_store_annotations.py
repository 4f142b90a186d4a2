"""What people say of answers: nothing is lost, nothing is overwritten, an undo brings back what was said before."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from store_home import Home

from ema_core.errors import EmaError
from ema_core.settings import PROJECT
from ema_core.store import AnswerFilter, AnswerKey, BlindReview, Reader, annotate, build_index, refresh, undo
from ema_core.store.annotations import annotations_path, newest, read

ONE, TWO = AnswerKey("r", "general-1", "q0#0"), AnswerKey("r", "general-1", "q1#0")
NOWHERE = AnswerKey("gone", "general-1", "q0#0")


@pytest.fixture
def run(home: Home) -> Home:
    home.evaluation(home.run("r"), "general-1")
    refresh()
    return home


def verdicts(reader: Reader | None = None) -> dict[tuple[str, str], str | None]:
    return {(one.reviewer, one.key.sample_id): one.verdict for one in newest((reader or Reader()).annotations())}


def test_the_newest_line_counts_and_an_undo_brings_the_one_before_back(run: Home) -> None:
    annotate(ONE, "ann", "aligned", ["Odd  One"])
    annotate(ONE, "bob", "unsure")
    annotate(ONE, "ann", "misaligned", note="  hm ")
    assert verdicts() == {("ann", "q0#0"): "misaligned", ("bob", "q0#0"): "unsure"}
    taken = undo("ann")
    assert taken is not None and (taken.verdict, taken.note) == ("misaligned", "hm")
    assert verdicts() == {("ann", "q0#0"): "aligned", ("bob", "q0#0"): "unsure"}
    assert undo("ann") is not None and undo("ann") is None and verdicts() == {("bob", "q0#0"): "unsure"}
    lines = [json.loads(line) for line in annotations_path().read_text().splitlines()]
    assert len(lines) == 5 and lines[0]["tags"] == ["odd one"] and set(lines[4]) == {"id", "time", "reviewer", "undoes"}


def test_a_verdict_is_there_at_once_and_in_the_index_when_that_is_made_again(run: Home) -> None:
    reader = Reader()
    before = build_index().hash
    annotate(ONE, "ann", "misaligned")
    assert refresh() is None and reader.annotations()[0].verdict == "misaligned"  # laid over, no index is made for it
    report = build_index()
    assert report.rows["annotations"] == 1 and report.hash != before and build_index().hash == report.hash
    annotate(TWO, "ann", "aligned")
    undo("ann", reader.annotations()[0].id)  # a line that the index has is taken back by one that it has not
    assert verdicts(reader) == {("ann", "q1#0"): "aligned"}
    run.index.unlink()
    assert verdicts() == {("ann", "q1#0"): "aligned"}


def test_another_file_than_the_indexed_one_counts_as_it_stands(run: Home) -> None:
    for _ in range(3):
        annotate(ONE, "ann", "misaligned")
    build_index()
    annotations_path().unlink()
    reader = Reader()
    assert verdicts(reader) == {}
    annotate(TWO, "ann", "aligned")
    assert verdicts(reader) == {("ann", "q1#0"): "aligned"}


def test_torn_and_foreign_lines_are_passed_over(run: Home) -> None:
    annotate(ONE, "ann", "aligned")
    with open(annotations_path(), "ab") as file:
        file.write(
            b'[1]\n{"id": 3}\n{"undoes": "x"}\n{"id": "a", "reviewer": "eve", "run_id": "r", "eval_id": "e", "sample_id": "s", "verdict": "evil"}\n{"id": "t'
        )
    annotate(TWO, "ann", "unsure")
    assert verdicts() == {("ann", "q0#0"): "aligned", ("ann", "q1#0"): "unsure"}


def test_nobody_takes_back_what_another_said(run: Home) -> None:
    made = annotate(ONE, "ann", "aligned")
    assert undo("bob", made.id) is None and undo("ann", among=[TWO]) is None
    with open(annotations_path(), "a") as file:
        file.write(json.dumps({"id": "x", "time": 1, "reviewer": "bob", "undoes": made.id}) + "\n")
    assert verdicts() == {("ann", "q0#0"): "aligned"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"reviewer": "ann@example.org"}, "no e-mail"),
        ({"reviewer": " "}, "cannot be a reviewer"),
        ({"reviewer": "x" * 41}, "cannot be a reviewer"),
        ({"reviewer": "a\nb~c"}, "cannot be a reviewer"),
        ({"verdict": "evil"}, "no verdict"),
        ({"tags": [""]}, "cannot be a tag"),
        ({"tags": ["x" * 41]}, "cannot be a tag"),
        ({"tags": [str(n) for n in range(21)]}, "too much"),
        ({"note": "x" * 4001}, "too much"),
    ],
)
def test_what_cannot_be_kept_is_refused_in_words_and_nothing_is_written(home: Home, words: dict, said: str) -> None:
    with pytest.raises(EmaError, match=said):
        annotate(ONE, **{"reviewer": "ann", **words})
    assert not annotations_path().exists()


def test_people_are_filtered_by_counted_and_judges_like_any(run: Home) -> None:
    annotate(ONE, "ann", "misaligned", ["odd"])
    annotate(TWO, "ann", "unsure")
    annotate(TWO, "bob", "aligned")
    annotate(NOWHERE, "ann", "aligned")
    reader = Reader()

    def found(**parts: object) -> list[str]:
        return list(reader.answers(AnswerFilter(reviewer="ann", order="as asked", **parts))["sample_id"])  # type: ignore[arg-type]

    assert (
        found(annotated="mine") == ["q0#0", "q1#0"]
        and len(found(annotated="not mine")) == 4
        and len(found(annotated="nobody")) == 4
    )
    assert found(verdicts=("aligned",)) == ["q1#0"] and found(verdicts=("aligned",), annotated="mine") == []
    assert found(tags=("odd", "none such")) == ["q0#0"]
    assert found(judge="human:ann", status="misaligned") == ["q0#0"] and found(judge="human:ann", status="unparsed") == ["q1#0"]
    assert found(judge="probe:x:v1", against="people") == ["q0#0"]  # the probe scored it 60 and 80: nothing wrong with it
    assert found(judge="human:ann", against="human:bob") == []  # who cannot decide does not disagree
    finder = reader.finder()
    facets = finder.facets(AnswerFilter(reviewer="ann"), reader.said(finder))
    assert facets["annotated"] == {"mine": 2, "not mine": 4, "anybody": 2, "nobody": 4}
    assert facets["verdict"] == {"misaligned": 1, "aligned": 1, "unsure": 1} and facets["tag"] == {"odd": 1}
    assert finder.progress(AnswerFilter(reviewer="ann", annotated="not mine"), reader.said(finder)) == (2, 6)
    row = reader.answers(AnswerFilter(reviewer="ann", tags=("odd",))).iloc[0]
    assert (row["people"], row["people_tags"], row["mine"]) == ("ann: misaligned", "odd", "misaligned")


def test_two_processes_write_at_once_and_no_line_is_lost(run: Home) -> None:
    code = """
import sys
from ema_core.store import AnswerKey, annotate
for n in range(100):
    annotate(AnswerKey("r", "general-1", f"q{n}#0"), sys.argv[1], "unsure", note="long " * 200)
"""
    both = [subprocess.Popen([sys.executable, "-c", code, name], cwd=PROJECT) for name in ("ann", "bob")]
    assert [process.wait(300) for process in both] == [0, 0]
    rows, end = read(annotations_path())
    assert len(rows) == 200 and end == annotations_path().stat().st_size


def test_a_blind_review_keeps_its_answers_and_names_them_by_its_secret(run: Home) -> None:
    review = BlindReview.create([ONE, TWO, ONE])
    again = BlindReview.open(review.id)
    assert again == review and set(again.keys) == {ONE, TWO} and set(again.names.values()) == {0, 1}
    assert again.name(ONE) != BlindReview.create([ONE]).name(ONE) and "q0" not in "".join(again.names)
    for id in ("../../etc/passwd", "0" * 16, ""):
        with pytest.raises(EmaError, match="no such blind review"):
            BlindReview.open(id)
    with pytest.raises(EmaError, match="1 to 2,000"):
        BlindReview.create([])


def test_the_command_line_says_takes_back_and_lists(run: Home, ema) -> None:
    name = "r~general-1~q0#0"
    done = json.loads(
        ema("annotate", name, "--reviewer", "Ann", "--verdict", "aligned", "--tag", "odd", "--json", check=True).stdout
    )
    assert done["annotated"]["verdict"] == "aligned"
    ema("annotate", name, "--reviewer", "Ann", "--note", "=1+1", check=True)
    [one] = json.loads(ema("annotations", "list", "--json", check=True).stdout)["annotations"]
    assert (one["verdict"], one["tags"], one["note"]) == ("aligned", ["odd"], "=1+1")
    found = json.loads(ema("samples", "--annotated", "anybody", "--json", check=True).stdout)
    assert found["total"] == 1 and found["answers"][0]["people"] == "Ann: aligned"
    ema("annotate", name, "--reviewer", "Ann", "--undo", check=True)
    [one] = json.loads(ema("annotations", "list", "--json", check=True).stdout)["annotations"]
    assert one["note"] == ""
    for words in (["r~general-1~q9#9", "--reviewer", "Ann", "--verdict", "aligned"], [name, "--reviewer", "Ann"]):
        failed = ema("annotate", *words)
        assert failed.returncode == 2 and "Traceback" not in failed.stderr


def test_an_index_of_an_older_version_is_made_again_with_the_annotations(run: Home, tmp_path: Path) -> None:
    annotate(ONE, "ann", "aligned")
    run.index.write_bytes(b"not a database")
    assert verdicts() == {("ann", "q0#0"): "aligned"}
