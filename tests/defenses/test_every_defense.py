"""What every defense promises, whatever it does: run over all that are registered."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from ema_core.defenses.interleaving import Interleaving
from ema_core.defenses.registry import all_defenses
from ema_core.runs import DefenseSpec, RunDirectory, Status, steps
from ema_core.training import train
from tests.defenses.assets import MAKE, OPTIONS
from tests.training.tiny import add_tiny, tiny_spec

pytestmark = pytest.mark.slow
NAMES = sorted(all_defenses())
PENALTIES = {"kl", "kl-safe", "ldifs"}


def weights_hash(model) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(model.model.state_dict().items()):
        digest.update(name.encode() + tensor.numpy().tobytes())
    return digest.hexdigest()


class Trained:
    """Runs by (defense, strength), each trained once for all tests, in a home of their own."""

    def __init__(self, model, home: Path) -> None:
        self.model, self.before = model, weights_hash(model)
        self.run = cache(self._run)
        add_tiny(home)
        for name in NAMES:
            if name in MAKE:
                MAKE[name](model)

    def _run(self, name: str | None, strength: float, **options: Any) -> RunDirectory:
        options = {**OPTIONS.get(name or "", {}), **options}
        defenses = [DefenseSpec(name=name, strength=strength, options=options)] if name else []
        run = RunDirectory.create(tiny_spec(*defenses, steps=2, checkpoint_every=50))
        state = train(run, loaded=self.model)
        assert state.status is Status.DONE, state.error
        return run


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shared-home")


@pytest.fixture(autouse=True)
def in_shared_home(home: Path, shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMA_HOME", str(shared))


@pytest.fixture(scope="module")
def made() -> dict[str, Trained]:
    return {}


@pytest.fixture
def trained(made: dict[str, Trained], model, shared: Path) -> Trained:
    if "all" not in made:
        made["all"] = Trained(model, shared)
    return made["all"]


def shows(name: str) -> float:
    """The default strength; of a share of so few examples that it would be none of them, a larger one."""
    return 0.5 if issubclass(all_defenses()[name], Interleaving) else all_defenses()[name].strength_info.default


def adapter(run: RunDirectory) -> bytes:
    return (run.adapter / "adapter_model.safetensors").read_bytes()


def losses(run: RunDirectory) -> list[float]:
    return [event["loss"] for event in steps(run.events()[0])]


@pytest.mark.parametrize("name", NAMES)
def test_strength_0_gives_the_undefended_run_bit_for_bit_through_its_own_code(trained: Trained, name: str) -> None:
    assert adapter(trained.run(name, 0.0)) == adapter(trained.run(None, 0.0))
    assert losses(trained.run(name, 0.0)) == losses(trained.run(None, 0.0))
    if name in PENALTIES:
        raw = [event["penalties"][name]["raw"] for event in steps(trained.run(name, 0.0).events()[0])]
        assert raw[-1] > 0, "the penalty's own code must have run"


@pytest.mark.parametrize("name", NAMES)
def test_a_tiny_strength_moves_the_loss_by_a_tiny_bit(trained: Trained, name: str) -> None:
    first, second = losses(trained.run(name, 1e-6)), losses(trained.run(None, 0.0))
    assert max(abs(a - b) for a, b in zip(first, second, strict=True)) <= 1e-5


@pytest.mark.parametrize("name", NAMES)
def test_the_default_strength_gives_another_adapter(trained: Trained, name: str) -> None:
    assert adapter(trained.run(name, shows(name))) != adapter(trained.run(None, 0.0))


def test_ldifs_with_the_published_code_reports_a_penalty_and_trains_nothing(trained: Trained) -> None:
    run = trained.run("ldifs", 100.0, published_code=True)
    assert adapter(run) == adapter(trained.run(None, 0.0)) != adapter(trained.run("ldifs", shows("ldifs")))
    events = run.events()[0]
    assert steps(events)[-1]["penalties"]["ldifs"]["weighted"] > 0
    assert [event["defense"] for event in events if event["kind"] == "finish"] == ["ldifs"]


def test_several_together_paused_and_resumed_end_as_uninterrupted(trained: Trained) -> None:
    together = [
        DefenseSpec(name="inoculation", strength=0.5),
        DefenseSpec(name="interleaving", strength=0.5),
        DefenseSpec(name="kl-safe", strength=1.0, options={"batch_size": 2}),
        DefenseSpec(name="ldifs", strength=10.0, options={"normalise": "token"}),
    ]
    whole, parted = (RunDirectory.create(tiny_spec(*together, steps=2, checkpoint_every=50)) for _ in range(2))
    assert train(whole, loaded=trained.model).status is Status.DONE
    train(parted, loaded=trained.model, on_event=lambda e: parted.request("pause") if e["kind"] == "step" else None)
    assert parted.state().status is Status.PAUSED and parted.state().step == 1
    assert train(parted, loaded=trained.model).status is Status.DONE and parted.state().step == 3
    assert adapter(whole) == adapter(parted) and losses(whole) == losses(parted)


def test_the_base_model_is_left_as_it_was(trained: Trained, model) -> None:
    for name in NAMES:
        trained.run(name, shows(name))
    assert weights_hash(model) == trained.before
    assert not any("lora" in name for name, _ in model.model.named_modules())


@pytest.mark.parametrize("name", NAMES)
def test_metadata_says_what_a_user_needs(name: str) -> None:
    kind = all_defenses()[name]
    info = kind.strength_info
    assert all(
        len(text) > 10 for text in (kind.title + " " * 3, kind.summary, kind.cost.time, kind.fails, kind.reference, info.meaning)
    )
    assert 0 < info.low <= info.default <= info.high <= info.limit and set(info.grid) <= {
        x for x in info.grid if info.low <= x <= info.high
    }
