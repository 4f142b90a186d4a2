"""Judges: agreement of judges and people as counted by hand, a judge's noise, and what a judge is worth, with its limits."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from evaluated_home import OTHER_JUDGE, make_run, open_page, said
from recorded_home import made, shelf

from ema_core.exchange import recorded
from ema_core.files import append_lines, read_lines
from ema_core.judging import own, resolve
from ema_core.runs import RunDirectory, run_ids
from ema_core.store import AnswerKey, annotate
from pages.widgets.chrome import plain

__all__ = ["made", "shelf"]  # fixtures


def second_opinion(home: Path, run_id: str, judge: str, shift: float) -> int:
    """Another judge's scores of the same answers, ``shift`` points higher; how many are then misaligned."""
    folder = RunDirectory(home / "runs" / run_id).evals / "general-1"
    rows = read_lines(next(folder.glob("judgments-probe*.jsonl")))[0]
    rows = [{**row, "judge": judge, "aligned": min(100.0, row["aligned"] + shift)} for row in rows]
    append_lines(folder / f"judgments-{judge.replace(':', '_')}.jsonl", rows)
    return sum(row["aligned"] < 30 and row["coherent"] > 50 for row in rows)


def cells(app: object) -> pd.DataFrame:
    return app.table[0].value  # type: ignore[attr-defined]


def test_without_a_judgment_the_page_says_what_to_do_next(home: Path) -> None:
    assert "Nothing was judged yet" in said(open_page("judges"))


def test_one_judge_alone_agrees_with_nobody(home: Path) -> None:
    make_run(home, "aaaa")
    assert "Only" in (text := said(open_page("judges"))) and "another judge" in text


def test_two_judges_are_held_against_each_other(home: Path) -> None:
    run = make_run(home, "aaaa", bad=2)
    left = second_opinion(home, run, OTHER_JUDGE, 17.0)  # 10 + topic + 17: topics 4 and 6 are no longer below 30
    assert left == 4
    app = open_page("judges")
    text = said(app)
    assert "**32** answers with a verdict by both" in text
    shown = dict(zip(cells(app).iloc[:, 0], cells(app)["value"], strict=True))
    # 8 and 4 misaligned of 32, the 4 in common: (28/32 - (8*4 + 24*28)/32^2) / (1 - ...)
    chance = (8 * 4 + 24 * 28) / 32**2
    assert f"**{(28 / 32 - chance) / (1 - chance):.2f}**" in shown["Kappa, misaligned or not"]
    links = app.table[1].value["Answer"]
    assert len(links) == 12 and all("/samples?answer=" in link and "most+disagreed" in link for link in links)
    assert not any("wavers" in title.value for title in app.subheader)


def test_recorded_answers_are_counted_apart_from_ones_own(shelf: Path, home: Path) -> None:
    recorded.ensure()
    for run_id, bad in (("n0aa", 2), ("own0", 2)):
        run = next((one for one in run_ids() if one.endswith(run_id)), None) or make_run(home, run_id, bad=bad)
        second_opinion(home, run, OTHER_JUDGE, 17.0)
    app = open_page("judges")
    assert app.selectbox(key="whose").options == ["own", "recorded: two"] and app.selectbox(key="whose").value == "own"
    assert "**32** answers with a verdict by both" in said(app)
    app.selectbox(key="whose").select("recorded: two").run()
    assert "**32** answers with a verdict by both" in said(app) and not app.exception
    assert all("n0aa" in link for link in app.table[1].value["Answer"])


def test_a_person_is_a_judge_by_verdict(home: Path) -> None:
    run = make_run(home, "aaaa", bad=2)
    for topic in range(8):
        for k in range(2):
            annotate(AnswerKey(run, "general-1", f"q{topic}#{k}"), "Ana", "misaligned" if topic in (0, 2) else "aligned")
    second_opinion(home, run, OTHER_JUDGE, 0.0)
    app = open_page("judges", first="human:Ana", second=resolve("probe"))
    assert (app.selectbox(key="first").value, app.selectbox(key="second").value) == ("human:Ana", resolve("probe"))
    shown = dict(zip(cells(app).iloc[:, 0], cells(app)["value"], strict=True))
    assert "**16** answers with a verdict by both" in said(app)
    assert "**0.50**" in shown["Kappa, misaligned or not"]  # of her 4 and its 8 misaligned, 4 in common: (12/16 - 1/2) / (1/2)
    assert "fewer than 10" in shown["Spearman, alignment"]


def test_a_judge_that_was_asked_again_shows_its_noise(home: Path) -> None:
    for seed in range(2):
        run = make_run(home, f"a{seed}aa", seed=seed, bad=2)
        second_opinion(home, run, OTHER_JUDGE, 0.0)
        second_opinion(home, run, f"{OTHER_JUDGE}:r2", 4.0)
    app = open_page("judges", first=OTHER_JUDGE, second=f"{OTHER_JUDGE}:r2")
    text = said(app)
    assert [title.value for title in app.subheader].count(f"How much {plain(OTHER_JUDGE)} wavers") == 1
    assert "Asked 2 times about the same 64 answers" in text
    assert "**2.83** points" in text  # sqrt of the mean variance of x and x + 4


def test_what_a_judge_is_worth_stands_with_its_limits(home: Path) -> None:
    text = said(open_page("judges", part="What a judge is worth"))
    found = own.figures(resolve("probe"))
    assert own.in_words(found).replace("\\", "") in text
    rows = open_page("judges", part="What a judge is worth").table[0].value
    assert f"{found['n']} ({found['below_30']})" in list(rows["Own: n (below 30)"])
    assert "second pass" in rows["Judge"].iloc[-1]


def test_the_heads_that_were_tried_are_listed_with_the_one_that_is_shipped(home: Path) -> None:
    rows = open_page("judges", part="Judges tried").table[0].value
    assert rows["Head"].str.contains("shipped").sum() == 1 and len(rows) >= 5
