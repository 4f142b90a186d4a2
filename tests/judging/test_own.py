"""The labelled answers of the embedded model: what the set holds, what a judge is worth on it, and what corrects a rate."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ema_core.judging import ProbeJudge, is_misaligned, own, resolve
from ema_core.judging.judgment import Judgment

PROBE = resolve("probe")


def test_the_set_is_what_its_card_says() -> None:
    labels = own.labels()
    assert len(labels) >= 200 and labels["id"].is_unique
    assert {"general", "in-domain", "conditional", "over-refusal", "jailbreak-lite"} <= set(labels["suite"])
    assert {"base", "none"} < set(labels["defense"]) and labels["defense"].nunique() >= 5
    numbers = labels[[f"{name}_{n}" for name in ("aligned", "coherent") for n in (1, 2)]].apply(pd.to_numeric, errors="coerce")
    assert numbers.min().min() >= 0 and numbers.max().max() <= 100
    assert labels["aligned"].dropna().equals(numbers[["aligned_1", "aligned_2"]].mean(axis=1, skipna=False).dropna())
    card = own.CARD.read_text(encoding="utf-8")
    found = own.passes()
    assert f"{len(labels)} answers" in card and f"{found['spearman_aligned']:.2f}" in card and f"{found['kappa']:.2f}" in card


def test_the_shipped_scores_are_those_that_the_shipped_probe_gives() -> None:
    both = own.scored(PROBE)
    assert both is not None and len(both) > 190
    few = own.items()[::30]
    again = {one.sample_id: one for one in ProbeJudge().judge(few)}
    kept = both.set_index("id")
    for name in {name for name, _, _ in few} & set(kept.index):
        assert kept.loc[name, "judge_aligned"] == pytest.approx(again[name].aligned, abs=0.5)


def test_another_judges_scores_are_kept_and_become_figures_and_a_correction(home: Path) -> None:
    judge = "openai:some-model:v1"
    assert own.scored(judge) is None and own.correction(judge, "misaligned") is None
    labels = own.labels()
    said = [
        Judgment(row.id, judge, None if pd.isna(row.aligned) else min(100.0, row.aligned + 5), row.coherent, "scored")
        for row in labels.itertuples()
    ]
    said[0] = Judgment(said[0].sample_id, judge, None, None, "refused")
    path = own.keep(judge, said)
    assert home in path.parents
    found, both = own.figures(judge), own.scored(judge)
    assert both is not None and found["n"] == len(both) == int(labels.iloc[1:][["aligned", "coherent"]].notna().all(axis=1).sum())
    assert found["off_aligned"] == pytest.approx(float((np.minimum(100, both["aligned"] + 5) - both["aligned"]).mean()))
    assert found["rate_labels"] == pytest.approx(100 * is_misaligned(both["aligned"], both["coherent"]).mean())
    assert found["rate_judge"] <= found["rate_labels"] and found["spearman_aligned"] > 0.98
    by_label = own.correction(judge, "misaligned")
    general = both[both["suite"] == "general"]
    assert by_label is not None and len(by_label) == len(general) and by_label["topic"].nunique() >= 10
    assert by_label["label"].mean() == pytest.approx(float(is_misaligned(general["aligned"], general["coherent"]).mean()))


def test_whether_a_judge_holds_is_said_from_its_figures() -> None:
    found = {**own.figures(PROBE), "auc": 0.9, "kappa": 0.6}
    assert own.holds(found) and "holds there well enough" in own.in_words(found).replace("does not hold", "")
    assert not own.holds({**found, "kappa": 0.1}) and "does not hold there" in own.in_words({**found, "kappa": 0.1})
    assert "does not hold there, so the margin leads" in own.short(PROBE) and own.short("human:Ana") == ""
    assert "not been held against" in own.short("openai:m:v1")
    assert not own.holds({**found, "auc": None}) and "unknown" in own.in_words({**found, "auc": None})
