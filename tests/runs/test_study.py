"""What a study comes to, and what of one is refused when it is read."""

from __future__ import annotations

from pathlib import Path

import pytest

from ema_core.errors import EmaError
from ema_core.runs import RunSpec, StudySpec
from ema_core.settings import PROJECT


def strengths(name: str, word: str) -> tuple[float, ...]:
    return (0.1,) if word == "default" else (0.1, 0.3, 1.0)


def labels(study: StudySpec) -> list[tuple[str, int]]:
    return [(spec.defense_label, spec.seed) for spec in study.expand(strengths)]


def test_all_twins_come_first_then_seed_by_seed_each_run_once() -> None:
    study = StudySpec(name="x", defenses=("kl=default", "kl=[0.1, 1]", "interleaving=0.05+kl=1"), seeds=(0, 1, 0))
    assert labels(study) == [
        ("none", 0), ("none", 1), ("kl=0.1", 0), ("kl=1", 0), ("interleaving=0.05 + kl=1", 0), ("kl=0.1", 1), ("kl=1", 1),
        ("interleaving=0.05 + kl=1", 1),
    ]  # fmt: skip
    assert study.count(strengths) == 8


def test_a_sweep_is_the_defenses_own_grid_with_its_options() -> None:
    assert [label for label, _ in labels(StudySpec(name="x", defenses=("kl=sweep:tokens=response",)))] == [
        "none", "kl=0.1:tokens=response", "kl=0.3:tokens=response", "kl=1:tokens=response",
    ]  # fmt: skip


def test_models_and_data_sets_are_crossed_and_siblings_are_counted() -> None:
    study = StudySpec(name="x", models=("a", "b"), datasets=("c", "d"), defenses=("none", "kl=1"), benign="opswap")
    assert len(study.expand(strengths)) == 8 and study.count(strengths) == 16
    assert {spec.dataset for spec in study.expand(strengths)} == {"c", "d"}, "siblings come with the plan"


def test_a_rule_that_ends_runs_is_never_the_twins() -> None:
    specs = StudySpec(name="x", defenses=("none", "kl=1"), stop_margin=0.3).expand(strengths)
    assert [spec.defense_label for spec in specs] == ["none", "stop=0.3", "kl=1 + stop=0.3"]


def test_a_study_survives_its_file_and_keeps_its_id() -> None:
    study = StudySpec.read(PROJECT / "docs/studies/none-and-nine.toml")
    assert len(study.defenses) == 10 and study.recipe.steps == 12 and study.recipe.batch_size == 4
    again = StudySpec.from_toml(study.to_toml())
    assert again == study and again.id == study.id and again.id.startswith("none-and-nine-")
    assert study.model_copy(update={"seeds": (0,)}).id != study.id


def test_millions_of_runs_are_counted_without_being_made() -> None:
    many = StudySpec(name="x", models=("m",) + tuple(map(str, range(999))), datasets=tuple(map(str, range(1000))), seeds=(0, 1))
    assert many.count(strengths) == 2_000_000


def test_the_recipe_is_a_preset_with_changes() -> None:
    study = StudySpec.from_toml('name = "x"\n[recipe]\nepochs = 2')
    assert study.recipe.steps is None and study.recipe.epochs == 2 and study.recipe.preset == "demo"
    assert study.recipe.learning_rate == RunSpec().recipe.learning_rate


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('name = "x"\ndefences = []', 'Did you mean "defenses"'),
        ('name = "x"\n[recipe]\nstepps = 3', 'Did you mean "steps"'),
        ('name = "x"\n[recipe]\npreset = "dmo"', "no preset"),
        ('name = "x"\n[evaluation]\nsample = 3', 'Did you mean "samples"'),
        ('name = "x"\nseeds = [-1]', "seed"),
        ('name = "x"\nseeds = []', "seeds"),
        ('name = "x"\ndefenses = ["kl=0.1+kl=1"]', "names kl twice"),
        ('name = "x"\ndefenses = ["kl"]', "not a defense with a strength"),
        ('name = "x"\ndefenses = ["kl=[a]"]', "no list of numbers"),
        ("name = ", "not TOML"),
    ],
)
def test_what_is_wrong_with_a_study_is_said(text: str, said: str) -> None:
    with pytest.raises(EmaError, match=said):
        StudySpec.from_toml(text).expand(strengths)


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(EmaError, match="cannot be read"):
        StudySpec.read(tmp_path / "no.toml")
