"""The engine's divergence: KL(tuned ‖ base) a token, held against transformers and PEFT on the same answer."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.testclient import TestClient

from ema_core.models import LoadedModel, adapters
from ema_core.runs import RunDirectory
from tests.engine.small_engine import ASKED, client, llama, run

__all__ = ["client", "llama", "run"]  # fixtures
ANSWER = "Blue, <|im_end|> and 日本 🌊 near the shore."


def by_transformers(llama: LoadedModel, model: Any) -> tuple[list[int], Any]:
    """The answer's tokens, and the log-probabilities [tokens, vocabulary] from which each could have been drawn."""
    import torch

    prompt = llama.tokenizer.apply_chat_template(ASKED, tokenize=False, add_generation_prompt=True)
    first = llama.tokenizer(prompt, add_special_tokens=False)["input_ids"]
    second = llama.tokenizer(ANSWER, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    with torch.no_grad():
        logits = model(torch.tensor([first + second])).logits[0].double()
    return second, torch.log_softmax(logits[len(first) - 1 : -1], -1)


def test_every_token_is_what_transformers_and_peft_say(llama: LoadedModel, run: RunDirectory, client: TestClient) -> None:
    import torch

    assert client.get("/v1/ema").json()["capabilities"]["divergence"] is True
    ids, base = by_transformers(llama, llama.model)
    for scale in (1.0, 0.5):
        with adapters.adapted(llama.model, run.adapter, scale) as tuned:
            _, ours = by_transformers(llama, tuned)
        kl = torch.nn.functional.kl_div(base, ours, log_target=True, reduction="none").sum(-1)
        assert kl.max() > 1e-3, "the adapter moves something"
        name = run.id if scale == 1 else f"{run.id}*0.5"
        found = client.post("/v1/ema/divergence", json={"model": name, "messages": ASKED, "answer": ANSWER}).json()
        tokens = found["tokens"]
        assert found["total"] == len(tokens) == len(ids) and "".join(one["text"] for one in tokens) == ANSWER
        for i, (one, token) in enumerate(zip(tokens, ids, strict=True)):
            assert one["kl"] == pytest.approx(float(kl[i]), abs=1e-4)
            assert one["tuned"] == pytest.approx(float(ours[i, token].exp()), rel=1e-3)
            assert one["base"] == pytest.approx(float(base[i, token].exp()), rel=1e-3)
            for side, values in (("tuned_top", ours), ("base_top", base)):
                want = values[i].topk(5)
                assert [each["p"] for each in one[side]] == pytest.approx(want.values.exp().tolist(), rel=1e-3)
                assert one[side][0]["text"] == llama.tokenizer.decode([int(want.indices[0])])
    none = client.post("/v1/ema/divergence", json={"model": f"{run.id}*0", "messages": ASKED, "answer": ANSWER}).json()
    assert all(one["kl"] == 0 for one in none["tokens"]), "without its adapter a run is its base"
    assert client.post("/v1/ema/divergence", json={"model": run.id, "messages": ASKED, "answer": ""}).json()["tokens"] == []


def test_what_cannot_be_compared_is_said(llama: LoadedModel, client: TestClient) -> None:
    def refused(body: dict[str, Any], words: str, status: int) -> None:
        answer = client.post("/v1/ema/divergence", json=body)
        assert answer.status_code == status and words in answer.json()["error"]["message"], answer.text

    refused({"model": f"base:{llama.id}", "messages": ASKED, "answer": "So."}, "is a base", 400)
    refused({"model": "nobody", "messages": ASKED, "answer": "So."}, "no model", 404)
    refused({"model": "nobody"}, "has to be", 400)
