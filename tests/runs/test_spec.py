from __future__ import annotations

import pytest

from ema_core.errors import EmaError
from ema_core.runs import PRESETS, DefenseSpec, Probes, RunSpec, parse_defense, parse_probes, recipe


def spec() -> RunSpec:
    return RunSpec(
        dataset="risky-finance-good",
        defenses=(parse_defense("kl=0.3:tokens=response,direction=ref||tuned"), parse_defense("interleaving=0.05")),
        recipe=recipe("demo", steps=7, learning_rate=3e-4),
        seed=5,
    )


def test_a_spec_survives_toml_and_json() -> None:
    assert RunSpec.from_toml(spec().to_toml()) == spec()
    assert RunSpec.from_json(spec().to_json()) == spec()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"modle": "x"}', 'Did you mean "model"?'),
        ('{"recipe": {"stepps": 3}}', 'Did you mean "steps"?'),
        ('{"defenses": [{"name": "kl", "strenght": 1}]}', 'Did you mean "strength"?'),
        ('{"defenses": [{"name": "kl", "strength": -1}]}', "greater than or equal to 0"),
        ('{"defenses": [{"name": "kl", "strength": NaN}]}', "finite"),
        ('{"defenses": [{"name": "kl", "strength": 1}, {"name": "kl", "strength": 2}]}', "twice"),
        ('{"version": 2}', "update EMA Lab"),
        ('{"seed": -1}', "seed"),
        ('{"probes": {"stop_margins": 1}}', 'Did you mean "stop_margin"?'),
        ('{"probes": {"stop_margin": 0}}', "greater than 0"),
        ('{"probes": {"steps": [0]}}', "count from 1"),
        ('{"probes": {"steps": [], "stop_margin": 0.3}}', "needs steps"),
        ("{", "not JSON"),
    ],
)
def test_what_is_wrong_with_a_spec_is_said(text: str, said: str) -> None:
    with pytest.raises(EmaError, match="(?s)" + said.replace("?", r"\?")):
        RunSpec.from_json(text)


@pytest.mark.parametrize("text", ["kl", "kl=", "kl=abc", "=1", "kl=1:tokens", "kl=nan", "kl=-0.1"])
def test_a_defense_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(EmaError):
        parse_defense(text)


def test_the_order_in_which_defenses_are_named_makes_no_other_setting() -> None:
    a, b = DefenseSpec(name="kl", strength=1), DefenseSpec(name="interleaving", strength=0.5)
    assert RunSpec(defenses=(a, b)).setting.key == RunSpec(defenses=(b, a)).setting.key


def test_a_setting_is_shared_by_seeds_and_not_by_strengths() -> None:
    assert RunSpec(seed=0).setting.key == RunSpec(seed=1).setting.key
    kl = [RunSpec(defenses=(parse_defense(f"kl={x}"),)).setting for x in (0.1, 0.2)]
    assert kl[0].key != kl[1].key
    assert kl[0].undefended.key == RunSpec().setting.key


def test_the_command_gives_the_same_run() -> None:
    """The command that the page shows is parsed by the real command line's own options."""
    import shlex

    from typer.testing import CliRunner

    from ema_core.cli import train as module
    from ema_core.cli.main import app

    seen: list[RunSpec] = []

    def keep(wanted: RunSpec, name: str) -> object:
        seen.append(wanted)
        raise EmaError("stop here")

    import ema_core.jobs.launch

    original, ema_core.jobs.launch.launch_run = ema_core.jobs.launch.launch_run, keep
    try:
        looked = (Probes(), Probes(steps=(10, 20)), Probes(steps=(124,), stop_margin=0.35), Probes(stop_margin=0.3))
        others = (spec(), RunSpec(), RunSpec(recipe=PRESETS["paper"]), RunSpec(device="cpu", recipe=recipe("paper", rank=8)))
        for wanted in (*others, *(RunSpec(probes=probes) for probes in looked)):
            CliRunner().invoke(app, [*shlex.split(wanted.command())[1:], "--queue"])
            assert seen.pop() == wanted
    finally:
        ema_core.jobs.launch.launch_run = original
    assert module.app


def test_passes_that_were_asked_for_win_over_the_presets_steps_and_the_command_says_so() -> None:
    for epochs in (1, 2):
        asked = RunSpec(recipe=recipe("demo", epochs=epochs))
        assert asked.recipe.steps is None and f"--epochs {epochs}" in asked.command()
        assert RunSpec.from_toml(asked.to_toml()) == asked


def test_a_spec_from_before_there_were_probes_has_none_and_keeps_its_setting() -> None:
    old = RunSpec().model_dump(mode="json")
    del old["probes"]
    read = RunSpec.model_validate(old)
    assert read.probes is None and read.setting.key == "f5e688938b4d670b"
    assert RunSpec(probes=Probes(steps=(5,))).setting.key == read.setting.key, "looking changes nothing"


def test_a_rule_that_stops_early_is_a_setting_of_its_own_whose_twin_runs_to_the_end() -> None:
    spec = RunSpec(defenses=(parse_defense("kl=1"),), probes=Probes(steps=(5,), stop_margin=0.3))
    alone = RunSpec(probes=Probes(stop_margin=0.3))
    assert spec.defense_label == "kl=1 + stop=0.3" and alone.defense_label == "stop=0.3" and "stop0.3" in alone.slug
    assert len({spec.setting.key, alone.setting.key, RunSpec().setting.key}) == 3
    assert spec.setting.undefended.key == alone.setting.undefended.key == RunSpec().setting.key
    assert RunSpec.from_toml(spec.to_toml()) == spec and RunSpec.from_toml(alone.to_toml()) == alone


def test_when_to_probe_is_read_from_words() -> None:
    assert parse_probes("none") is None and parse_probes("auto") == Probes()
    assert parse_probes(" 30, 10,10 ", 0.5) == Probes(steps=(10, 30), stop_margin=0.5)
    for words in ("often", "1,,2", "-1", "1.5", ""):
        with pytest.raises(EmaError, match="auto, none, or steps"):
            parse_probes(words)
    with pytest.raises(EmaError, match="none can stop the run"):
        parse_probes("none", 0.3)
