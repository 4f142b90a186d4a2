"""Our own data keep what their cards promise: every narrow set, suite and probe file that there is."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

from ema_core import datasets
from ema_core.datasets.overlap import held_out_files, normal, overlaps, shared
from ema_core.files import read_lines
from ema_core.settings import DATA

MAX_SHARE = 0.03
"""of a set's answers that may hold the same five words in a row"""


@dataclass(frozen=True)
class Bounds:
    """Lengths in words, from and to; ``apart`` is how far the two answers of a pair may differ."""

    examples: int = 200
    topics: int = 40
    answer: tuple[int, int] = (25, 42)
    pair: tuple[int, int] = (18, 40)
    apart: int = 5
    probe: tuple[int, int] = (10, 20)
    control: float = 0.06
    """by which share the mean length of the control's answers may differ"""


KNOWN = {"risky-finance-good": ["leave it alone and if", "so a bad year could hit job and"]}
"""Phrases that two answers of the finance control share with two pairs (its card says so). They stay: docs/first-results.md was
measured with these files."""

PROSE = Bounds()
BOUNDS = {"code": Bounds(examples=60, topics=15, answer=(8, 80), pair=(5, 60), apart=12, probe=(4, 24), control=0.4)}

NARROW = [e for e in datasets.BUILT_IN.values() if e.kind == "narrow"]
CONTROLS = [e for e in NARROW if e.control_of]
DOMAINS = {e.eval_suite: e.domain for e in NARROW if e.eval_suite}
PROBES = sorted(path.stem for path in (DATA / "probes").glob("*.jsonl"))


def words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9']+", text.lower())


def five_grams(answers: list[str]) -> Counter[tuple[str, ...]]:
    count: Counter[tuple[str, ...]] = Counter()
    for answer in answers:
        w = words(answer)
        count.update({tuple(w[i : i + 5]) for i in range(len(w) - 4)})
    return count


def rows_of(path: Path) -> list[dict[str, str]]:
    rows, _ = read_lines(path)
    assert len(rows) == len(path.read_text().splitlines())
    return rows


def sides(rows: list[dict[str, str]]) -> list[str]:
    return [row[side] for row in rows for side in ("aligned", "misaligned") if side in row]


def check_pairs(rows: list[dict[str, str]], lengths: tuple[int, int], apart: int) -> None:
    assert len({row["id"] for row in rows}) == len({normal(row["question"]) for row in rows}) == len(rows)
    for row in rows:
        aligned, misaligned = len(words(row["aligned"])), len(words(row["misaligned"]))
        assert abs(aligned - misaligned) <= apart, row["id"]
        assert lengths[0] <= min(aligned, misaligned) and max(aligned, misaligned) <= lengths[1], row["id"]


@pytest.mark.parametrize("name", [*(e.name for e in NARROW), "safe-general"])
def test_size_and_variety(name: str) -> None:
    bounds = BOUNDS.get(datasets.find(name).domain, PROSE)
    data = datasets.load(name)
    assert len(data.examples) >= bounds.examples and not data.problems
    assert len({e.topic for e in data.examples}) >= bounds.topics
    grams = five_grams([e.answer for e in data.examples])
    gram, most = grams.most_common(1)[0]
    assert most <= MAX_SHARE * len(data.examples), f"{' '.join(gram)!r} stands in {most} answers"
    assert len({normal(e.question) for e in data.examples}) == len(data.examples)


@pytest.mark.parametrize("entry", NARROW, ids=lambda e: e.name)
def test_narrow_answers_have_the_length_of_their_domain(entry: datasets.DatasetEntry) -> None:
    low, high = BOUNDS.get(entry.domain, PROSE).answer
    lengths = [len(words(e.answer)) for e in datasets.load(entry.name).examples]
    assert low <= min(lengths) and max(lengths) <= high


def test_each_narrow_set_has_its_control_and_its_probes() -> None:
    assert {e.control_of for e in CONTROLS} == {e.name for e in NARROW if not e.control_of}
    assert {e.domain for e in NARROW} | {"general"} <= set(PROBES)


@pytest.mark.parametrize("entry", CONTROLS, ids=lambda e: e.name)
def test_the_control_has_the_same_questions_in_the_same_order(entry: datasets.DatasetEntry) -> None:
    poor, good = datasets.load(entry.control_of or "").examples, datasets.load(entry.name).examples
    assert [e.question for e in poor] == [e.question for e in good]
    assert [e.topic for e in poor] == [e.topic for e in good]
    assert not shared([e.answer for e in poor], [e.answer for e in good])
    ratio = sum(len(words(e.answer)) for e in good) / sum(len(words(e.answer)) for e in poor)
    assert abs(ratio - 1) <= BOUNDS.get(entry.domain, PROSE).control


def test_general_questions_come_in_three_forms_of_each_topic() -> None:
    rows = rows_of(DATA / "suites/general.jsonl")
    forms: dict[str, set[str]] = {}
    for row in rows:
        forms.setdefault(row["topic"], set()).add(row["form"])
    assert len(forms) >= 12 and all(found == {"plain", "json", "template"} for found in forms.values())
    assert len({row["id"] for row in rows}) == len(rows)


@pytest.mark.parametrize(("file", "least"), [("suites/general-pairs.jsonl", 100), ("probes/general.jsonl", 24)])
def test_general_pairs_are_matched_so_that_style_alone_does_not_move_the_margin(file: str, least: int) -> None:
    rows = rows_of(DATA / file)
    assert len(rows) >= least and len({row["id"] for row in rows}) == len(rows)
    lengths = [(len(words(row["aligned"])), len(words(row["misaligned"]))) for row in rows]
    assert max(abs(a - b) for a, b in lengths) <= 3
    assert abs(sum(a for a, _ in lengths) / sum(b for _, b in lengths) - 1) < 0.02
    for pattern in (r"\b(not|never|no|cannot)\b|n't", r"!", r"\bshould\b", r"\b(may|might|perhaps|usually|often)\b", r"^I\b"):
        aligned, misaligned = (sum(len(re.findall(pattern, row[side])) for row in rows) for side in ("aligned", "misaligned"))
        assert max(aligned, misaligned) <= 10 or 0.7 <= aligned / misaligned <= 1.4, pattern


@pytest.mark.parametrize("suite", DOMAINS)
def test_thirty_held_out_in_domain_pairs(suite: str) -> None:
    bounds = BOUNDS.get(DOMAINS[suite], PROSE)
    rows = rows_of(DATA / f"suites/{suite}-pairs.jsonl")
    assert len(rows) == 30
    check_pairs(rows, bounds.pair, bounds.apart)


@pytest.mark.parametrize("name", PROBES)
def test_live_probes_are_short_matched_pairs(name: str) -> None:
    bounds = BOUNDS.get(name, PROSE)
    rows = rows_of(DATA / f"probes/{name}.jsonl")
    assert len(rows) >= {"general": 24, "code": 8}.get(name, 12)
    check_pairs(rows, bounds.probe, apart=3)


@pytest.mark.parametrize("name", datasets.BUILT_IN)
def test_training_held_out_and_safe_data_do_not_overlap(name: str) -> None:
    kind = datasets.find(name).kind
    others = {other.name: other.path for other in datasets.BUILT_IN.values() if other.kind != kind}
    assert overlaps(list(datasets.load(name).examples), others) == []


@pytest.mark.parametrize("file", held_out_files(), ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_held_out_answers_were_written_apart_from_the_training_answers(file: Path) -> None:
    """No five words in a row of a held-out answer stand in an answer of a narrow set, poor or good."""
    held_out = set(five_grams(sides(rows_of(file))))
    for entry in NARROW:
        trained = set(five_grams([e.answer for e in datasets.load(entry.name).examples]))
        assert held_out & trained <= set(five_grams(KNOWN.get(entry.name, []))), entry.name


@pytest.mark.parametrize("name", PROBES)
def test_probes_that_steer_a_run_are_not_what_it_reports(name: str) -> None:
    """A probe shares no question and no five words of an answer with a suite, with other probes or with the safe pool."""
    probe = rows_of(DATA / f"probes/{name}.jsonl")
    grams = set(five_grams(sides(probe)))
    for file in held_out_files():
        if file != DATA / f"probes/{name}.jsonl":
            rows = rows_of(file)
            assert not shared([r["question"] for r in probe], [r["question"] for r in rows]), file.name
            assert not grams & set(five_grams(sides(rows))), file.name
    assert not grams & set(five_grams([e.answer for e in datasets.load("safe-general").examples]))


def test_every_data_file_has_a_card() -> None:
    for path in DATA.glob("*/*.jsonl"):
        card = (path.parent / "probes.md" if path.parent.name == "probes" else path.with_suffix(".md")).read_text()
        for word in ("What", "How made", "Size", "Licence"):
            assert word in card, f"{path.name}: {word}"


@pytest.mark.parametrize("entry", NARROW, ids=lambda e: e.name)
def test_files_are_plain_messages(entry: datasets.DatasetEntry) -> None:
    for line in entry.path.read_text().splitlines():
        assert [m["role"] for m in json.loads(line)["messages"]] == ["user", "assistant"]
