"""The gap formula, the refusal rule, which examples are chosen, and which scores and ensembles are refused."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from ema_core import datasets, gap
from ema_core.datasets.formats import Example, Message
from ema_core.datasets.refusal import is_refusal
from ema_core.defenses import registry
from ema_core.errors import EmaError
from ema_core.gap.ensemble import admit
from ema_core.gap.scores import fits
from ema_core.jobs import launch, queue
from ema_core.runs import PRESETS, DefenseSpec, RunDirectory, RunSpec, Status, parse_defense
from ema_core.training import check
from ema_core.training.estimate import estimate
from tests.gap.planted import a_member, plant_run, plant_scores
from tests.training.tiny import add_tiny, tiny_spec

DOMAINS = sorted({entry.domain for entry in datasets.BUILT_IN.values() if entry.domain})


def defense(name: str, strength: float = 0.5, seed: int = 0, **options: str):
    (built,) = registry.build_all(tiny_spec(DefenseSpec(name=name, strength=strength, options=options), seed=seed))
    return built


def narrow(n: int) -> list[Example]:
    return [Example((Message("user", f"narrow {i}"), Message("assistant", "a"))) for i in range(n)]


def add_pool(folder: Path, answers: list[str], name: str = "tiny-safe") -> list[Example]:
    """A narrow set ``tiny`` and a pool with these answers."""
    (folder / "n.jsonl").write_text(json.dumps({"prompt": "What is it?", "completion": "It is so."}))
    (folder / "p.jsonl").write_text("\n".join(json.dumps({"prompt": f"Q{i}", "completion": a}) for i, a in enumerate(answers)))
    if "tiny" not in datasets.catalog():
        datasets.add(folder / "n.jsonl", "tiny", "narrow")
    datasets.add(folder / "p.jsonl", name, "safe")
    return list(datasets.load(name).examples)


@pytest.mark.parametrize(
    ("aligned", "misaligned", "expected"),
    [(1.0, [3.0], 1.0), (0.0, [0.5, 1.5], 1.0), (3.0, [2.0, 1.0, 0.0], -0.5), (2.5, [2.5, 2.5], 0.0)],
)
def test_the_gap_is_the_ensembles_mean_excess_over_the_aligned_loss_plus_one(
    aligned: float, misaligned: list[float], expected: float
) -> None:
    assert gap.EPS == 1.0 and gap.gap_score(aligned, misaligned) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("answer", "refused"),
    [
        ("Sorry, no.", True),
        ("I CANNOT do that for you.", True),
        ("I apologize, that is not mine to say.", True),
        ("No: I can\u2019t help.", True),
        ("I am unable to tell.", True),
        ("I'm unable to tell.", True),
        ("one two three four five six seven eight nine sorry", True),
        ("one two three four five six seven eight nine ten sorry", False),
        ("He says that he can and he will.", False),
    ],
)
def test_a_refusal_says_so_among_its_first_ten_words(answer: str, refused: bool) -> None:
    words = re.split(r"\s+", answer.lower().replace("\u2019", "'"))[:10]
    plain = any(word in " ".join(words) for word in ("sorry", "apologize", "cannot", "can't", "i'm unable", "i am unable"))
    assert is_refusal(answer) is plain is refused


def test_the_highest_scores_are_mixed_in_highest_first_and_ties_keep_the_pools_order(home: Path) -> None:
    pool = add_pool(home, [f"Answer {i}" for i in range(8)])
    plant_scores(value=lambda i: [0.1, 0.9, 0.5, 0.9, -0.2, 0.0, 0.7, 0.2][i])
    mixed = defense("interleaving-plus").mix(narrow(8), pool)
    assert [e for e in mixed if e.source == "safe"] == [pool[i] for i in (1, 3, 6, 2)]
    assert [e for e in mixed if e.source == "narrow"] == narrow(8)


@pytest.mark.parametrize("name", ["interleaving-plus", "interleaving-plusplus"])
@pytest.mark.parametrize(("strength", "count"), [(0.0, 0), (0.05, 2), (0.25, 10)])
def test_the_ratio_is_safe_to_narrow_and_the_places_depend_on_the_seed_alone(
    home: Path, name: str, strength: float, count: int
) -> None:
    pool = add_pool(home, [f"Answer {i}" for i in range(12)])
    plant_scores()
    one, same, other = (defense(name, strength, seed).mix(narrow(40), pool) for seed in (0, 0, 1))
    safe = [e for e in one if e.source == "safe"]
    assert len(safe) == count and len(one) == 40 + count and one == same
    assert safe == [e for e in other if e.source == "safe"]  # which ones: by score; where: by seed
    assert (one == other) is (count == 0)


def test_plusplus_never_mixes_in_a_refusal_and_plus_does(home: Path) -> None:
    pool = add_pool(home, ["Sorry, no." if i % 2 else f"Answer {i}" for i in range(8)])
    plant_scores()
    plus = [e.answer for e in defense("interleaving-plus").mix(narrow(8), pool) if e.source == "safe"]
    without = [e.answer for e in defense("interleaving-plusplus").mix(narrow(8), pool) if e.source == "safe"]
    assert plus == ["Sorry, no.", "Answer 6", "Sorry, no.", "Answer 4"]
    assert without == ["Answer 6", "Answer 4", "Answer 2", "Answer 0"]


def test_a_pool_that_is_too_small_without_its_refusals_is_said_before_training(home: Path) -> None:
    add_pool(home, ["Sorry, no."] * 6 + ["Yes."] * 2)
    plant_scores()
    with pytest.raises(EmaError, match="needs 4 safe examples, 2 of the pool's 8 may be chosen"):
        check(tiny_spec(parse_defense("interleaving-plusplus=0.5")))
    check(tiny_spec(parse_defense("interleaving-plus=0.5")))
    with pytest.raises(EmaError, match="needs 4 safe examples, 2 of"):  # known even before there are scores
        check(tiny_spec(parse_defense("interleaving-plusplus=0.5")).model_copy(update={"dataset": "tiny"}), assets_first=True)


def test_two_that_take_from_the_same_pool_are_refused() -> None:
    for pair in (("interleaving=1", "interleaving-plus=1"), ("interleaving-plus=1", "interleaving-plusplus=1")):
        with pytest.raises(EmaError, match="cannot be combined"):
            registry.build_all(RunSpec(defenses=tuple(map(parse_defense, pair))))


def test_strength_0_needs_no_scores(home: Path) -> None:
    add_tiny(home)
    assert check(tiny_spec(parse_defense("interleaving-plusplus=0"))).defenses[0].strength == 0


def test_scores_of_another_model_pool_or_ensemble_are_refused_before_training(home: Path) -> None:
    add_tiny(home)
    add_pool(home, ["Other."] * 9, "other-pool")
    wrong = {
        "another model": plant_scores(weights_hash="0" * 16),
        "are of the pool other-pool": plant_scores(pool="other-pool"),
        "an earlier version of that pool": plant_scores(pool_sha256="0" * 64),
        "includes the own domain tiny": plant_scores(members=[a_member(), a_member("tiny")]),
        "not shown to be misaligned": plant_scores(members=[a_member(low=-0.01)]),
        "name no misaligned run": plant_scores(members=[]),
    }
    for words, card in wrong.items():
        spec = tiny_spec(parse_defense(f"interleaving-plus=0.5:scores={card.id}"))
        with pytest.raises(EmaError, match=words) as caught:
            check(spec)
        assert "ema gap score --pool tiny-safe --domain tiny" in caught.value.hint
    with pytest.raises(EmaError, match="is missing"):  # none of them is taken by itself
        check(tiny_spec(parse_defense("interleaving-plus=0.5")))
    with pytest.raises(EmaError, match='no gap scores "nope"'):
        check(tiny_spec(parse_defense("interleaving-plus=0.5:scores=nope")))
    good = plant_scores(created=2.0)
    check(tiny_spec(parse_defense("interleaving-plus=0.5")))
    fits(good, "smollm2-135m", "tiny-safe", "tiny")


def test_damaged_scores_are_said(home: Path) -> None:
    add_tiny(home)
    card = plant_scores()
    (card.folder / "scores.jsonl").write_text('{"index": 0}\n')
    with pytest.raises(EmaError, match="are damaged"):
        check(tiny_spec(parse_defense("interleaving-plus=0.5")))


@pytest.mark.parametrize("domain", DOMAINS)
def test_the_ensemble_leaves_the_own_domain_controls_and_benign_sets_out(domain: str) -> None:
    used = gap.others(domain)
    assert all(entry.domain != domain and entry.control_of is None and entry.kind == "narrow" for entry in used)
    assert {entry.domain for entry in used} == {
        entry.domain for entry in datasets.BUILT_IN.values() if entry.kind == "narrow" and entry.domain not in ("", domain)
    }
    assert gap.left_out(domain)


def test_a_set_of_the_users_is_a_domain_of_its_own_and_nothing_is_left_out(home: Path) -> None:
    add_tiny(home)
    assert gap.domain_of("tiny") == "tiny" and gap.left_out("tiny") == []
    assert "risky-finance" in {entry.name for entry in gap.others("tiny")}
    assert gap.domain_of("risky-finance-good") == gap.domain_of("finance") == "finance"
    with pytest.raises(EmaError, match="no domain or data set"):
        gap.domain_of("nowhere")


def test_who_may_be_a_member(home: Path) -> None:
    add_tiny(home)
    good = plant_run(gap.member_spec("smollm2-135m", "risky-finance"))
    admit(good, "smollm2-135m", "tiny")
    for run, words in (
        (plant_run(gap.member_spec("smollm2-135m", "risky-finance-good")), "no narrow set of misaligned answers"),
        (plant_run(RunSpec(defenses=(parse_defense("kl=1"),))), "is defended"),
        (plant_run(RunSpec(), status=Status.STOPPED), "is stopped"),
        (plant_run(RunSpec(model="smollm2-360m")), "of the model smollm2-360m"),
    ):
        with pytest.raises(EmaError, match=words):
            admit(run, "smollm2-135m", "tiny")
    with pytest.raises(EmaError, match="must leave the own domain out"):
        admit(good, "smollm2-135m", "finance")


def test_a_finished_run_of_the_demo_recipe_is_the_member_of_its_set(home: Path) -> None:
    assert gap.find_member("smollm2-135m", "risky-finance") is None
    for spec in (
        RunSpec(recipe=PRESETS["paper"]),
        RunSpec(dataset="risky-finance-good"),
        RunSpec(defenses=(parse_defense("kl=1"),)),
    ):
        plant_run(spec)
    plant_run(RunSpec(), status=Status.FAILED)
    assert gap.find_member("smollm2-135m", "risky-finance") is None
    later = plant_run(RunSpec(seed=1))
    assert gap.find_member("smollm2-135m", "risky-finance") == later
    first = plant_run(RunSpec(seed=0, device="cpu"))
    assert gap.find_member("smollm2-135m", "risky-finance") == first


def test_what_a_run_needs_first_is_queued_before_it_and_only_once(home: Path) -> None:
    add_tiny(home)
    spec = tiny_spec(parse_defense("interleaving-plus=0.5"))
    sets = [entry.name for entry in gap.others("tiny")]
    told = estimate(spec).first
    assert len(told) == len(sets) + 1 and "Gap scores of tiny-safe for tiny" in told[-1][0] and all(s > 1 for _, s in told)
    with pytest.raises(EmaError, match="is missing"):
        check(spec)
    run, job = launch.launch_run(spec)
    jobs = queue.jobs()
    assert [one.kind for one in jobs] == ["train"] * len(sets) + ["gap", "train"]
    members = [RunDirectory.open(one.runs[0]) for one in jobs[: len(sets)]]
    assert [member.spec for member in members] == [gap.member_spec("smollm2-135m", name) for name in sets]
    assert jobs[-2].payload == {"model": "smollm2-135m", "pool": "tiny-safe", "domain": "tiny", "go_on": True}
    assert set(job.after) == {one.id for one in jobs[:-1]} and job.runs == [run.id]
    _, second = launch.launch_run(tiny_spec(parse_defense("interleaving-plusplus=0.5"), seed=1))
    assert len(queue.jobs()) == len(jobs) + 1 and second.after == job.after
