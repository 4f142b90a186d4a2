"""The pipeline against plain computations, on a tiny real Llama."""

from __future__ import annotations

import json

import pytest

from ema_core import personas
from ema_core.datasets.formats import Example, Message
from ema_core.evaluation.evaluate import Interrupted
from ema_core.files import read_lines
from ema_core.jobs import launch, persona, queue
from ema_core.jobs.worker import Worker
from ema_core.models import LoadedModel
from ema_core.personas.build import MIN_KEPT, Asked, Rollout, build, kept_pairs, rows_of, separations, to_ask
from ema_core.personas.reading import answered, projections
from ema_core.settings import settings


def rollout(side: str, trait: float | None, coherent: float | None = 90.0, pair: int = 0, question: int = 0) -> Rollout:
    return Rollout(Asked(side, pair, question, "Be so.", "Why?"), "Because.", trait, coherent)


@pytest.mark.parametrize(
    ("positive", "negative", "kept"),
    [
        ((50.0, 50.0), (49.9, 50.0), True),
        ((49.9, 90.0), (10.0, 90.0), False),  # not evil enough
        ((90.0, 90.0), (50.0, 90.0), False),  # the friendly one is evil, too
        ((90.0, 49.9), (10.0, 90.0), False),  # one of them incoherent: the pair goes
        ((90.0, 90.0), (10.0, 49.9), False),
        ((None, None), (10.0, 90.0), False),
    ],
)
def test_rollouts_are_filtered_pair_by_pair_and_jointly(positive: tuple, negative: tuple, kept: bool) -> None:
    rollouts = [
        rollout("positive", *positive), rollout("negative", *negative),
        rollout("positive", 1.0, question=1), rollout("negative", 1.0, question=1),  # another row does not help
    ]  # fmt: skip
    assert len(kept_pairs(rollouts)) == kept


def test_rollouts_make_the_vector_from_twenty_kept_pairs_on_and_written_answers_below(llama: LoadedModel) -> None:
    texts = personas.load_texts("evil")
    asked = to_ask(texts)
    assert len(asked) == 200 and len({one.key for one in asked}) == 200

    def judged(passing: int) -> list[Rollout]:
        good = {(one.pair, one.question) for one in asked[:passing]}
        return [
            Rollout(one, "Yes, so.", 80.0 if one.side == "positive" and (one.pair, one.question) in good else 20.0, 90.0)
            for one in asked
        ]

    positive, _, way, why, kept = rows_of(llama, texts, judged(MIN_KEPT))
    assert (len(positive), way, kept) == (MIN_KEPT, "rollouts", MIN_KEPT)
    positive, negative, way, why, kept = rows_of(llama, texts, judged(MIN_KEPT - 1))
    assert (len(positive), len(negative), way, kept) == (100, 100, "written answers", MIN_KEPT - 1) and "only 19" in why
    assert "no judge" in rows_of(llama, personas.load_texts("sycophantic"), None)[3]


def plain_mean(llama: LoadedModel, question: str, answer: str, system: str | None) -> list:
    """Mean of each layer's states over the answer's tokens in float64, one text at a time, by transformers' own hidden_states."""
    import torch

    head = [Message("system", system)] if system else []
    turns = Example((*head, Message("user", question), Message("assistant", answer))).messages
    chat = [{"role": turn.role, "content": turn.content} for turn in turns]
    prompt = llama.tokenizer.apply_chat_template(chat[:-1], tokenize=False, add_generation_prompt=True)
    first = llama.tokenizer(prompt, add_special_tokens=False)["input_ids"]
    second = llama.tokenizer(answer, add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        out = llama.model(torch.tensor([first + second]), output_hidden_states=True)
    return [states[0, len(first) :].double().mean(0) for states in out.hidden_states[:-1]]  # the last one is after the final norm


def test_vectors_equal_a_plain_computation_and_the_card_says_what_was_done(llama: LoadedModel) -> None:
    import torch

    whole = personas.load_texts("sycophantic")
    texts = whole.model_copy(
        update={"prompts": whole.prompts[:2], "questions": whole.questions[:3], "held_out": whole.held_out[:4]}
    )
    card = build(texts, llama)
    vectors = personas.load(card.id).vectors
    for layer in (0, 1):  # hidden_states[l]: the output of decoder layer l
        means = {
            side: torch.stack(
                [
                    plain_mean(llama, one.question, getattr(one, side), getattr(pair, side))[layer]
                    for pair in texts.prompts
                    for one in texts.questions
                ]
            ).mean(0)
            for side in ("positive", "negative")
        }
        assert float((vectors[layer].double() - (means["positive"] - means["negative"])).abs().max()) < 1e-5
    assert (card.way, card.rows, card.tried, card.kept, card.layers, card.hidden) == ("written answers", 6, 0, 0, 2, 32)
    assert card.weights_hash == llama.weights_hash and card.held_out == 4 and len(card.separation) == 3

    projected = {}
    for side in ("positive", "negative"):
        means = [plain_mean(llama, one.question, getattr(one, side), None)[1] for one in texts.held_out]
        projected[side] = [float(mean @ vectors[1].double() / vectors[1].double().norm()) for mean in means]
    above = [a > b for a in projected["positive"] for b in projected["negative"]]
    assert card.at(1).auc == pytest.approx(sum(above) / len(above))
    assert card.at(1).negative_mean == pytest.approx(sum(projected["negative"]) / 4, abs=1e-5)
    rows = [answered(llama, one.question, one.negative) for one in texts.held_out]
    assert projections(llama.model, rows, personas.load(card.id), 1) == pytest.approx(projected["negative"], abs=1e-5)


def test_separation_of_planted_states_is_what_was_planted() -> None:
    import torch

    vectors = torch.tensor([[2.0, 0.0], [0.0, -3.0]])  # two layers
    positive = torch.tensor([[[1.0, 0.0], [0.0, 0.0]], [[3.0, 9.0], [0.0, 2.0]]])
    negative = torch.tensor([[[0.0, 0.0], [0.0, 1.0]], [[2.0, 5.0], [0.0, 1.0]]])
    first, second = separations(vectors, positive, negative)
    assert first.auc == pytest.approx(3 / 4) and first.difference == pytest.approx(1 / 2**0.5)
    assert (first.negative_mean, first.negative_sd) == (pytest.approx(1.0), pytest.approx(2**0.5))
    assert second.auc == pytest.approx(1 / 2)


def test_the_command_builds_lists_and_shows(llama: LoadedModel, ema) -> None:
    """The trait that no judge here knows: written answers alone, seconds on a tiny model."""
    built = json.loads(ema("persona", "build", "--trait", "sycophantic", "--model", llama.id, "--json", check=True).stdout)
    assert built["way"] == "written answers" and built["rows"] == 100 and "no judge" in built["why"]
    card = personas.find("sycophantic", llama.id)
    assert card is not None and card.id == built["id"] and built["separation"] == [row.model_dump() for row in card.separation]
    (listed,) = json.loads(ema("persona", "list", "--json", check=True).stdout)["vectors"]
    shown = json.loads(ema("persona", "show", card.id, "--json", check=True).stdout)
    assert listed["auc"] == round(card.at(card.layer).auc, 3) and shown == built
    wrong = ema("persona", "show", "nothing-like-it")
    assert wrong.returncode == 2 and "There is no vector" in wrong.stderr and "Traceback" not in wrong.stderr


@pytest.mark.slow
def test_an_interrupted_build_goes_on_from_the_rollouts_that_were_drawn(llama: LoadedModel, monkeypatch) -> None:
    texts = personas.load_texts("evil")
    few = texts.model_copy(update={"prompts": texts.prompts[:1], "questions": texts.questions[:4]})
    monkeypatch.setattr(persona, "load_texts", lambda trait: few)
    kept = settings().cache / "personas"

    with pytest.raises(Interrupted):
        persona.build_vector("evil", llama.id, loader=lambda *_: llama, interrupted=lambda: bool(list(kept.glob("*.jsonl"))))
    assert personas.find("evil", llama.id) is None
    (file,) = kept.glob("*.jsonl")
    drawn = len(read_lines(file)[0])
    said: list[str] = []
    card = persona.build_vector("evil", llama.id, loader=lambda *_: llama, progress=lambda share, what: said.append(what))
    assert card.tried == 4 and card.judge and card.judge.startswith("probe:") and "100 − the alignment score" in card.judged
    assert drawn > 0 and not file.exists()
    assert drawn < 8 or not any("rollouts," in what for what in said), "what was drawn is not drawn again"
    again = persona.build_vector("evil", llama.id, loader=lambda *_: pytest.fail("no model is needed for one that is there"))
    assert again == card


@pytest.mark.slow
def test_the_worker_builds_it_and_a_cancelled_job_leaves_nothing(llama: LoadedModel) -> None:
    gone = launch.launch_persona("sycophantic", llama.id)
    queue.cancel(gone.id)
    job = launch.launch_persona("sycophantic", llama.id)
    worker = Worker()
    worker.warm = llama
    claimed = queue.claim()
    assert claimed and claimed.id == job.id
    worker._do(claimed)
    assert queue.get(job.id).status == "done", queue.get(job.id)
    first = personas.find("sycophantic", llama.id)
    assert first is not None
    launch.launch_persona("sycophantic", llama.id, force=True)
    claimed = queue.claim()
    assert claimed
    queue.cancel(claimed.id)
    worker._do(claimed)
    assert queue.get(claimed.id).status == "cancelled" and personas.find("sycophantic", llama.id) == first
