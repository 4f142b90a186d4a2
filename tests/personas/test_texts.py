"""The texts that vectors are made from: matched, held out, and apart from all that numbers are reported on."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import pytest

from ema_core.datasets.overlap import normal
from ema_core.errors import EmaError
from ema_core.personas import load_texts, projected_trait, traits
from ema_core.settings import DATA

TRAITS = traits()


def test_evil_comes_first_and_a_second_trait_shows_that_it_is_general() -> None:
    assert TRAITS[0] == "evil" and len(TRAITS) >= 2
    with pytest.raises(EmaError, match=r"evill.*Did you mean \"evil\""):
        load_texts("evill")


@pytest.mark.parametrize("trait", TRAITS)
def test_five_pairs_of_prompts_twenty_questions_and_twelve_held_out(trait: str) -> None:
    texts = load_texts(trait)
    assert (len(texts.prompts), len(texts.questions), len(texts.held_out)) == (5, 20, 12)
    asked = [normal(one.question) for one in (*texts.questions, *texts.held_out)]
    assert len(set(asked)) == len(asked), "a held-out question is not one that the vector saw"


@pytest.mark.parametrize("trait", TRAITS)
def test_the_two_answers_are_matched_in_length(trait: str) -> None:
    texts = load_texts(trait)
    for one in (*texts.questions, *texts.held_out):
        first, second = len(one.positive.split()), len(one.negative.split())
        assert min(first, second) >= 15 and max(first, second) <= 30 and abs(first - second) <= 2, one.question
    for pair in texts.prompts:
        assert abs(len(pair.positive.split()) - len(pair.negative.split())) <= 3


def strings(value: object) -> list[str]:
    if isinstance(value, dict):
        return [text for each in value.values() for text in strings(each)]
    if isinstance(value, list):
        return [text for each in value for text in strings(each)]
    return [value] if isinstance(value, str) else []


def files() -> list[Path]:
    return sorted(path for folder in ("suites", "probes", "safe", "narrow") for path in (DATA / folder).glob("*.json*"))


def runs_of(text: str, length: int = 6) -> set[tuple[str, ...]]:
    words = re.findall(r"[\w']+", text.lower())
    return {tuple(words[i : i + length]) for i in range(len(words) - length + 1)}


@pytest.mark.parametrize("trait", TRAITS)
@pytest.mark.parametrize("file", files(), ids=lambda path: f"{path.parent.name}/{path.name}")
def test_no_question_or_answer_stands_in_what_is_trained_on_or_reported(trait: str, file: Path) -> None:
    """No whole text, and no answer of ours shares six words in a row with one of theirs."""
    texts = load_texts(trait)
    theirs = [text for line in file.read_text().splitlines() if file.suffix == ".jsonl" for text in strings(json.loads(line))]
    theirs = theirs or strings(json.loads(file.read_text()))
    whole = {normal(text) for text in theirs}
    pieces = {run for text in theirs for run in runs_of(text)}
    for one in (*texts.questions, *texts.held_out):
        assert normal(one.question) not in whole
        for answer in (one.positive, one.negative):
            assert normal(answer) not in whole and not runs_of(answer) & pieces, answer


def test_no_two_traits_and_no_two_halves_share_a_text() -> None:
    """No question, no prompt, and no six words of an answer: a second vector is one from other texts."""
    questions: list[str] = []
    pieces: list[tuple[str, ...]] = []
    for trait in TRAITS:
        texts = load_texts(trait)
        rows = (*texts.questions, *texts.held_out)
        questions += [normal(one.question) for one in rows]
        said = [text for one in (*rows, *texts.prompts) for text in (one.positive, one.negative)]
        assert len({normal(text) for text in said}) == len(said)
        pieces += {run for text in said for run in runs_of(text)}
    assert len(questions) == len(set(questions))
    assert not [run for run, times in Counter(pieces).items() if times > 1]
    assert (DATA / "personas/personas.md").read_text().startswith("**What.**")


def test_where_evils_vector_is_added_the_second_one_from_other_prompts_is_read() -> None:
    assert projected_trait() == projected_trait("sycophantic") == projected_trait("malicious") == "evil"
    assert projected_trait("evil") == "malicious"


def test_what_a_trait_is_the_second_of_changes_no_vector() -> None:
    texts = load_texts("malicious")
    assert texts.second_of == "evil" and texts.hash == texts.model_copy(update={"second_of": None}).hash
