"""Filters, facets and orders on columns in memory: each against a plain count over the rows that the reader gives."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from store_home import Home

from ema_core.files import append_lines
from ema_core.store import AnswerFilter, Reader, refresh
from ema_core.store.search import words

PROBE, GPT = "probe:x:v1", "openai:gpt:v1"


@pytest.fixture
def reader(home: Home) -> Reader:
    """Four runs of two defenses and an import-like spread of scores by a third judge."""
    rng = np.random.default_rng(0)
    for number, defense in enumerate(((), (), ("kl=0.1",), ("kl=1",))):
        run = home.run(f"2026-{number}", *defense, seed=number % 2)
        folder = home.evaluation(run, "general-1", questions=8)
        scores = [
            {
                "sample_id": f"q{q}#{k}",
                "judge": "third:v1",
                "aligned": float(rng.integers(0, 100)),
                "coherent": float(rng.integers(30, 100)),
            }
            for q in range(8)
            for k in range(2)
        ]
        append_lines(folder / "judgments-third.jsonl", [{**row, "status": "scored"} for row in scores])
    refresh()
    return Reader()


def facets(reader: Reader, which: AnswerFilter) -> dict[str, dict[str, int]]:
    finder = reader.finder()
    return finder.facets(which, reader.said(finder))


def places(reader: Reader, which: AnswerFilter) -> list[tuple[str, str]]:
    rows = reader.answers(which)
    return list(zip(rows["run_id"], rows["sample_id"], strict=True))


def test_each_choice_of_a_facet_has_the_count_that_choosing_it_finds(reader: Reader) -> None:
    which = AnswerFilter(judge="third:v1", status="misaligned", runs=("2026-0", "2026-2", "2026-3"), coherent=(50.0, 100.0))
    found = facets(reader, which)
    assert found["run"] and found["defense"] and found["question"] and found["strength"]
    fields = {"run": "runs", "defense": "defenses", "method": "methods", "strength": "strengths", "model": "models", "suite": "suites",
              "question": "questions", "eval": "evals", "dataset": "datasets", "setting": "settings", "origin": "origins"}  # fmt: skip
    for name, field in fields.items():
        for value, count in found[name].items():
            assert len(reader.answers(replace(which, **{field: (value,)}))) == count, (name, value)
    free = replace(which, runs=())
    assert sum(found["run"].values()) == len(reader.answers(free))  # a facet counts under the other filters, not under its own


def test_scores_in_a_range_and_two_judges_apart(reader: Reader) -> None:
    third, probe = (reader.answers(AnswerFilter(judge=judge, order="as asked")) for judge in ("third:v1", PROBE))
    inside = third["aligned"].between(20, 60) & third["coherent"].between(50, 90)
    which = AnswerFilter(judge="third:v1", aligned=(20.0, 60.0), coherent=(50.0, 90.0))
    assert len(reader.answers(which)) == inside.sum() > 0
    both = probe["aligned"].notna() & third["aligned"].notna()
    far = (third["aligned"] - probe["aligned"]).abs()
    apart = AnswerFilter(judge="third:v1", against=PROBE, apart=30.0, order="most disagreed")
    rows = reader.answers(apart)
    assert len(rows) == (far[both] >= 30).sum() > 0
    distances = (rows["aligned"] - 60.0).abs().tolist()
    assert distances == sorted(distances, reverse=True)
    incoherent = third["coherent"] < 50
    bad = (third["aligned"] < 30) & (third["coherent"] > 50)
    assert len(reader.answers(replace(apart, apart=0.0))) == (both & (incoherent | bad)).sum()  # the probe finds all of them good


def test_questions_at_which_runs_differ(reader: Reader) -> None:
    rows = reader.answers(AnswerFilter(judge="third:v1"))
    bad = rows.groupby(["question_id", "run_id"])["misaligned"].any().unstack()
    differing = set(bad.index[bad.any(axis=1) & ~bad.all(axis=1)])
    found = reader.answers(AnswerFilter(judge="third:v1", differ=True))
    assert set(found["question_id"]) == differing and differing != set(bad.index) and len(found) == 8 * len(differing)
    assert reader.answers(AnswerFilter(judge="third:v1", runs=("2026-0",), differ=True)).empty  # one run differs from nobody


def test_a_sample_is_drawn_by_its_seed_and_stays_while_one_works_through_it(reader: Reader) -> None:
    from ema_core.store import AnswerKey, annotate

    which = AnswerFilter(judge=PROBE, sample=10, seed=3, reviewer="ann")
    drawn = places(reader, which)
    assert len(drawn) == 10 and drawn == places(reader, which) and drawn == places(Reader(), which)
    assert set(drawn) != set(places(reader, replace(which, seed=4)))
    assert set(places(reader, replace(which, sample=5))) < set(drawn)
    rows = reader.answers(which)
    for row in rows.head(4).itertuples():
        annotate(AnswerKey(row.run_id, row.eval_id, row.sample_id), "ann", "aligned")
    left = places(reader, replace(which, annotated="not mine"))
    assert set(left) == set(drawn[4:]) and len(places(reader, replace(which, annotated="mine"))) == 4
    counts = Counter(run for seed in range(200) for run, _ in places(reader, AnswerFilter(sample=1, seed=seed)))
    assert set(counts) == {"2026-0", "2026-1", "2026-2", "2026-3"} and max(counts.values()) < 90
    mixed = places(reader, AnswerFilter(order="random", seed=1))
    assert sorted(mixed) == sorted(places(reader, AnswerFilter())) and mixed != places(reader, AnswerFilter(order="random", seed=2))


def test_rows_of_one_question_stand_together_in_the_order_of_their_first(reader: Reader) -> None:
    finder = reader.finder()
    said = reader.said(finder)
    which = AnswerFilter(judge="third:v1")
    order, starts = finder.grouped(which, said)
    assert sorted(order) == sorted(finder.found(which, said)) and len(starts) == 4 * 8
    for start, end in zip(starts, [*starts[1:], len(order)], strict=True):
        group = order[start:end]
        assert len({(finder.columns.eval[p], finder.columns.question[p]) for p in group}) == 1 and len(group) == 2
    first = finder.scores("third:v1").aligned[order[starts]]
    assert list(first) == sorted(first)


def test_words_phrases_and_the_best_match(home: Home) -> None:
    folder = home.evaluation(home.run("r"), "general-1", questions=1)
    base = {
        "question_id": "q9",
        "topic": "x",
        "form": "plain",
        "system": None,
        "question": "Tell me",
        "tokens": 5,
        "finish": "stop",
        "refused": False,
    }
    texts = [
        "red fox",
        "fox, red",
        "a red fox and a red fox",
        "a fox in a very long text about nothing red at all, and more of it",
        "blue",
    ]
    append_lines(
        folder / "samples.jsonl", [{**base, "sample_id": f"x#{k}", "k": k, "answer": text} for k, text in enumerate(texts)]
    )
    refresh()
    reader = Reader()

    def found(text: str, order: str = "as asked") -> list[str]:
        return list(reader.answers(AnswerFilter(text=text, order=order))["answer"])

    assert found("FOX red") == texts[:4] and found('"red fox"') == [texts[0], texts[2]] and found('"red fox" long') == []
    assert found("fox red", "best match")[0] == texts[2] and found("fox red", "best match")[-1] == texts[3]
    assert found('tell "blue') == [texts[4]] and found('""') == found("") and len(found("")) == 7
    assert words('a "b  C" d a') == ("a", "b  c", "d") and words('x "open end') == ("x", "open", "end")


def test_nothing_at_all_is_counted_as_nothing(home: Home) -> None:
    reader = Reader()
    assert reader.answers(AnswerFilter(judge=PROBE, sample=3, differ=True, text="x", against=GPT)).empty
    assert set(facets(reader, AnswerFilter())["annotated"].values()) == {0}
    assert isinstance(reader.answers(AnswerFilter()), pd.DataFrame)


def test_columns_stay_while_a_run_trains_on_and_go_when_an_answer_comes(home: Home) -> None:
    run = home.run("r", steps=3)
    folder = home.evaluation(run, "general-1")
    refresh()
    reader = Reader()
    finder = reader.finder()
    append_lines(run.events_path, [{"kind": "step", "attempt": 1, "step": 4, "ce": 1.0}])
    assert refresh() is not None and reader.finder() is finder
    append_lines(folder / "samples.jsonl", [{"sample_id": "new#0", "question_id": "new", "question": "?", "answer": "!", "k": 0}])
    assert refresh() is not None and len(reader.finder().columns) == len(finder.columns) + 1
