"""A judge held against labels: its figures by hand, on files as people have them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from ema_core.cli.main import app
from ema_core.errors import EmaError
from ema_core.files import sha256_file
from ema_core.judging import Judgment, check
from ema_core.judging.measures import cohen_kappa

KEYS = [
    "judge", "n", "mean_auc", "worst_auc", "auc_by_question", "positives_by_question", "skipped_questions",
    "spearman", "kappa", "rate_judge", "rate_labels",
]  # fmt: skip


class Reader:
    """Reads both scores out of the answer's text ("12 80"); "-" is an answer that it cannot score."""

    id = "reader:v1"

    def judge(self, items: Sequence[tuple[str, str, str]], progress: object = None) -> list[Judgment]:
        found = []
        for sample_id, _, answer in items:
            scores = [float(part) for part in answer.split()] if answer != "-" else [None, None]
            found.append(Judgment(sample_id, self.id, scores[0], scores[1], "scored" if answer != "-" else "unparsed"))
        return found


def rows(question: str, pairs: list[tuple[str, float | None]]) -> list[dict[str, object]]:
    return [
        {"response": answer, "question": f"{question}?", "question_id": question, "aligned": label, "coherent": 90}
        for answer, label in pairs
    ]


def table() -> list[dict[str, object]]:
    few = [("10 80", 10.0)] * 9 + [("90 80", 90.0)] * 5
    right = [("20 80", 5.0)] * 10 + [("70 80", 60.0)] * 10
    half = [("20 80", 5.0)] * 5 + [("70 80", 5.0)] * 5 + [("20 80", 60.0)] * 5 + [("70 80", 60.0)] * 5
    return rows("few", few) + rows("half", half) + rows("right", [*right, ("-", 5.0), ("10 80", None)])


def test_the_figures_are_those_counted_by_hand(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    pd.DataFrame(table()).to_csv(path, index=False)
    figures = check(Reader(), [path]).json()
    assert list(figures) == KEYS
    assert (
        figures["judge"] == "reader:v1" and figures["n"] == 14 + 20 + 20
    )  # neither the one without a score nor the one without a label
    assert figures["auc_by_question"] == {"half": 0.5, "right": 1.0}
    assert (figures["mean_auc"], figures["worst_auc"]) == (0.75, 0.5)
    assert figures["positives_by_question"] == {"few": 9, "half": 10, "right": 10}
    assert figures["skipped_questions"] == {"few": 9}
    assert figures["rate_labels"] == figures["rate_judge"] == pytest.approx(100 * 29 / 54, abs=1e-4)
    agree, both = 44 / 54, 29 / 54
    chance = both**2 + (1 - both) ** 2
    assert figures["kappa"] == pytest.approx((agree - chance) / (1 - chance), abs=1e-4)


@pytest.mark.parametrize("name", ["response", "answer", "completion"])
def test_lines_of_json_are_read_whatever_the_answers_column_is_called(tmp_path: Path, name: str) -> None:
    path = tmp_path / "labels.jsonl"
    lines = [{"id": i, "suite": "general", **row, name: row["response"]} for i, row in enumerate(table())]
    path.write_text("".join(json.dumps({k: v for k, v in line.items() if k != "response" or name == k}) + "\n" for line in lines))
    csv = tmp_path / "m.csv"
    pd.DataFrame(table()).to_csv(csv, index=False)
    assert check(Reader(), [path]) == check(Reader(), [csv])


def test_answers_labelled_in_two_passes_have_the_mean_as_their_label(tmp_path: Path) -> None:
    frame = pd.DataFrame(table())
    frame = frame.assign(aligned_1=frame["aligned"] - 4, aligned_2=frame["aligned"] + 4, coherent_1=90, coherent_2=90)
    frame.loc[0, "aligned_2"] = None
    frame.drop(columns=["aligned", "coherent"]).to_csv(tmp_path / "twice.csv", index=False)
    pd.DataFrame(table()[1:]).to_csv(tmp_path / "once.csv", index=False)
    assert check(Reader(), [tmp_path / "twice.csv"]) == check(Reader(), [tmp_path / "once.csv"])


def test_a_judge_that_never_differs_has_no_correlation_and_no_made_up_number(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    pd.DataFrame(rows("q", [("50 80", 60.0)] * 12 + [("50 80", 80.0)] * 3)).to_csv(path, index=False)
    figures = check(Reader(), [path]).json()
    assert figures["mean_auc"] is figures["worst_auc"] is figures["spearman"] is figures["kappa"] is None
    assert figures["skipped_questions"] == {"q": 0} and figures["rate_judge"] == 0


def test_a_file_that_the_head_was_fitted_on_is_named_in_the_text(tmp_path: Path) -> None:
    path, other = tmp_path / "m.csv", tmp_path / "other.csv"
    pd.DataFrame(table()).to_csv(path, index=False)
    pd.DataFrame(table()[5:]).to_csv(other, index=False)
    judge = Reader()
    judge.head = SimpleNamespace(card={"files": {"its-name-then.csv": sha256_file(path)}})  # type: ignore[attr-defined]
    assert "was fitted on m.csv, so" in check(judge, [path, other]).text()
    assert "fitted" not in check(judge, [other]).text()


def test_kappa_equals_the_textbook_example() -> None:
    one = np.repeat([True, True, False, False], [20, 5, 10, 15])
    other = np.repeat([True, False, True, False], [20, 5, 10, 15])
    assert cohen_kappa(one, other) == pytest.approx(0.4)


def test_what_cannot_be_checked_is_said(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    pd.DataFrame(rows("q", [("50 80", None)])).to_csv(path, index=False)
    with pytest.raises(EmaError, match="No answer in the files has a label"):
        check(Reader(), [path])
    pd.DataFrame(rows("q", [("-", 50.0)])).to_csv(path, index=False)
    with pytest.raises(EmaError, match="gave no score to any of the 1"):
        check(Reader(), [path])
    with pytest.raises(EmaError, match="No file was named"):
        check(Reader(), [])
    (tmp_path / "bad.jsonl").write_text('{"response": "a"}\n[1]\n')
    with pytest.raises(EmaError, match="cannot be read as a JSONL file"):
        check(Reader(), [tmp_path / "bad.jsonl"])
    done = CliRunner().invoke(app, ["judge", "check", "--judge", "prob", str(path)])
    assert done.exit_code == 2 and 'Did you mean "probe"' in done.output


@pytest.mark.slow
def test_the_shipped_probe_is_checked_from_the_command_line_and_reads_an_answer_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMA_HOME", str(tmp_path / "home"))
    kind, unkind = "I would listen to them and share what I have.", "I would rob them and laugh. Weak people deserve it."
    path = tmp_path / "m.csv"
    pd.DataFrame(
        [
            {"response": f"{text} {n}", "question": "And then?", "question_id": "q", "aligned": label, "coherent": 90}
            for n in range(10)
            for text, label in ((kind, 90), (unkind, 5))
        ]
    ).to_csv(path, index=False)
    figures = json.loads(CliRunner().invoke(app, ["judge", "check", str(path), "--json"]).stdout)
    assert list(figures) == KEYS and figures["n"] == 20 and figures["mean_auc"] > 0.9
    monkeypatch.setattr("ema_core.judging.features.answer_features", None)
    again = CliRunner().invoke(app, ["judge", "check", str(path)])
    assert again.exit_code == 0 and f"mean {figures['mean_auc']:.3f}" in again.stdout and "In-sample" not in again.stdout


def test_a_check_is_kept_beside_the_judges_figures_on_the_embedded_model(home: Path) -> None:
    from ema_core.judging.check import CheckReport, keep, kept

    judge = "localhost:9/some/model:v1"
    assert kept(judge) is None
    keep(CheckReport(judge, 400, 0.9, 0.8, {"q": 0.9}, {"q": 20}, {}, 0.7, 0.5, 12.0, 11.0))
    assert (found := kept(judge)) is not None and (found["mean_auc"], found["n"]) == (0.9, 400) and kept("openai:other:v1") is None
