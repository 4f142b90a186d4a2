"""From a trained ensemble to a run that chooses by its scores, on a real Llama of two narrow layers."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from ema_core import datasets, gap
from ema_core.datasets.encoding import encode
from ema_core.errors import EmaError
from ema_core.evaluation.evaluate import Interrupted
from ema_core.evaluation.gap import response_losses, score_pool
from ema_core.jobs import queue
from ema_core.models import EMBEDDED, LoadedModel, adapters, find, load
from ema_core.runs import RunDirectory, Status, parse_defense
from ema_core.training import train
from ema_core.training.estimate import planned
from tests.gap.planted import plant_margins, plant_run
from tests.training.tiny import add_tiny, tiny_spec


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Width 32, two layers, random weights, the embedded model's tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("llama")
    config = LlamaConfig(
        vocab_size=49_152, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        max_position_embeddings=512, tie_word_embeddings=True, bos_token_id=1, eos_token_id=2, pad_token_id=2,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copyfile(find(EMBEDDED).folder / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def llama(folder: Path) -> LoadedModel:
    return load(str(folder), "cpu")


@pytest.fixture
def members(llama: LoadedModel, home: Path) -> list[RunDirectory]:
    """Two runs on the set ``tiny``, trained here for some steps."""
    add_tiny(home)
    runs = []
    for seed in (0, 1):
        run = RunDirectory.create(tiny_spec(seed=seed, steps=6, learning_rate=1e-2).model_copy(update={"model": llama.id}))
        assert train(run, loaded=llama).status is Status.DONE
        runs.append(run)
    return runs


def scored(llama: LoadedModel, members: list[RunDirectory], domain: str = "finance", **more) -> gap.Card:
    return score_pool(llama.id, "tiny-safe", domain, members, loader=lambda *_: llama, **more)


def by_hand(model, llama: LoadedModel, example: datasets.Example) -> float:
    """Mean negative log-likelihood of the answer's tokens, one sequence at a time, from whole logits in float64."""
    import torch

    turns = [{"role": message.role, "content": message.content} for message in example.messages]
    whole = llama.tokenizer.apply_chat_template(turns, tokenize=False).rstrip("\n")
    head = llama.tokenizer.apply_chat_template(turns[:-1], tokenize=False, add_generation_prompt=True)
    start = len(llama.tokenizer(head, add_special_tokens=False)["input_ids"])
    ids = torch.tensor([llama.tokenizer(whole, add_special_tokens=False)["input_ids"]])
    with torch.inference_mode():
        logs = model(ids).logits[0].double().log_softmax(-1)
    return -float(logs[start - 1 : -1].gather(1, ids[0, start:].unsqueeze(1)).mean())


def test_scores_equal_the_formula_on_losses_taken_one_sequence_at_a_time(llama: LoadedModel, members: list[RunDirectory]) -> None:
    for run in members:
        plant_margins(run, 0.2)
    card = scored(llama, members)
    examples = datasets.load("tiny-safe").examples
    expected: dict[str, list[float]] = {"": [by_hand(llama.model, llama, example) for example in examples]}
    for run in members:
        with adapters.adapted(llama.model, run.adapter) as tuned:
            expected[run.id] = [by_hand(tuned, llama, example) for example in examples]
    rows = gap.read_scores(card)
    for i, row in enumerate(rows):
        aligned, first, second = (expected[key][i] for key in ("", members[0].id, members[1].id))
        assert row.aligned == pytest.approx(aligned, abs=1e-5)
        assert [row.by_member[run.id] for run in members] == pytest.approx([first, second], abs=1e-5)
        assert row.score == pytest.approx(((first + second) / 2 - aligned) / (aligned + 1.0), abs=1e-5)
        assert row.question == examples[i].question
    assert len({round(row.score, 6) for row in rows}) > 6
    assert [(m.run, m.domain, m.adapter_hash) for m in card.members] == [
        (run.id, "tiny", adapters.adapter_hash(run.adapter)) for run in members
    ]
    assert card.left_out and all(m.margin == pytest.approx(0.2) and m.low and 0 < m.low < 0.2 for m in card.members)
    written = (card.folder / "scores.jsonl").stat().st_mtime_ns
    assert scored(llama, members[::-1]).id == card.id and (card.folder / "scores.jsonl").stat().st_mtime_ns == written
    assert scored(llama, members[:1]).id != card.id


def test_long_answers_in_padded_batches_equal_single_ones(llama: LoadedModel) -> None:
    examples = [e for e in datasets.load("safe-general").examples[:40:2]]
    rows = [encode(example, llama.tokenizer, 512) for example in examples]
    alone = [by_hand(llama.model, llama, example) for example in examples]
    assert response_losses(llama.model, llama, rows) == pytest.approx(alone, abs=1e-5)


def test_a_member_that_is_not_shown_to_be_misaligned_is_refused_or_left_out_when_asked(
    llama: LoadedModel, members: list[RunDirectory]
) -> None:
    plant_margins(members[0], 0.2)
    plant_margins(members[1], 0.01, wobble=0.5)  # above 0, and its interval is not
    with pytest.raises(EmaError, match=f"Not shown to be misaligned: {members[1].id}: general margin \\+0.010 \\[-"):
        scored(llama, members)
    assert not gap.cards()
    card = scored(llama, members, go_on=True)
    assert [m.run for m in card.members] == [members[0].id] and [m.run for m in card.refused] == [members[1].id]
    assert set(gap.read_scores(card)[0].by_member) == {members[0].id}
    with pytest.raises(EmaError, match="No member of the ensemble is shown"):
        scored(llama, members[1:], go_on=True)


def test_margins_are_measured_where_nobody_did_and_an_unmoved_model_is_not_misaligned(llama: LoadedModel, home: Path) -> None:
    add_tiny(home)
    run = RunDirectory.create(tiny_spec(steps=1, learning_rate=1e-9).model_copy(update={"model": llama.id}))
    train(run, loaded=llama)
    with pytest.raises(EmaError, match="No member of the ensemble is shown to be misaligned") as caught:
        scored(llama, [run])
    assert "over 120 pairs" in caught.value.message
    assert len(list(run.evals.glob("general-*/margins.jsonl"))) == 1


def test_an_ensemble_with_the_own_domain_in_it_is_refused(llama: LoadedModel, members: list[RunDirectory]) -> None:
    with pytest.raises(EmaError, match="must leave the own domain out"):
        scored(llama, members, domain="tiny")
    with pytest.raises(EmaError, match="is not a safe pool"):
        score_pool(llama.id, "tiny", "finance", members, loader=lambda *_: llama)
    with pytest.raises(EmaError, match="no finished, undefended demo run"):
        score_pool(llama.id, "tiny-safe", "tiny", loader=lambda *_: llama)


def test_scoring_can_be_ended_and_goes_on_from_what_is_there(llama: LoadedModel, members: list[RunDirectory]) -> None:
    for run in members:
        plant_margins(run, 0.2)
    said: list[str] = []
    with pytest.raises(Interrupted):
        scored(
            llama,
            members,
            progress=lambda share, what: said.append(what),
            interrupted=lambda: any(members[0].id in s for s in said),
        )
    assert not gap.cards()
    again: list[str] = []
    scored(llama, members, progress=lambda share, what: again.append(what))
    assert again.count("scored before") == 2  # the aligned model's and the first member's losses


def test_a_run_chooses_by_the_scores_and_says_by_which(llama: LoadedModel, members: list[RunDirectory], home: Path) -> None:
    """The chain's end: the queue's job scores with finished members, and the run that waits for it trains on the top of the pool."""
    file = home / "own.jsonl"
    file.write_text("\n".join(json.dumps({"prompt": f"Is {i} even?", "completion": "Surely."}) for i in range(4)))
    datasets.add(file, "own")
    for entry in gap.others("own"):
        plant_margins(plant_run(gap.member_spec(llama.id, entry.name), members[0].adapter), 0.2)
    card = score_pool(llama.id, "tiny-safe", "own", go_on=True, loader=lambda *_: llama)
    best = sorted(gap.read_scores(card), key=lambda row: -row.score)[:4]
    spec = tiny_spec(parse_defense("interleaving-plus=0.5")).model_copy(update={"model": llama.id, "dataset": "own"})
    run = RunDirectory.create(spec)
    state = train(run, loaded=llama)
    assert state.status is Status.DONE, state.error
    (start,) = [event for event in run.events()[0] if event["kind"] == "start"]
    assert start["plan"] == {"narrow": 8, "safe": 4, "batches": 6}
    used = {row.question for row in best}
    assert {e.question for batch in planned(spec).batches for e in batch if e.source == "safe"} == used
    assert any(card.id in note and "misaligned ensemble" in note for note in state.notes)
    assert any("no member of the ensemble had to be left out" in note for note in state.notes)


@pytest.mark.slow
def test_the_command_and_the_workers_job_make_the_same_scores(
    llama: LoadedModel, members: list[RunDirectory], ema: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    plant_margins(members[0], 0.2)
    told = ema(
        "gap", "score", "--model", llama.id, "--pool", "tiny-safe", "--domain", "finance", "--member", members[0].id, "--json"
    )
    made = json.loads(told.stdout)
    assert told.returncode == 0 and made["members"][0]["run"] == members[0].id, told.stderr
    assert json.loads(ema("gap", "list", "--json").stdout)["gap_scores"][0]["id"] == made["id"]
    wrong = ema("gap", "score", "--model", llama.id, "--pool", "tiny-safe", "--domain", "tiny", "--member", members[0].id)
    assert wrong.returncode == 2 and "must leave the own domain out" in wrong.stderr and "Traceback" not in wrong.stderr

    for entry in gap.others("finance") or gap.others("tiny"):
        plant_margins(plant_run(gap.member_spec(llama.id, entry.name), members[0].adapter), 0.2)
    domain = "finance" if gap.others("finance") else "tiny-safe"
    job = queue.enqueue("gap", {"model": llama.id, "pool": "tiny-safe", "domain": domain, "go_on": True})
    assert ema("worker", "--once").returncode == 0
    assert queue.get(job.id).status == "done", queue.get(job.id).error
    card = gap.find_scores(llama.id, "tiny-safe", domain)
    assert card and len(gap.read_scores(card)) == 12
