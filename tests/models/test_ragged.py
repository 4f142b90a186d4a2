"""Rows without padding, their common beginning once: the same states and gradients as each row alone."""

from __future__ import annotations

import pytest

from ema_core.models import ragged

ROWS = [
    [1, 40, 7, 9, 12, 5, 6, 8, 2, 3, 30, 31],
    [1, 40, 7, 9, 12, 5, 6, 8, 2, 99],
    [1, 40, 7, 9, 12, 5, 6, 8, 77, 78, 79, 80, 81, 82, 83],
]
APART = [[5, 6, 7], [8, 9], [10]]


def alone(body, row):
    import torch

    return body(input_ids=torch.tensor([row]), use_cache=False).last_hidden_state[0]


@pytest.mark.parametrize(("rows", "prefix"), [(ROWS, 8), (APART, 0), (ROWS[:1], 0), ([ROWS[0], ROWS[0]], 11)])
def test_states_are_those_of_each_row_alone(model, rows, prefix: int) -> None:
    import torch

    body = model.model.get_decoder()
    layout = ragged.Layout.of(rows)
    assert layout.prefix == prefix
    with torch.no_grad():
        flat = ragged.hidden_states(body, rows, layout)
        found = layout.padded(flat)
        assert flat.shape[1] == prefix + sum(len(row) - prefix for row in rows)
        for states, row in zip(found, rows, strict=True):
            wanted = alone(body, row)
            assert float((states[: len(row)] - wanted).abs().max()) < 1e-4 * float(wanted.abs().max())
            assert not states[len(row) :].any()
    assert body.config._attn_implementation == "sdpa"  # put back


def test_the_gradient_is_that_of_the_rows_alone(tuned) -> None:
    """What rows share gets the sum of what each of them asks for."""
    import torch

    body = tuned.get_base_model().get_decoder()
    parameters = [p for p in tuned.parameters() if p.requires_grad]
    weights = [torch.randn(len(row), 576, generator=torch.Generator().manual_seed(i)) for i, row in enumerate(ROWS)]
    layout = ragged.Layout.of(ROWS)
    mine = layout.padded(ragged.hidden_states(body, ROWS, layout))
    loss = sum((states[: len(w)] * w).sum() for states, w in zip(mine, weights, strict=True))
    plain = sum((alone(body, row) * w).sum() for row, w in zip(ROWS, weights, strict=True))
    found, wanted = (torch.cat([g.flatten() for g in torch.autograd.grad(value, parameters)]) for value in (loss, plain))
    assert float(wanted.norm()) > 0 and float((found - wanted).norm()) < 1e-4 * float(wanted.norm())


def test_a_model_whose_attention_looks_through_a_window_is_done_padded() -> None:
    import torch
    from transformers import MistralConfig, MistralModel

    sizes = {"vocab_size": 99, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = {"num_key_value_heads": 1, **sizes}
    torch.manual_seed(0)
    assert ragged.fits(MistralModel(MistralConfig(sliding_window=None, **config)).eval())
    assert not ragged.fits(MistralModel(MistralConfig(sliding_window=4, **config)).eval())


def test_a_model_that_would_give_other_numbers_is_done_padded(model, monkeypatch) -> None:
    """As if a new version of transformers handed things on in another way."""
    import torch

    body = model.model.get_decoder()
    assert ragged.fits(body)
    ragged._FITS.clear()
    monkeypatch.setattr(ragged, "_after", lambda prefix, own, device: torch.zeros(own, prefix + own))  # sees what comes later, too
    assert not ragged.fits(body)
    ragged._FITS.clear()


def test_batches_hold_every_row_once_and_those_that_begin_alike_together() -> None:
    rows = [[1, 2, 3, 4, 5, 6, 7, 8, place % 3, 50, place] for place in range(30)]
    batches = list(ragged.batches(rows, 60))
    assert sorted(place for batch in batches for place in batch) == list(range(30))
    for batch in batches:
        layout = ragged.Layout.of([rows[i] for i in batch])
        assert layout.prefix + sum(layout.own) <= 60
    assert max(len(batch) for batch in batches) > 5  # ten rows of a kind, eleven tokens each, ten of them shared
    assert list(ragged.batches([], 60)) == []
