"""LDIFS against computations that know nothing of the implementation."""

from __future__ import annotations

from typing import Any

import pytest

from ema_core.datasets.encoding import collate, encode
from ema_core.defenses import registry
from ema_core.defenses.base import Step
from ema_core.defenses.ldifs import LDIFS, feature_distance, feature_layers, squared_distances
from ema_core.models import find
from ema_core.runs import DefenseSpec, RunSpec, parse_defense, recipe
from ema_core.settings import settings
from ema_core.training.estimate import estimate
from tests.defenses.bench import Bench, examples

ROWS = examples("Red is a colour.", "Water is wet, and there is much of it in the sea.", "Yes.", source="narrow")


def build(**options: Any) -> LDIFS:
    found = registry.build(DefenseSpec(name="ldifs", strength=1.0, options=options), 0)
    assert isinstance(found, LDIFS)
    return found


def batch_of(model, rows=ROWS):
    import torch

    return collate([encode(row, model.tokenizer, 99) for row in rows], model.tokenizer.pad_token_id, torch.device("cpu"))


def penalty_of(defense: LDIFS, bench: Any, batch: Any) -> Any:
    """As the loop calls it."""
    fixed = bench.reference_features(batch)
    hidden, features = bench.forward(batch, bench.wanted)
    return defense.penalty(Step(0, batch, hidden, bench.model, bench, features, fixed))


def by_hand(peft_model: Any, rows: Any, layers: list[int], normalise: str) -> Any:
    """The formula in float64, row by row without padding, from the states that transformers itself gives out.

    The last layer's output is read before the final norm: from the norm's own input.
    """
    import torch

    values, tokens = [], []
    for row in rows:
        ids = torch.tensor([row.ids])
        sides = []
        for off in (False, True):
            seen: list[Any] = []
            handle = peft_model.get_base_model().model.norm.register_forward_pre_hook(lambda m, x, seen=seen: seen.append(x[0]))
            if off:
                with torch.no_grad(), peft_model.disable_adapter():
                    states = peft_model(input_ids=ids, output_hidden_states=True).hidden_states
            else:
                states = peft_model(input_ids=ids, output_hidden_states=True).hidden_states
            handle.remove()
            sides.append([*states[:-1], seen[0]])
        concatenated = []
        for layer in layers:
            x, x0 = (side[layer][0].double() for side in sides)
            if normalise == "example":
                concatenated.append(x.flatten() / x.norm() - x0.flatten() / x0.norm())
            else:
                concatenated.append((x / x.norm(dim=1, keepdim=True) - x0 / x0.norm(dim=1, keepdim=True))[1:].T)
        difference = torch.cat(concatenated)
        values.append((difference**2).sum())
        tokens.append(len(row.ids) - 1)
    return sum(values) / (len(values) if normalise == "example" else sum(tokens))


@pytest.mark.parametrize("normalise", ["example", "token"])
def test_value_and_gradient_equal_a_computation_row_by_row_in_float64(model, tuned, stepper: Bench, normalise: str) -> None:
    """So padding is outside the norm as well: a batch gives what its rows alone give."""
    import torch

    defense = build(normalise=normalise)
    bench, batch = stepper([defense]), batch_of(model)
    parameters = [p for p in tuned.parameters() if p.requires_grad]
    value = penalty_of(defense, bench, batch)
    expected = by_hand(tuned, batch.rows, [1, 8, 16, 23, 30], normalise)
    assert len({len(row.ids) for row in batch.rows}) == 3
    assert float(value.detach()) == pytest.approx(float(expected.detach()), rel=1e-3) and float(expected.detach()) > 1e-5
    found, wanted = (
        torch.cat([torch.zeros(p.numel()) if g is None else g.flatten() for g, p in zip(grads, parameters, strict=True)])
        for grads in (torch.autograd.grad(v, parameters, allow_unused=True) for v in (value, expected))
    )
    assert float(wanted.norm()) > 0 and float((found - wanted).norm()) < 5e-3 * float(wanted.norm())


def made_up(seed: int) -> tuple[dict[int, Any], dict[int, Any], Any]:
    """Features of two layers whose size differs much by position, as real ones do; the second row has padding."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    sides = [
        {layer: torch.randn(2, 5, 4, generator=generator) * torch.tensor([30.0, 1, 2, 1, 3]).view(1, 5, 1) for layer in (2, 7)}
        for _ in range(2)
    ]
    return *sides, torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])  # type: ignore[return-value]


@pytest.mark.parametrize("normalise", ["example", "token"])
def test_the_formula_equals_plain_python(normalise: Any) -> None:
    import math

    tuned, fixed, attention = made_up(0)
    parts = squared_distances(tuned, fixed, attention, normalise)
    rows, count = [], 0
    for row, length in enumerate((5, 3)):
        total = 0.0
        for layer in tuned:
            x, y = (side[layer][row, :length].double().tolist() for side in (tuned, fixed))
            norms = [[math.sqrt(sum(v * v for v in token)) for token in side] for side in (x, y)]
            whole = [math.sqrt(sum(n * n for n in side)) for side in norms]
            for t in range(length):
                by = whole if normalise == "example" else (norms[0][t], norms[1][t])
                here = sum((a / by[0] - b / by[1]) ** 2 for a, b in zip(x[t], y[t], strict=True))
                total += here if normalise == "example" or t else 0.0
        rows.append(total)
        count += length - 1
    expected = sum(rows) / 2 if normalise == "example" else sum(rows) / count
    assert float(feature_distance(parts, attention, normalise)) == pytest.approx(expected, abs=1e-5)
    assert float(parts[1, 3:].abs().max()) == 0


def test_layers_go_from_the_first_to_the_last_and_the_published_choice_holds_the_embedding() -> None:
    assert feature_layers(30) == [1, 8, 16, 23, 30] == list(build().layers(30))
    assert feature_layers(28) == [1, 8, 14, 21, 28]
    assert feature_layers(30, "published") == [0, 7, 15, 22, 30] == list(build(layers="published").layers(30))
    assert feature_layers(3) == [1, 2, 3]


def test_the_embedding_does_not_move_and_the_other_published_layers_do(model, stepper: Bench) -> None:
    defense = build(layers="published")
    bench, batch = stepper([defense]), batch_of(model)
    fixed = bench.reference_features(batch)
    _, features = bench.forward(batch, bench.wanted)
    real = batch.attention.unsqueeze(-1)
    moved = {layer: float(((features[layer].detach() - fixed[layer]) * real).abs().max()) for layer in features}
    assert moved[0] == 0 and all(moved[layer] > 1e-3 for layer in (7, 15, 22, 30))


def test_with_the_published_code_there_is_a_value_and_no_gradient(model, stepper: Bench) -> None:
    defense, real = build(published_code=True), build()
    bench, batch = stepper([defense]), batch_of(model)
    value = penalty_of(defense, bench, batch)
    assert not value.requires_grad and float(value) == float(penalty_of(real, bench, batch).detach()) > 0
    report = defense.finish(None)
    assert report and "it trained nothing" in report.text and "trains nothing" in LDIFS.summary and "nothing" in LDIFS.fails


def test_the_report_says_what_share_of_the_distance_the_first_position_had(model, stepper: Bench) -> None:
    """And in real features it has most of the squared norm, so that the paper's mode hardly sees the rest."""
    defense = build()
    bench, batch = stepper([defense]), batch_of(model)
    penalty_of(defense, bench, batch)
    _, features = bench.forward(batch, bench.wanted)
    parts = squared_distances(features, bench.reference_features(batch), batch.attention)
    report = defense.finish(None)
    assert report and report.figures["share_first_position"] == pytest.approx(float((parts[:, 0].sum() / parts.sum()).detach()))
    assert sum(report.figures.values()) == pytest.approx(1)
    middle = features[16].detach()[0, : len(batch.rows[0].ids)].pow(2).sum(-1)
    assert float(middle[0] / middle.sum()) > 0.7


def test_kept_features_come_back_to_the_bit_and_those_that_do_not_fit_are_the_same(model, stepper: Bench, monkeypatch) -> None:
    import torch

    batch = batch_of(model)
    first = stepper([build()]).reference_features(batch)
    files = list(settings().cache.rglob("*.safetensors"))
    assert len(files) == 3
    again = stepper([build()]).reference_features(batch)
    for file in files:
        file.unlink()
    rebuilt = stepper([build()]).reference_features(batch_of(model, ROWS[::-1]))
    rest = list(settings().cache.rglob("*.safetensors"))
    for file in rest:
        file.unlink()
    anew = stepper([build()], tokens=10**9).reference_features(batch)
    assert rest and not list(settings().cache.rglob("*.safetensors"))
    for layer in first:
        assert torch.equal(first[layer], again[layer]) and torch.equal(first[layer], anew[layer])
        assert torch.equal(first[layer], rebuilt[layer].flip(0))


def test_the_estimate_says_whether_features_are_kept(monkeypatch) -> None:
    spec = RunSpec(recipe=recipe("demo", steps=10), defenses=(parse_defense("ldifs=1"),))
    plain, kept = estimate(spec.model_copy(update={"defenses": ()})), estimate(spec)
    assert "kept on disk" in kept.notes[0] and plain.notes == ()
    tokens = plain.tokens  # ten steps hold no example twice
    assert kept.disk - plain.disk == tokens * 5 * find(spec.model).hidden * 4
    monkeypatch.setenv("EMA_REFERENCE_CACHE_GB", "0.000001")
    anew = estimate(spec)
    assert "computed anew" in anew.notes[0] and anew.disk == plain.disk and anew.memory > plain.memory
