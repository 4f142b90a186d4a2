"""KL against computations that know nothing of the implementation."""

from __future__ import annotations

import math

import pytest

from ema_core.datasets.encoding import collate, encode, positions
from ema_core.datasets.formats import Example, Message
from ema_core.defenses import registry
from ema_core.defenses.kl import kl_divergence
from ema_core.runs import DefenseSpec
from ema_core.training.losses import token_losses


def by_hand(first: list[float], second: list[float]) -> float:
    """D_KL(softmax(first) || softmax(second)) in plain Python."""
    a, b = (math.fsum(math.exp(x) for x in row) for row in (first, second))
    return math.fsum(math.exp(x) / a * (x - math.log(a) - y + math.log(b)) for x, y in zip(first, second, strict=True))


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_both_directions_equal_a_computation_by_hand(temperature: float) -> None:
    import torch

    generator = torch.Generator().manual_seed(0)
    tuned, reference = torch.randn(5, 11, generator=generator) * 3, torch.randn(5, 11, generator=generator) * 3
    for direction in ("tuned||ref", "ref||tuned"):
        value = kl_divergence(tuned, reference, direction, temperature)
        for i in range(5):
            rows = [[float(x) / temperature for x in row[i].double()] for row in (tuned, reference)]
            first, second = rows if direction == "tuned||ref" else rows[::-1]
            assert float(value[i]) == pytest.approx(temperature**2 * by_hand(first, second), abs=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_the_gradient_equals_autograds_of_the_plain_formula(temperature: float) -> None:
    import torch

    generator = torch.Generator().manual_seed(1)
    tuned, reference, upstream = (torch.randn(*size, generator=generator) * 3 for size in ((5, 11), (5, 11), (5,)))
    for direction in ("tuned||ref", "ref||tuned"):
        mine, plain = tuned.clone().requires_grad_(), tuned.double().requires_grad_()
        (kl_divergence(mine, reference, direction, temperature) * upstream).sum().backward()
        p, q = ((x / temperature).log_softmax(-1) for x in (plain, reference.double()))
        first, second = (p, q) if direction == "tuned||ref" else (q, p)
        ((first.exp() * (first - second)).sum(-1) * temperature**2 * upstream).sum().backward()
        assert float((mine.grad - plain.grad).abs().max()) < 1e-5 and float(plain.grad.abs().max()) > 0.1


def test_it_is_zero_for_the_reference_itself_and_positive_otherwise() -> None:
    import torch

    logits = torch.randn(4, 7)
    assert float(kl_divergence(logits, logits).abs().max()) < 1e-6
    assert float(kl_divergence(logits, logits.flip(1)).min()) > 0


@pytest.mark.parametrize("scope", ["all", "response"])
def test_a_batch_equals_full_logits_of_the_model_with_and_without_its_adapter(model, tuned, scope: str) -> None:
    """Value and gradient of CE + strength x KL, against one big float64 computation over the padded batch."""
    import torch

    texts = [("What is red?", "A colour."), ("Say something long about the sea and its many fish.", "No.")]
    rows = [encode(Example((Message("user", q), Message("assistant", a))), model.tokenizer, 99) for q, a in texts]
    batch = collate(rows, model.tokenizer.pad_token_id, torch.device("cpu"))
    plain = tuned.get_base_model()
    body, head = plain.get_decoder(), plain.get_output_embeddings()
    defense = registry.build(DefenseSpec(name="kl", strength=0.7, options={"tokens": scope}), 0)
    with torch.no_grad(), tuned.disable_adapter():
        fixed = body(input_ids=batch.ids, attention_mask=batch.attention).last_hidden_state
        off = tuned(input_ids=batch.ids, attention_mask=batch.attention).logits.double()
    hidden = body(input_ids=batch.ids, attention_mask=batch.attention).last_hidden_state.detach().requires_grad_()
    losses, gradient = token_losses(hidden, batch, head, [defense], fixed)

    logits = head(hidden).double()
    responding, others = positions(batch)
    where = responding if scope == "response" else torch.cat([responding, others])
    log_p, log_q = logits.flatten(0, 1).log_softmax(-1), off.flatten(0, 1).log_softmax(-1)
    kl = (log_p.exp() * (log_p - log_q)).sum(-1)[where].mean()
    ce = -log_p[responding].gather(1, batch.ids.roll(-1, 1).flatten()[responding].unsqueeze(1)).mean()
    assert losses.raw["kl"] == pytest.approx(float(kl), abs=1e-5) and float(kl) > 1e-4
    assert losses.ce == pytest.approx(float(ce), abs=1e-5)
    (expected,) = torch.autograd.grad(ce + 0.7 * kl, hidden)
    # float32 against float64: rounding alone is 1e-4 of the norm, more or less by thread count and processor
    assert float((gradient - expected).norm()) < 1e-3 * float(expected.norm())
    assert float(gradient.abs().max()) > 0
    assert len(where) == (int(batch.attention.sum()) if scope == "all" else int(batch.response.sum()))
