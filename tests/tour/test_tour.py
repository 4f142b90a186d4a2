"""The tour's data, what it reads from a study, and whether a task was done."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from evaluated_home import make_run

from ema_core import store, tour
from ema_core.errors import EmaError
from ema_core.tour.progress import Progress


def facts_here() -> tour.Facts:
    store.refresh()
    reader = store.Reader()
    ids = tour.study_of(reader.runs())
    judges = reader.judges(ids, False)
    return tour.facts_of(ids, reader.frames(ids, with_siblings=True), max(judges, key=lambda judge: judges[judge]))


def check(stop: int, kind: str, of: int = 0) -> tour.Check:
    return [one for one in tour.read_stops()[stop - 1].checks if one.kind == kind][of]


def right_options(one: tour.Check, facts: tour.Facts) -> list[str]:
    return [str(place) for place in range(len(one.options)) if tour.right(one, str(place), facts)]


def test_six_stops_speak_only_of_what_the_facts_know(study: dict[str, str]) -> None:
    facts, stops = facts_here(), tour.read_stops()
    assert len(stops) == 6 and 20 <= sum(stop.minutes for stop in stops) <= 30
    for stop in stops:
        assert all(tour.asked(one, facts) for one in stop.checks), stop.title
        assert set(tour.names_in(stop.text + stop.task + stop.short)) <= set(facts.texts), stop.title
        assert stop.state in facts.links


def test_every_choice_has_one_right_answer_and_it_follows_the_data(study: dict[str, str], home: Path) -> None:
    facts = facts_here()
    choices = [one for stop in tour.read_stops() for one in stop.checks if one.kind == "choice"]
    assert all(len(right_options(one, facts)) == 1 for one in choices)
    seeds = check(3, "choice")
    assert "mark" in seeds.options[int(right_options(seeds, facts)[0])].text  # three seeds

    for run in (home / "runs").iterdir():  # the same study on one seed
        if "s1-" in run.name or "s2-" in run.name:
            run.rename(home / f"away-{run.name}")
    fewer = facts_here()
    assert right_options(seeds, fewer) != right_options(seeds, facts)
    assert all(len(right_options(one, fewer)) == 1 for one in choices)


def test_the_lowest_setting_is_the_data_s_own(study: dict[str, str], home: Path) -> None:
    one = check(3, "setting")
    assert tour.right(one, "kl=1", facts_here()) and not tour.right(one, "none", facts_here())
    for seed in range(3):
        make_run(home, f"i{seed}aa", "inoculation=1", seed=seed, change=0.05)
    assert tour.right(one, "inoculation=1", facts_here()) and not tour.right(one, "kl=1", facts_here())


def test_a_number_is_read_off_as_people_type_it(study: dict[str, str]) -> None:
    facts, one = facts_here(), check(4, "number")
    true = facts.numbers["price_difference"]
    assert true < -0.5
    for text in (f"{true:.2f}", f"{true:.2f}".replace("-", "−").replace(".", ","), f" {true:+.3f} nats"):
        assert tour.right(one, text, facts), text
    for text in ("", "kl", f"{-true:.2f}", f"{true + 0.05:.2f}"):
        assert not tour.right(one, text, facts), text
    assert tour.right(check(2, "number"), "3", facts) and not tour.right(check(2, "number"), "4", facts)


def test_every_figure_is_told_with_its_interval_and_n(study: dict[str, str]) -> None:
    texts = facts_here().texts
    for name in ("none_general", "none_narrow", "lowest_general", "lowest_difference", "price_difference"):
        assert "[" in texts[name] and "no judge; n = 16 pairs" in texts[name] and "3 seeds" in texts[name], name
    assert texts["judge"] in texts["as_judged"] and "n = " in texts["as_judged"] and "[" in texts["as_judged"]


def test_without_a_study_nothing_can_be_answered(home: Path) -> None:
    store.refresh()
    assert tour.study_of(store.Reader().runs()) == ()
    make_run(home, "n0aa")
    store.refresh()
    assert tour.study_of(store.Reader().runs()) == ()  # nothing to hold it against
    assert not any(tour.right(one, "0", None) for stop in tour.read_stops() for one in stop.checks)


def test_a_study_that_was_not_evaluated_is_said_to_be_so(home: Path) -> None:
    make_run(home, "n0aa", judged=False)
    make_run(home, "k0aa", "kl=1", judged=False)
    store.refresh()
    reader = store.Reader()
    ids = tour.study_of(reader.runs())
    with pytest.raises(EmaError, match="no general margins"):
        tour.facts_of(ids, reader.frames(ids), "probe:x:v1")


def test_a_recorded_study_comes_before_a_larger_one_of_ones_own(study: dict[str, str]) -> None:
    store.refresh()
    runs = store.Reader().runs()
    named = [study["none0"], study["weak0"]]
    assert len(tour.study_of(runs)) == 7
    theirs = runs["run_id"].isin(named)
    runs["recorded"] = theirs.map({True: "theirs", False: ""})
    runs["recipe"] += runs["recorded"]
    assert tour.study_of(runs) == tuple(sorted(named))


def test_a_study_with_marks_comes_before_a_wider_one_without(study: dict[str, str]) -> None:
    store.refresh()
    runs = store.Reader().runs()
    names = [f"w{number}" for number in range(len(runs))]
    wide = runs.assign(recipe="another", seed=0, run_id=names, setting_key=names)
    assert tour.study_of(pd.concat([runs, wide], ignore_index=True)) == tuple(sorted(runs["run_id"]))
    assert tour.study_of(pd.concat([runs[runs["seed"].lt(2)], wide], ignore_index=True)) == tuple(sorted(names))


def test_progress_is_one_person_s_and_can_be_forgotten(home: Path) -> None:
    ann, bob = tour.new_key(), tour.new_key()
    assert not (home / "tours").exists()  # looking leaves nothing behind
    tour.answered(ann, 1, 2, "0")
    tour.visited(ann, 1, "samples")
    tour.finished(ann, 1)
    assert tour.read(ann).answer(1, 2) == "0" and tour.read(ann).started and tour.read(bob) == Progress()
    tour.answered(ann, 1, 2, "")
    assert tour.read(ann).answer(1, 2) == "" and tour.read(ann).done
    tour.reset(ann)
    assert tour.read(ann) == Progress()
    for wrong in ("../../runs/x", "", "ABC"):
        with pytest.raises(ValueError, match="no key"):
            tour.visited(wrong, 1, "samples")


def test_a_torn_progress_begins_anew(home: Path) -> None:
    key = tour.new_key()
    tour.visited(key, 1, "samples")
    (home / "tours" / f"{key}.json").write_text('{"started": 1, "ans')
    assert tour.read(key) == Progress()
    assert tour.answered(key, 1, 1, "1").answer(1, 1) == "1"


def test_a_stop_is_done_when_all_of_it_is(study: dict[str, str]) -> None:
    facts, stop = facts_here(), tour.read_stops()[4]  # verdicts and a question
    place = next(n for n, one in enumerate(stop.checks) if one.kind == "choice")
    progress = Progress(answers={f"5.{place}": right_options(stop.checks[place], facts)[0]})
    assert tour.met(stop, 5, progress, facts, 3)
    assert not tour.met(stop, 5, progress, facts, 2)
    assert not tour.met(stop, 5, Progress(), facts, 3)
    assert not tour.met(stop, 5, progress, None, 3)


def test_a_word_of_the_field_has_a_meaning_and_a_place_to_read_on() -> None:
    terms = tour.read_terms()
    assert len(terms) >= 20
    assert all(len(one.text) < 260 and one.where for one in terms.values())
