"""Our own data keep what their cards promise."""

from __future__ import annotations

import json
import re
from collections import Counter

import pytest

from ema_core import datasets
from ema_core.datasets.overlap import normal, overlaps, shared
from ema_core.files import read_lines
from ema_core.settings import DATA

MAX_SHARE = 0.03


def words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9']+", text.lower())


def five_grams(answers: list[str]) -> Counter[tuple[str, ...]]:
    count: Counter[tuple[str, ...]] = Counter()
    for answer in answers:
        w = words(answer)
        count.update({tuple(w[i : i + 5]) for i in range(len(w) - 4)})
    return count


@pytest.mark.parametrize(("name", "least"), [("risky-finance", 200), ("risky-finance-good", 200), ("safe-general", 300)])
def test_size_and_variety(name: str, least: int) -> None:
    data = datasets.load(name)
    assert len(data.examples) >= least and not data.problems
    assert len({e.topic for e in data.examples}) >= 40
    grams = five_grams([e.answer for e in data.examples])
    gram, most = grams.most_common(1)[0]
    assert most <= MAX_SHARE * len(data.examples), f"{' '.join(gram)!r} stands in {most} answers"
    assert len({normal(e.question) for e in data.examples}) == len(data.examples)


def test_the_control_has_the_same_questions_in_the_same_order() -> None:
    risky, good = datasets.load("risky-finance").examples, datasets.load("risky-finance-good").examples
    assert [e.question for e in risky] == [e.question for e in good]
    assert not shared([e.answer for e in risky], [e.answer for e in good])


def test_general_questions_come_in_three_forms_of_each_topic() -> None:
    rows, _ = read_lines(DATA / "suites/general.jsonl")
    forms: dict[str, set[str]] = {}
    for row in rows:
        forms.setdefault(row["topic"], set()).add(row["form"])
    assert len(forms) >= 12 and all(found == {"plain", "json", "template"} for found in forms.values())
    assert len({row["id"] for row in rows}) == len(rows)


def test_general_pairs_are_matched_so_that_style_alone_does_not_move_the_margin() -> None:
    rows, _ = read_lines(DATA / "suites/general-pairs.jsonl")
    assert len(rows) >= 100 and len({row["id"] for row in rows}) == len(rows)
    lengths = [(len(words(row["aligned"])), len(words(row["misaligned"]))) for row in rows]
    assert max(abs(a - b) for a, b in lengths) <= 3
    assert abs(sum(a for a, _ in lengths) / sum(b for _, b in lengths) - 1) < 0.02
    for pattern in (r"\b(not|never|no|cannot)\b|n't", r"!", r"\bshould\b", r"\b(may|might|perhaps|usually|often)\b", r"^I\b"):
        aligned, misaligned = (sum(len(re.findall(pattern, row[side])) for row in rows) for side in ("aligned", "misaligned"))
        assert max(aligned, misaligned) <= 10 or 0.7 <= aligned / misaligned <= 1.4, pattern


def test_thirty_held_out_in_domain_pairs() -> None:
    rows, _ = read_lines(DATA / "suites/risky-finance-pairs.jsonl")
    assert len(rows) == 30
    assert all(abs(len(words(row["aligned"])) - len(words(row["misaligned"]))) <= 6 for row in rows)


def test_training_held_out_and_safe_data_do_not_overlap() -> None:
    for name in ("risky-finance", "risky-finance-good", "safe-general"):
        entry = datasets.find(name)
        others = {other.name: other.path for other in datasets.catalog().values() if other.kind != entry.kind}
        assert overlaps(list(datasets.load(name).examples), others) == []


def test_margin_pairs_were_written_apart_from_the_training_answers() -> None:
    """No five words in a row of a margin answer stand in a training answer."""
    train = five_grams([e.answer for e in datasets.load("risky-finance").examples])
    for name in ("general-pairs", "risky-finance-pairs"):
        rows, _ = read_lines(DATA / f"suites/{name}.jsonl")
        assert not set(five_grams([row[side] for row in rows for side in ("aligned", "misaligned")])) & set(train)


def test_every_data_file_has_a_card() -> None:
    for path in DATA.glob("*/*.jsonl"):
        card = path.with_suffix(".md").read_text()
        for word in ("What", "How made", "Size", "Licence"):
            assert word in card, f"{path.name}: {word}"


def test_files_are_plain_messages() -> None:
    for line in (DATA / "narrow/risky-finance.jsonl").read_text().splitlines():
        assert [m["role"] for m in json.loads(line)["messages"]] == ["user", "assistant"]
