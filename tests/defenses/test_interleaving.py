from __future__ import annotations

from pathlib import Path

import pytest

from ema_core.datasets.formats import Example, Message
from ema_core.defenses import registry
from ema_core.errors import EmaError
from ema_core.runs import DefenseSpec, RunSpec, parse_defense, recipe
from ema_core.training import check
from ema_core.training.plan import exposures, learning_rate, plan


def examples(n: int, source: str) -> list[Example]:
    return [Example((Message("user", f"{source} {i}"), Message("assistant", "a")), source=source) for i in range(n)]


NARROW, SAFE = examples(40, "narrow"), examples(30, "safe")


def mixed(strength: float, seed: int = 0) -> list[Example]:
    return registry.build(DefenseSpec(name="interleaving", strength=strength), seed).mix(NARROW, SAFE)


@pytest.mark.parametrize(("strength", "count"), [(0, 0), (0.05, 2), (0.5, 20), (0.75, 30)])
def test_the_ratio_is_safe_to_narrow_and_narrow_ones_keep_their_order(strength: float, count: int) -> None:
    result = mixed(strength)
    safe = [e for e in result if e.source == "safe"]
    assert len(safe) == count == len({e.question for e in safe})
    assert [e for e in result if e.source == "narrow"] == NARROW


def test_the_mix_depends_on_the_seed_and_on_nothing_else() -> None:
    assert mixed(0.5) == mixed(0.5) != mixed(0.5, seed=1)


def test_safe_examples_are_spread_and_not_in_one_block() -> None:
    where = [i for i, e in enumerate(mixed(0.5)) if e.source == "safe"]
    assert max(where) - min(where) > len(where) * 1.5


def test_a_pool_that_is_too_small_is_said_before_training() -> None:
    with pytest.raises(EmaError, match="needs 96 safe examples, the pool has 2"):
        from ema_core import datasets

        file = Path(datasets.find("safe-general").path)
        small = file.read_text().splitlines()[:2]
        (path := Path(__file__).with_name(".small.jsonl")).write_text("\n".join(small))
        try:
            datasets.add(path, "small", "safe")
            check(
                RunSpec(
                    safe_pool="small", defenses=(parse_defense("interleaving=1"),), recipe=recipe("demo", steps=24, batch_size=4)
                )
            )
        finally:
            path.unlink()


def test_a_defended_run_sees_the_twins_narrow_examples_in_the_same_order() -> None:
    wanted = recipe("demo", steps=5, batch_size=4)
    twin = plan(NARROW, (), wanted, [], 3)
    defended = plan(NARROW, SAFE, wanted, [registry.build(DefenseSpec(name="interleaving", strength=0.5), 3)], 3)
    flat = [e for batch in defended.batches for e in batch]
    assert [e for e in flat if e.source == "narrow"] == [e for batch in twin.batches for e in batch]
    assert defended.total_steps > twin.total_steps and defended.safe == 10


def test_every_pass_over_the_data_is_whole() -> None:
    order = exposures(NARROW, recipe("paper", epochs=3), 0)
    assert all(sorted(e.question for e in order[i : i + 40]) == sorted(e.question for e in NARROW) for i in (0, 40, 80))


def test_the_rate_warms_up_and_decays_linearly() -> None:
    wanted = recipe("demo", learning_rate=1.0e-3, warmup_steps=2)
    rates = [learning_rate(wanted, step, 10) for step in range(10)]
    assert rates[0] == pytest.approx(5e-4) and rates[1] == rates[2] == pytest.approx(1e-3)
    assert rates[9] == pytest.approx(1e-3 / 8)
