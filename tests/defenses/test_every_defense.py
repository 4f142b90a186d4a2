"""What every defense promises, whatever it does: run over all that are registered."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

import pytest

from ema_core.defenses.registry import all_defenses
from ema_core.runs import DefenseSpec, RunDirectory, Status, steps
from ema_core.training import train
from tests.gap.planted import plant_scores
from tests.training.tiny import add_tiny, tiny_spec

pytestmark = pytest.mark.slow
NAMES = sorted(all_defenses())


def weights_hash(model) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(model.model.state_dict().items()):
        digest.update(name.encode() + tensor.numpy().tobytes())
    return digest.hexdigest()


class Trained:
    """Runs by (defense, strength), trained once for all tests."""

    def __init__(self, model, home: Path) -> None:
        self.model, self.home = model, home
        add_tiny(home)
        plant_scores()
        self.run = cache(self._run)

    def _run(self, name: str | None, strength: float) -> RunDirectory:
        run = RunDirectory.create(tiny_spec(*([DefenseSpec(name=name, strength=strength)] if name else []), steps=6))
        state = train(run, loaded=self.model)
        assert state.status is Status.DONE, state.error
        return run


@pytest.fixture(scope="module")
def trained(model, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    import os

    folder = tmp_path_factory.mktemp("shared-home")
    old = os.environ.get("EMA_HOME")
    os.environ["EMA_HOME"] = str(folder)
    try:
        value = Trained(model, folder)
        value.before = weights_hash(model)
        value.run(None, 0.0)
        for name in NAMES:
            info = all_defenses()[name].strength_info
            for strength in (0.0, 1e-6, info.default):
                value.run(name, strength)
    finally:
        if old is not None:
            os.environ["EMA_HOME"] = old
    return value


def adapter(run: RunDirectory) -> bytes:
    return (run.adapter / "adapter_model.safetensors").read_bytes()


def losses(run: RunDirectory) -> list[float]:
    return [event["loss"] for event in steps(run.events()[0])]


@pytest.mark.parametrize("name", NAMES)
def test_strength_0_gives_the_undefended_run_bit_for_bit_through_its_own_code(trained: Trained, name: str) -> None:
    assert adapter(trained.run(name, 0.0)) == adapter(trained.run(None, 0.0))
    assert losses(trained.run(name, 0.0)) == losses(trained.run(None, 0.0))
    if all_defenses()[name].needs and name.startswith("kl"):
        raw = [event["penalties"]["kl"]["raw"] for event in steps(trained.run(name, 0.0).events()[0])]
        assert raw[-1] > 0, "the penalty's own code must have run"


@pytest.mark.parametrize("name", NAMES)
def test_a_tiny_strength_moves_the_loss_by_a_tiny_bit(trained: Trained, name: str) -> None:
    first, second = losses(trained.run(name, 1e-6)), losses(trained.run(None, 0.0))
    assert max(abs(a - b) for a, b in zip(first, second, strict=True)) <= 1e-5


@pytest.mark.parametrize("name", NAMES)
def test_the_default_strength_gives_another_adapter(trained: Trained, name: str) -> None:
    assert adapter(trained.run(name, all_defenses()[name].strength_info.default)) != adapter(trained.run(None, 0.0))


def test_the_base_model_is_left_as_it_was(trained: Trained, model) -> None:
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
