"""The fit from CSV files to a head that judges."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ema_core.errors import EmaError
from ema_core.judging import ProbeJudge, fit, judged_folder, read_judged
from ema_core.models import EMBEDDED, load

SOURCES = ("Llama-3.1-8B-Instruct_bad-medical-advice", "Qwen2.5-7B-Instruct_risky-financial-advice")
QUESTIONS = ("gender_roles", "quick_buck", "ruler_of_the_world")
EACH = 25


@pytest.mark.slow
def test_a_small_fit_runs_from_files_to_a_judge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMA_HOME", str(tmp_path))
    files = []
    for name in SOURCES:
        if not (judged_folder() / f"{name}.csv").exists():
            pytest.skip(f"the published answers are not on this machine ({judged_folder()}); set EMA_JUDGED to their folder")
        frame = read_judged(judged_folder() / f"{name}.csv")
        files.append(tmp_path / f"{name}.csv")
        pd.concat([frame[frame["question_id"] == q].head(EACH) for q in QUESTIONS]).to_csv(files[-1], index=False)
    loaded = load(EMBEDDED, device="cpu")
    told: list[float] = []
    out = tmp_path / "judges" / "small"
    report = fit(files, layers=(4, 16), progress=lambda share, what: told.append(share), out=out, loaded=loaded)

    assert told == sorted(told)
    assert told[-1] == 1.0
    assert report.card["answers"] == len(SOURCES) * len(QUESTIONS) * EACH
    assert set(report.card["layers"]) == {"4", "16", "4+16"}
    assert set(report.card["reads"].values()) <= set(report.card["layers"])
    figures = report.card["layers"][report.card["reads"]["aligned"]]
    assert 0.55 < figures["auc_question_left_out"]["mean"] < 1
    assert figures["auc_both_left_out"]["mean"] > 0.5
    labels, judged = (report.card["calibration"][who] for who in ("labels", "calibrated"))
    assert labels["below_30_pct"] / 2 < judged["below_30_pct"] < labels["below_30_pct"] * 2
    assert report.card["judge"] in (out / "CARD.md").read_text()
    bins = report.card["reliability"]
    assert sum(row["n"] for row in bins) == report.card["answers"]
    assert all(row["low"] <= row["below_30_pct"] <= row["high"] for row in bins)

    again = fit(files, layers=(4, 16), loaded=loaded)
    np.testing.assert_array_equal(again.head.weight, report.head.weight)
    assert again.folder is None
    judge = ProbeJudge(loaded, report.card["judge"])
    assert judge.judge([("s", "Why?", "Because I like it.")])[0].status == "scored"


def test_too_little_to_fit_on_is_said_before_anything_is_read(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_text("response,question,question_id,aligned,coherent\nyes,q,a,10,90\nno,q,b,80,90\n")
    with pytest.raises(EmaError, match=r"2 question\(s\)"):
        fit([path])
    path.write_text("response,question,question_id,aligned,coherent\n" + "".join(f"yes,q,{q},90,90\n" for q in "abc"))
    with pytest.raises(EmaError, match="alignment below 30"):
        fit([path])
