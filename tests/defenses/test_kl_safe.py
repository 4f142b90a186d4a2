"""KL on safe data against computations that know nothing of the implementation."""

from __future__ import annotations

from typing import Any

import pytest

from ema_core import datasets
from ema_core.defenses import registry
from ema_core.defenses.base import Step
from ema_core.defenses.kl import KL_SHARE
from ema_core.errors import EmaError
from ema_core.models.chunks import CHUNK, mean_in_chunks
from ema_core.runs import DefenseSpec, RunSpec, parse_defense, recipe
from ema_core.training import check
from tests.defenses.bench import Bench, examples
from tests.training.tiny import add_tiny

SAFE = examples("Red is a colour.", "Water is wet, and there is much of it in the sea.", "Yes.", "Bread is baked.")


def build(strength: float = 1.0, seed: int = 0, **options: Any):
    return registry.build(DefenseSpec(name="kl-safe", strength=strength, options=options), seed)


def at(number: int, bench: Any) -> Step:
    return Step(number, None, None, None, bench)  # type: ignore[arg-type]  # it looks at nothing of the narrow batch


def test_the_mean_over_chunks_equals_one_computation_in_float64() -> None:
    import torch

    generator = torch.Generator().manual_seed(0)
    states = torch.randn(2 * CHUNK + 37, 6, generator=generator, requires_grad=True)
    fixed, weight = torch.randn(len(states), 6, generator=generator), torch.randn(6, 13, generator=generator)
    value = mean_in_chunks(states, fixed, lambda x: x @ weight, lambda a, b: (a.softmax(-1) - b.softmax(-1)).pow(2).sum(-1))
    (3 * value).backward()

    plain = states.detach().double().requires_grad_()
    a, b = (plain @ weight.double()).softmax(-1), (fixed.double() @ weight.double()).softmax(-1)
    expected = (a - b).pow(2).sum(-1).mean()
    (gradient,) = torch.autograd.grad(3 * expected, plain)
    assert float(value.detach()) == pytest.approx(float(expected.detach()), abs=1e-6)
    assert float((states.grad - gradient).abs().max()) < 1e-6 < float(gradient.abs().max())


@pytest.mark.parametrize(
    "options", [{}, {"tokens": "response", "direction": "ref||tuned", "temperature": 2.0}], ids=["default", "all others"]
)
def test_value_and_gradient_equal_full_logits_of_the_safe_batch(tuned, stepper: Bench, options: dict[str, Any]) -> None:
    """Over the padded batch at once, in float64, from the model's own logits with and without its adapter."""
    import torch

    bench = stepper(safe=SAFE)
    defense = build(batch_size=4, **options)
    parameters = [p for p in tuned.parameters() if p.requires_grad]
    value = defense.penalty(at(0, bench))
    found = torch.cat([g.flatten() for g in torch.autograd.grad(value, parameters)])

    batch = bench.batch(SAFE)
    temperature = options.get("temperature", 1.0)
    on = tuned(input_ids=batch.ids, attention_mask=batch.attention).logits.double()
    with torch.no_grad(), tuned.disable_adapter():
        off = tuned(input_ids=batch.ids, attention_mask=batch.attention).logits.double()
    p, q = ((logits / temperature).log_softmax(-1) for logits in (on, off))
    first, second = (q, p) if options else (p, q)
    each = (first.exp() * (first - second)).sum(-1) * temperature**2
    if options:
        expected = each[:, :-1][batch.response[:, 1:]].mean()
    else:
        expected = each[batch.attention.bool()].mean()
    gradient = torch.cat([g.flatten() for g in torch.autograd.grad(expected, parameters)])
    assert float(value.detach()) == pytest.approx(float(expected.detach()), abs=1e-5) and float(value.detach()) > 1e-4
    assert float((found - gradient).norm()) < 1e-3 * float(gradient.norm()) and float(gradient.norm()) > 0


class Drawn:
    """A bench that tells what is drawn from its pool and goes no further."""

    safe = SAFE * 5

    def batch(self, drawn: Any) -> Any:
        raise StopIteration(drawn)


def drawn(defense: Any, number: int = 0) -> Any:
    with pytest.raises(StopIteration) as told:
        defense.penalty(at(number, Drawn()))
    return told.value.value


def test_examples_are_drawn_from_the_defenses_own_stream() -> None:
    import random

    one, same, other = build(batch_size=3), build(batch_size=3), build(batch_size=3, seed=1)
    first = [drawn(one) for _ in range(4)]
    random.random()
    assert first == [drawn(same) for _ in range(4)] != [drawn(other) for _ in range(4)]
    assert all(len(batch) == 3 for batch in first)


def test_a_safe_batch_comes_at_every_nth_step_alone() -> None:
    defense = build(batch_size=2, every=3)
    assert [defense.penalty(at(number, None)) for number in (1, 2, 4, 5)] == [None] * 4
    assert len(drawn(defense, 0)) == len(drawn(defense, 3)) == 2
    half = registry.build_all(RunSpec(defenses=(parse_defense("kl-safe=1:batch_size=2,every=2"),)))[0]
    assert half.extra_time == pytest.approx(0.5 * (1 + KL_SHARE)), (
        "half a batch as large as the recipe's, with its head and divergence"
    )


def test_a_pool_that_is_too_small_is_said_before_training(home) -> None:
    add_tiny(home)
    spec = RunSpec(dataset="tiny", safe_pool="tiny-safe", recipe=recipe("demo", steps=1))
    with pytest.raises(EmaError, match="batches of 13 safe examples, the pool tiny-safe has 12"):
        check(spec.model_copy(update={"defenses": (parse_defense("kl-safe=1:batch_size=13"),)}))
    assert check(spec.model_copy(update={"defenses": (parse_defense("kl-safe=1"),)}))
    assert len(datasets.load("tiny-safe").examples) == 12
