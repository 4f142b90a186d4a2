"""What people call a run, and what changes from one run to another."""

from __future__ import annotations

import json

import pytest

from ema_core.errors import EmaError
from ema_core.exchange.bundle import export_bundle
from ema_core.runs import (
    Probes,
    RunDirectory,
    RunSpec,
    Status,
    differences,
    parse_defense,
    read_label,
    recipe,
    tags_of,
    write_label,
)
from ema_core.store import Reader, refresh


def test_a_label_changes_field_by_field_and_the_launch_name_stands_until_then() -> None:
    run = RunDirectory.create(RunSpec(), "first")
    assert read_label(run).name == "first" and read_label(run).tags == ()
    write_label(run, tags=["  A  b ", "a B", "", "c"])
    write_label(run, note="  seen\nthis ")
    label = read_label(run)
    assert (label.name, label.tags, label.note) == ("first", ("A b", "c"), "seen\nthis")
    write_label(run, name="")
    assert read_label(run).name == "", "taken away, and the old one does not come back"
    run.update(status=Status.DONE)
    assert read_label(run).tags == ("A b", "c") and tags_of([run]) == ["A b", "c"]


@pytest.mark.parametrize(
    "change", [{"name": "x" * 81}, {"tags": ["a,b"]}, {"tags": [f"t{n}" for n in range(21)]}, {"tags": ["x" * 41]}]
)
def test_what_is_too_long_is_refused_and_changes_nothing(change: dict) -> None:
    run = RunDirectory.create(RunSpec(), "first")
    with pytest.raises(EmaError):
        write_label(run, **change)
    assert read_label(run).name == "first" and not (run.path / "label.json").exists()


def test_a_damaged_label_loses_no_run() -> None:
    run = RunDirectory.create(RunSpec(), "first")
    (run.path / "label.json").write_text("{")
    assert read_label(run).name == "first"
    write_label(run, note="new")
    assert read_label(run).note == "new"


def test_a_label_is_in_the_index_and_in_a_bundle(tmp_path) -> None:
    run = RunDirectory.create(RunSpec(), "first")
    run.update(status=Status.DONE)
    refresh()
    write_label(run, name="second", tags=["keep"], note="why")
    assert refresh() is not None, "a change of the label is a change of the run"
    row = Reader().runs().iloc[0]
    assert (row["name"], json.loads(row["tags"]), row["note"]) == ("second", ["keep"], "why")
    export_bundle([run.id], tmp_path / "out")
    assert (tmp_path / "out" / "runs" / run.id / "label.json").exists()


def test_the_command_line_names_tags_and_notes(ema) -> None:
    run = RunDirectory.create(RunSpec(), "first")

    def told(*words: str) -> dict:
        return json.loads(ema("runs", *words, "--json", check=True).stdout)

    assert told("rename", run.id, "second")["name"] == "second"
    assert told("tag", run.id, "one", "two")["tags"] == ["one", "two"]
    assert told("tag", run.id, "three", "--remove", "ONE")["tags"] == ["two", "three"]
    assert told("note", run.id, "a note")["note"] == "a note" == told("note", run.id)["note"]
    assert [row["run_id"] for row in told("list", "--tag", "Two")["runs"]] == [run.id] and told("list", "--tag", "no")["runs"] == []


def test_differences_name_each_field_once_and_in_words() -> None:
    old = RunSpec(defenses=(parse_defense("kl=0.1:tokens=all"),), recipe=recipe("demo", steps=10), probes=Probes(steps=(5, 10)))
    new = RunSpec(
        dataset="extreme-sports", defenses=(parse_defense("kl=0.3:tokens=response"), parse_defense("ldifs=1")), seed=2,
        recipe=recipe("demo", steps=10, learning_rate=5e-4), probes=Probes(steps=(5, 10), stop_margin=0.3),
    )  # fmt: skip
    assert [(change.field, change.old, change.new) for change in differences(old, new)] == [
        ("data set", "risky-finance", "extreme-sports"),
        ("kl: strength", "0.1", "0.3"),
        ("kl: tokens", "all", "response"),
        ("ldifs", "off", "strength 1"),
        ("learning rate", "0.001", "0.0005"),
        ("stop above margin", "never", "0.3"),
        ("seed", "0", "2"),
    ]
    assert differences(old, old) == []
    by_passes = old.model_copy(update={"recipe": recipe("demo", epochs=2), "probes": None})
    assert [(change.field, change.new) for change in differences(old, by_passes)] == [
        ("steps", "by passes"), ("passes over the data", "2"), ("live probes after steps", "none"),
    ]  # fmt: skip


def test_a_run_is_found_by_a_name_that_it_alone_has() -> None:
    one, other = RunDirectory.create(RunSpec(), "twin"), RunDirectory.create(RunSpec(seed=1), "second")
    assert RunDirectory.open("twin").id == one.id
    write_label(other, name="twin")
    with pytest.raises(EmaError, match="2 runs are called"):
        RunDirectory.open("twin")
    write_label(one, name="first")
    assert RunDirectory.open("twin").id == other.id and RunDirectory.open("first").id == one.id
