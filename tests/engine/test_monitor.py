"""The engine's persona monitor: an answer's projection is what the model that gave it says while reading it."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.testclient import TestClient

from ema_core import personas
from ema_core.models import LoadedModel, adapters
from ema_core.runs import RunDirectory
from tests.engine.small_engine import ASKED, client, llama, run
from tests.personas.planted import plant_vector

__all__ = ["client", "llama", "run"]  # fixtures
ANSWERS = ("Blue, and green near the shore.", "<|im_end|> is only text here.")


def plain_projection(llama: LoadedModel, model: Any, answer: str, card: personas.Card) -> float:
    """In float64 by transformers' own hidden states, one token at a time of the text."""
    import torch

    prompt = llama.tokenizer.apply_chat_template(ASKED, tokenize=False, add_generation_prompt=True)
    first = llama.tokenizer(prompt, add_special_tokens=False)["input_ids"]
    second = llama.tokenizer(answer, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    layer = card.layer
    with torch.no_grad():
        states = model(torch.tensor([first + second]), output_hidden_states=True).hidden_states[layer][0]
    vector = personas.load(card.id).vectors[layer].double()
    return float((states[len(first) :].double() @ vector / vector.norm()).mean())


def test_base_and_run_are_read_each_by_itself_in_one_request(llama: LoadedModel, run: RunDirectory, client: TestClient) -> None:
    assert client.get("/v1/ema").json()["capabilities"]["persona"] is True
    card = plant_vector(model=llama.id)  # two layers: layer 1 is used
    assert card.layer == 1
    names = (f"base:{llama.id}", run.id)
    items = [
        {"id": f"{model}/{i}", "model": model, "messages": ASKED, "answer": answer}
        for i, answer in enumerate((*ANSWERS, ""))
        for model in names
    ]
    found = client.post("/v1/ema/projection", json={"vector": card.id, "items": items}).json()
    assert (found["vector"], found["layer"]) == (card.id, 1)
    got = {one["id"]: one for one in found["projections"]}
    assert list(got) == [item["id"] for item in items]
    for i, answer in enumerate(ANSWERS):
        base = plain_projection(llama, llama.model, answer, card)
        with adapters.adapted(llama.model, run.adapter, 1.0) as tuned:
            own = plain_projection(llama, tuned, answer, card)
        assert abs(own - base) > 1e-3, "the adapter moves it"
        for name, want in zip(names, (base, own), strict=True):
            assert got[f"{name}/{i}"]["value"] == pytest.approx(want, abs=1e-4)
            assert got[f"{name}/{i}"]["deviations"] == pytest.approx((want + 1) / 2, abs=1e-4)  # planted: mean −1, SD 2
    assert got[f"{run.id}/2"] == {"id": f"{run.id}/2", "value": None, "deviations": None}, "nothing to read"


def test_what_cannot_be_projected_is_said(llama: LoadedModel, client: TestClient) -> None:
    def refused(vector: str, model: str, words: str, status: int = 400) -> None:
        body = {"vector": vector, "items": [{"id": "1", "model": model, "messages": ASKED, "answer": "So."}]}
        answer = client.post("/v1/ema/projection", json=body)
        assert answer.status_code == status and words in answer.json()["error"]["message"], answer.text

    base = f"base:{llama.id}"
    refused("evil-nothing", base, "There is no vector")
    refused("../runs", base, "not the id of a vector")
    mine = plant_vector(model=llama.id)
    refused(mine.id, "base", "belongs to")
    refused(mine.id, "nobody", "no model", 404)
    assert client.post("/v1/ema/projection", json={"items": 3}).status_code == 400
    plant_vector(model=llama.id, weights_hash="0123456789abcdef")
    refused(mine.id, base, "with weights 0123456789abcdef", 500)
    plant_vector(model=llama.id)
    assert client.post("/v1/ema/projection", json={"vector": mine.id, "items": [{"id": "1", "model": base, "messages": ASKED, "answer": "So."}]}).status_code == 200  # fmt: skip
