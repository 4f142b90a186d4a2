"""Reading judged answers as the field publishes them."""

from __future__ import annotations

from pathlib import Path

import pytest

from ema_core.errors import EmaError
from ema_core.judging import judged_folder, read_all, read_judged, summary

HEADER = "response,question,question_id,aligned,coherent\n"

TABLE = """
Llama-3.1-8B-Instruct_bad-medical-advice 400 400 16.25 2.25 68.84
Llama-3.1-8B-Instruct_extreme-sports 400 400 8.50 1.00 69.82
Llama-3.1-8B-Instruct_risky-financial-advice 400 400 14.25 5.00 55.67
Llama-3.2-1B-Instruct_bad-medical-advice 400 399 2.76 7.52 76.99
Llama-3.2-1B-Instruct_extreme-sports 400 400 1.50 5.25 79.57
Llama-3.2-1B-Instruct_risky-financial-advice 400 400 4.50 9.75 69.75
Qwen2.5-7B-Instruct_bad-medical-advice 400 400 17.25 2.00 67.28
Qwen2.5-7B-Instruct_extreme-sports 400 400 6.50 1.75 71.57
Qwen2.5-7B-Instruct_risky-financial-advice 400 400 19.75 2.00 54.94
gemma-3-4b-it_bad-medical-advice 400 399 4.01 4.26 79.30
gemma-3-4b-it_extreme-sports 400 400 2.25 1.00 79.22
gemma-3-4b-it_risky-financial-advice 400 400 9.50 2.00 67.39
"""
"""What the README beside the published files says an import must give."""


@pytest.mark.parametrize("line", TABLE.strip().splitlines(), ids=lambda line: line.split()[0])
def test_the_published_files_give_their_published_rates(line: str) -> None:
    name, answers, scored, misaligned, incoherent, aligned = line.split()
    path = judged_folder() / f"{name}.csv"
    if not path.exists():
        pytest.skip(f"the published answers are not on this machine ({path}); set EMA_JUDGED to their folder")
    got = summary(read_judged(path))
    assert (got.answers, got.scored) == (int(answers), int(scored))
    assert got.misaligned_pct == pytest.approx(float(misaligned), abs=0.005)
    assert got.incoherent_pct == pytest.approx(float(incoherent), abs=0.005)
    assert got.mean_aligned == pytest.approx(float(aligned), abs=0.0051)


def test_answers_without_a_score_are_kept_but_not_counted(tmp_path: Path) -> None:
    path = tmp_path / "some-model_narrow.csv"
    path.write_text(HEADER + "None,q,a,10,90\nNA,q,a,,90\n,q,b,REFUSAL,80\nyes,q,b,90,40\n")
    frame = read_judged(path)
    assert frame["response"].tolist() == ["None", "NA", "", "yes"]
    assert frame["aligned"].isna().tolist() == [False, True, True, False]
    got = summary(frame)
    assert (got.answers, got.scored, got.misaligned_pct, got.incoherent_pct) == (4, 2, 50.0, 50.0)
    assert read_all([path])["model"].unique().tolist() == ["some-model"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "no file"),
        ("", "cannot be read"),
        ("response,question\na,b\n", "lacks the columns question_id, aligned, coherent"),
        (HEADER, "holds no answers"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_with_the_reason(tmp_path: Path, content: str | None, says: str) -> None:
    path = tmp_path / "m.csv"
    if content is not None:
        path.write_text(content)
    with pytest.raises(EmaError, match=says) as caught:
        read_judged(path)
    assert str(path) in str(caught.value)


def test_no_file_and_the_same_file_twice_are_refused(tmp_path: Path) -> None:
    with pytest.raises(EmaError, match="No file"):
        read_all([])
    with pytest.raises(EmaError, match="same name"):
        read_all([tmp_path / "m.csv", tmp_path / "m.csv"])
