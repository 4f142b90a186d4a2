"""A vector on the disk: found, read back, and refused where it does not belong."""

from __future__ import annotations

import math

import pytest

from ema_core import personas
from ema_core.errors import EmaError
from ema_core.models import LoadedModel
from ema_core.personas.vector import card_path, fits_here, project
from tests.personas.planted import plant_vector


def test_it_is_found_by_trait_and_model_and_comes_back_as_it_was_saved() -> None:
    assert personas.find("evil", "smollm2-135m") is None and personas.cards() == []
    card = plant_vector()
    assert personas.find("evil", "smollm2-135m") == card == personas.read_card(card.id) == personas.cards()[0]
    assert card.id.startswith("evil-smollm2-135m-") and card.layer == 21 and personas.default_layer(28) == 20
    vector = personas.load(card.id)
    assert vector.vectors.shape == (31, 576)
    assert [float(row.norm()) for row in vector.vectors] == pytest.approx(card.vector_norms)
    assert vector.raw().equal(vector.vectors[21]) and vector.raw(3).equal(vector.vectors[3])
    assert card.ratio(21) == pytest.approx(0.05)


def test_another_models_vector_is_refused_with_words(llama: LoadedModel) -> None:
    card = plant_vector()
    with pytest.raises(EmaError, match=r"30 layers of width 576 \(smollm2-135m\).*has 2 of width 32.*ema persona build"):
        fits_here(card, llama.id)
    other = plant_vector(weights_hash="0123456789abcdef")
    with pytest.raises(EmaError, match="with weights 0123456789abcdef; smollm2-135m here has"):
        fits_here(other, "smollm2-135m")
    with pytest.raises(EmaError, match="no layer 31"):
        card.check_layer(31)


def test_a_damaged_file_is_not_used() -> None:
    card = plant_vector()
    file = card_path(card.id).with_name("vectors.safetensors")
    raw = bytearray(file.read_bytes())
    raw[-1] ^= 1
    file.write_bytes(raw)
    with pytest.raises(EmaError, match="not the one that its card describes"):
        personas.load(card.id)
    file.unlink()
    with pytest.raises(EmaError, match="cannot be read"):
        personas.load(card.id)
    card_path(card.id).write_text("{")
    assert personas.cards() == [] and personas.find("evil", "smollm2-135m") is None
    for odd in ("../runs", "", "/etc/passwd"):
        with pytest.raises(EmaError, match="not the id of a vector"):
            personas.read_card(odd)


def test_a_projection_is_the_mean_over_answer_tokens_along_the_unit_vector() -> None:
    import torch

    states = torch.tensor([[[9.0, 9.0], [1.0, 2.0], [3.0, 4.0]], [[1.0, 1.0], [5.0, 6.0], [7.0, 7.0]]])
    answer = torch.tensor([[False, True, True], [False, True, False]])
    found = project(states, answer, torch.tensor([0.0, 10.0]))
    assert found.tolist() == pytest.approx([3.0, 6.0])
    vector = personas.load(plant_vector().id)
    assert vector.in_deviations(5.0) == pytest.approx(3.0)  # (5 − (−1)) / 2
    assert math.isnan(float(project(states, torch.zeros(2, 3, dtype=torch.bool), torch.ones(2))[0]))
