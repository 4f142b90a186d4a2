"""The engine's divergence: KL(tuned ‖ base) a token, held against transformers and PEFT on the same answer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from ema_core.engine.core import Engine
from ema_core.engine.server import application
from ema_core.engine.shelf import Shelf
from ema_core.models import LoadedModel, adapters, load
from ema_core.runs import RunDirectory, Status
from ema_core.training import train
from tests.training.tiny import add_tiny, tiny_spec
from tests.training.tiny_model import tiny_model

ASKED = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Which colour has the sea?"}]
ANSWER = "Blue, <|im_end|> and 日本 🌊 near the shore."


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return load(str(tiny_model(tmp_path_factory.mktemp("divergence") / "llama")), "cpu")


@pytest.fixture
def run(llama: LoadedModel, home: Path) -> RunDirectory:
    add_tiny(home)
    made = RunDirectory.create(tiny_spec(steps=3, learning_rate=1e-2).model_copy(update={"model": llama.id}))
    assert train(made, loaded=llama).status is Status.DONE
    return made


@pytest.fixture
def client(llama: LoadedModel, home: Path) -> Iterator[TestClient]:
    engine = Engine(Shelf(lambda _: llama), idle_seconds=60)
    engine.start()
    with TestClient(
        application(engine, "secret"), base_url="http://127.0.0.1", headers={"Authorization": "Bearer secret"}
    ) as client:
        yield client
    engine.stop()


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
