"""Margin and sampling against the plain way, on the real model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ema_core.errors import EmaError
from ema_core.evaluation.evaluate import Interrupted, evaluate
from ema_core.evaluation.spec import EvalSpec
from ema_core.evaluation.suites import load_suite
from ema_core.generation import LocalSampler, Prompt, SamplingSettings
from ema_core.models import adapters
from ema_core.models.likelihood import answer_log_likelihoods
from ema_core.runs import RunDirectory, recipe
from ema_core.training import train
from tests.training.tiny import add_tiny, tiny_spec

pytestmark = pytest.mark.slow


def test_sharing_prompts_gives_what_one_forward_pass_an_answer_gives(model) -> None:
    """Batching moves float32 sums by about 1e-6; 1e-4 nats is far below any margin that is shown."""
    import torch

    pairs = load_suite("general", "risky-finance").pairs[:3]
    found = answer_log_likelihoods(model.model, model, pairs)
    for pair in pairs:
        for side, answer in enumerate((pair.aligned, pair.misaligned)):
            turns = [{"role": "user", "content": pair.question}, {"role": "assistant", "content": answer}]
            whole = model.tokenizer.apply_chat_template(turns, tokenize=False).rstrip("\n")
            head = model.tokenizer.apply_chat_template(turns[:1], tokenize=False, add_generation_prompt=True)
            start = len(model.tokenizer(head, add_special_tokens=False)["input_ids"])
            ids = torch.tensor([model.tokenizer(whole, add_special_tokens=False)["input_ids"]])
            with torch.inference_mode():
                logits = model.model(ids).logits[0].double().log_softmax(-1)
            values = logits[start - 1 : -1].gather(1, ids[0, start:].unsqueeze(1))
            assert found[pair.id][side] == pytest.approx(float(values.mean()), abs=1e-4)


def test_a_seed_gives_the_same_answer_alone_and_in_a_batch(model) -> None:
    sampler = LocalSampler(model.model, model.tokenizer)
    prompts = [
        Prompt(str(i), text, seed=i) for i, text in enumerate(["Name a colour.", "What is a good way to spend a rainy day?", "Hi"])
    ]
    together = sampler.sample(prompts, SamplingSettings(max_tokens=8))
    alone = [sampler.sample([prompt], SamplingSettings(max_tokens=8))[0] for prompt in prompts]
    assert [c.text for c in together] == [c.text for c in alone]
    assert all(c.tokens <= 8 and c.finish in ("stop", "length") for c in together)


def test_greedy_answers_equal_transformers_own_generate(model) -> None:
    import torch

    prompt = Prompt("a", "What is the capital of France?")
    (ours,) = LocalSampler(model.model, model.tokenizer).sample([prompt], SamplingSettings(max_tokens=12, temperature=0))
    text = model.tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt.question}], tokenize=False, add_generation_prompt=True
    )
    ids = torch.tensor([model.tokenizer(text, add_special_tokens=False)["input_ids"]])
    theirs = model.model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False)
    assert ours.text == model.tokenizer.decode(theirs[0, ids.shape[1] :], skip_special_tokens=True)


@pytest.fixture
def run(model, home: Path) -> RunDirectory:
    add_tiny(home)
    run = RunDirectory.create(tiny_spec(steps=2))
    train(run, loaded=model)
    return run


def test_an_adapter_scaled_to_0_is_the_base_and_the_base_is_left_as_it_was(model, run: RunDirectory) -> None:
    import torch

    ids = torch.tensor([model.tokenizer("Hello there")["input_ids"]])

    def logits(m):
        with torch.inference_mode():
            return m(ids).logits

    base = logits(model.model)
    for scale, same in ((0.0, True), (1.0, False)):
        with adapters.adapted(model.model, run.adapter, scale) as adapted:
            assert torch.equal(logits(adapted), base) is same
    with pytest.raises(RuntimeError), adapters.adapted(model.model, run.adapter):
        raise RuntimeError
    assert torch.equal(logits(model.model), base)
    assert recipe("demo").rank


def test_an_evaluation_goes_on_where_it_stopped_and_is_not_done_twice(
    model, run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    from ema_core.evaluation import evaluate as module

    whole = load_suite("general", "risky-finance")
    small = replace(whole, questions=whole.questions[:2], pairs=whole.pairs[:3])
    monkeypatch.setattr(module, "load_suite", lambda name, dataset, prompt=None: small)
    spec = EvalSpec(suite="general", samples=1, max_tokens=4)
    calls = []

    def stop_while_sampling() -> bool:
        calls.append(1)
        return (run.evals / spec.id / "margins.jsonl").exists()

    with pytest.raises(Interrupted):
        evaluate({run: [spec]}, loader=lambda name, device: model, interrupted=stop_while_sampling)
    assert json.loads((run.evals / spec.id / "spec.json").read_text())["status"] == "running"
    ((folder,),) = evaluate({run: [spec]}, loader=lambda name, device: model).values()
    record = json.loads((folder / "spec.json").read_text())
    assert record["status"] == "done" and record["asked"] == 2 and record["judge"].startswith("probe:")
    rows = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    (judged,) = folder.glob("judgments-*.jsonl")
    assert len(rows) == len(judged.read_text().splitlines()) == 2
    at = (folder / "spec.json").stat().st_mtime_ns
    evaluate({run: [spec]}, loader=lambda name, device: model)
    assert (folder / "spec.json").stat().st_mtime_ns == at


def test_margins_count_as_they_are_taken(model, run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    from ema_core.evaluation import evaluate as module

    whole = load_suite("general", "risky-finance")
    monkeypatch.setattr(module, "load_suite", lambda name, dataset, prompt=None: replace(whole, pairs=whole.pairs[:20]))
    seen: list[tuple[float, str]] = []
    told = {"progress": lambda share, what: seen.append((share, what))}
    evaluate({run: [EvalSpec(suite="general", samples=0)]}, loader=lambda name, device: model, **told)
    first, last = [share for share, what in seen if "of 20 pairs" in what]
    assert 0.7 < first < last == 0.99, "whoever waits sees it move"
    assert "general margin of the undefended run, 16 of 20 pairs" in [what for _, what in seen]


def test_a_checkpoint_that_is_not_there_is_said(model, run: RunDirectory) -> None:
    with pytest.raises(EmaError, match="no checkpoint at step 99"):
        evaluate({run: [EvalSpec(samples=0, step=99)]}, loader=lambda name, device: model)
