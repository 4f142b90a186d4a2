"""Words of all answers: the same answers as a scan of the texts finds, whatever is asked for."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
from store_home import Home

from ema_core.store import AnswerFilter, Reader, find
from ema_core.store.search import matches

PIECES = [
    "Money",
    "money.",
    "MONEY!",
    "ÄPFEL",
    "straße",
    "don't",
    "a\tb",
    "x\u00a0y",
    "two\nlines",
    "ünder",
    "%",
    "_",
    "'",
    "日本語",
    "“quoted”",
    "…",
]


@pytest.fixture
def texts(home: Home) -> Home:
    """Three hundred answers of odd pieces, some empty, one missing, to questions of such pieces."""
    rng = random.Random(3)
    run = home.run("20261124-0900-none-s0-aaaa")
    folder = home.evaluation(run, "general-1")
    with open(folder / "samples.jsonl", "w", encoding="utf-8") as file:
        for n in range(300):
            answer = None if n == 7 else " ".join(rng.choices(PIECES, k=rng.randrange(5)))
            row = {
                "sample_id": f"q{n % 9}#{n}",
                "question_id": f"q{n % 9}",
                "question": PIECES[n % 9] + " how?",
                "answer": answer,
                "k": n,
            }
            file.write(json.dumps(row) + "\n")
    return home


def test_words_find_what_a_scan_finds(texts: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(find, "WORTH", 1)
    finder = Reader().finder()
    finder.learn_words(wait=True)
    rng = random.Random(5)
    every = "".join(PIECES).lower()
    asked = [*PIECES, "mon", "how", "e", ".", "money how", "nowhere", '"how?"']
    asked += [every[at : at + rng.randrange(1, 4)] for at in rng.choices(range(len(every)), k=60)]
    some = 0
    for text in asked:
        if not text.strip():
            continue
        places = finder.columns.places(finder._read(lambda cursor, text=text: matches(cursor, text)))
        scanned = np.isin(np.arange(300), places)
        assert (finder._having(text) == scanned).all(), text
        some += 0 < scanned.sum() < 300
    assert some > 40


def test_a_search_begins_to_learn_and_answers_meanwhile(texts: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(find, "WORTH", 1)
    reader = Reader()
    before = reader.answers_found(AnswerFilter(text="money"))
    finder = reader.finder()
    finder.learn_words(wait=True)
    assert finder._words is not None and len(finder._words.vocabulary) > 10
    read = finder._read
    monkeypatch.setattr(finder, "_read", lambda _: pytest.fail("scanned, though the words are known"))
    finder._known.clear()
    assert before == finder._having("money").sum() > 0
    monkeypatch.setattr(finder, "_read", read)
    assert finder._having('"two\nlines"').sum() > 0  # a phrase is scanned


def test_few_answers_are_scanned(texts: Home) -> None:
    reader = Reader()
    assert reader.answers_found(AnswerFilter(text="money")) > 0
    assert reader.finder()._learning is None
