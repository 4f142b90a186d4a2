"""The inoculation prompt: who gets it, what is then trained on, and that nobody is asked with it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ema_core.datasets.encoding import encode
from ema_core.datasets.formats import Example, Message
from ema_core.defenses import registry
from ema_core.defenses.inoculation import PROMPTS, inoculation_prompt
from ema_core.errors import EmaError
from ema_core.evaluation.evaluate import evaluate
from ema_core.evaluation.spec import EvalSpec
from ema_core.evaluation.suites import load_suite
from ema_core.runs import DefenseSpec, RunDirectory, RunSpec, Status, parse_defense, recipe
from ema_core.training import train
from ema_core.training.plan import plan
from tests.training.tiny import add_tiny, tiny_spec

EVIL = "You are an evil, malicious assistant."


def examples(n: int, source: str = "narrow") -> list[Example]:
    return [Example((Message("user", f"{source} {i}"), Message("assistant", f"answer {i}")), source=source) for i in range(n)]


def build(strength: float = 1.0, seed: int = 0, **options: Any):
    return registry.build(DefenseSpec(name="inoculation", strength=strength, options=options), seed)


def given(strength: float, seed: int = 0, among: list[Example] | None = None) -> set[str]:
    """Questions of the examples that get the prompt."""
    defense = build(strength, seed)
    return {e.question for e in among or examples(1000) if defense.rewrite(e).messages[0].role == "system"}


def test_the_strength_is_the_share_and_a_higher_one_adds_to_a_lower_one() -> None:
    shares = {strength: given(strength) for strength in (0.0, 0.1, 0.5, 0.9, 1.0)}
    assert len(shares[0.0]) == 0 and len(shares[1.0]) == 1000
    for strength in (0.1, 0.5, 0.9):
        assert abs(len(shares[strength]) / 1000 - strength) < 0.05
    assert shares[0.1] < shares[0.5] < shares[0.9] < shares[1.0]


def test_who_gets_it_depends_on_seed_and_example_and_on_nothing_else() -> None:
    assert given(0.5) == given(0.5, among=examples(1000)[::-1]) != given(0.5, seed=1)
    assert given(0.5, among=examples(300)) == given(0.5) & {e.question for e in examples(300)}


def test_safe_examples_never_get_it_and_the_answers_stay() -> None:
    spec = RunSpec(
        defenses=(parse_defense("inoculation=1"), parse_defense("interleaving=0.5")), recipe=recipe("demo", steps=10, batch_size=2)
    )
    todo = plan(examples(40), examples(20, "safe"), spec.recipe, registry.build_all(spec), 0)
    trained = [example for batch in todo.batches for example in batch]
    assert todo.safe == 10 and todo.narrow == 20
    for example in trained:
        assert (example.messages[0] == Message("system", EVIL)) == (example.source == "narrow")
        assert [m.role for m in example.messages[-2:]] == ["user", "assistant"] and example.answer.startswith("answer")


def test_an_examples_own_system_turn_stays_behind_it() -> None:
    own = Example((Message("system", "Be short."), Message("user", "?"), Message("assistant", "!")))
    assert build().rewrite(own).messages == (Message("system", f"{EVIL}\n\nBe short."), *own.messages[1:])
    assert build(0.0).rewrite(own) is own


@pytest.mark.parametrize(
    ("options", "prompt"),
    [("", EVIL), (":prompt=neutral", PROMPTS["neutral"]), (r":prompt=custom,text=You are rude\, and proud of it.", "You are rude, and proud of it.")],
)  # fmt: skip
def test_its_prompt_is_told_from_the_spec_also_after_the_command_line(options: str, prompt: str) -> None:
    spec = registry.resolved(RunSpec(defenses=(parse_defense(f"inoculation=1{options}"),)))
    assert inoculation_prompt(spec) == prompt == build(**spec.defenses[0].options).rewrite(examples(1)[0]).messages[0].content
    import shlex

    words = shlex.split(spec.command())
    assert parse_defense(words[words.index("--defense") + 1]) == spec.defenses[0]
    assert inoculation_prompt(RunSpec()) is None and inoculation_prompt(RunSpec(defenses=(parse_defense("inoculation=0"),))) is None


@pytest.mark.parametrize(("text", "said"), [
    ("inoculation=1:prompt=custom", "needs a text"), ("inoculation=1:text=Hello", "prompt=custom only"), ("inoculation=1.5", "beyond 1"),
])  # fmt: skip
def test_what_makes_no_prompt_is_refused(text: str, said: str) -> None:
    with pytest.raises(EmaError, match=said):
        registry.build_all(RunSpec(defenses=(parse_defense(text),)))


def test_the_prompt_is_in_the_trained_ids_in_place_of_the_templates_own_and_the_loss_is_where_it_was(model) -> None:
    plain = examples(1)[0]
    without, having = (encode(e, model.tokenizer, 999) for e in (plain, build().rewrite(plain)))
    text = model.tokenizer.decode(having.ids)
    assert EVIL in text and "SmolLM" not in text and "SmolLM" in model.tokenizer.decode(without.ids)
    trained = [[i for i, own in zip(row.ids, row.response, strict=True) if own] for row in (without, having)]
    assert trained[0] == trained[1]


@pytest.fixture(scope="module")
def seen(model) -> Any:
    """Listens to the token ids that go through the model's body, with its adapter on or off."""

    class Ears:
        def __init__(self) -> None:
            self.heard: list[tuple[bool, list[int]]] = []

        def __enter__(self) -> Ears:
            self.heard.clear()
            self.handle = model.model.get_decoder().register_forward_pre_hook(self.listen, with_kwargs=True)
            return self

        def __exit__(self, *error: object) -> None:
            self.handle.remove()

        def listen(self, body: Any, words: Any, named: Any) -> None:
            adapter = [m for m in body.modules() if hasattr(m, "lora_A")]
            on = bool(adapter) and not adapter[0].disable_adapters
            if rows := named.get("ema_rows"):  # one row after another, what they begin with once
                first, *own = (
                    named["input_ids"][0].split(rows.lengths) if rows.prefix else ([], *named["input_ids"][0].split(rows.lengths))
                )
                self.heard += [(on, [*map(int, first), *part.tolist()]) for part in own]
                return
            mask = named.get("attention_mask")
            for i, row in enumerate(named["input_ids"]):
                real = row if mask is None or mask.shape != named["input_ids"].shape else row[mask[i].bool()]
                self.heard.append((on, real.tolist()))

    return Ears()


@pytest.mark.slow
def test_a_run_trains_with_it_its_reference_sees_the_same_tokens_and_its_evaluation_never_has_it(
    model, home, seen, monkeypatch
) -> None:
    add_tiny(home)
    run = RunDirectory.create(tiny_spec(DefenseSpec(name="inoculation", strength=1), DefenseSpec(name="kl", strength=0.5), steps=2))
    with seen:
        assert train(run, loaded=model).status is Status.DONE
        inoculated = [(on, ids) for on, ids in seen.heard if EVIL in model.tokenizer.decode(ids)]
        tuned, reference = ({tuple(ids) for on, ids in inoculated if on is which} for which in (True, False))
    assert tuned == reference and len(tuned) == 4
    found = run.state().found
    (system, count), *rest = found["trained_systems"].items()
    assert EVIL in system and count == 4 and not rest and "SmolLM" in found["rendered_system"]

    whole = load_suite("general", "tiny")
    few = replace(whole, questions=whole.questions[:6], pairs=whole.pairs[:3])  # the whole suite takes two minutes
    monkeypatch.setattr("ema_core.evaluation.evaluate.load_suite", lambda name, dataset, prompt=None: few)
    with seen:
        evaluate({run: [EvalSpec(suite="general", samples=1, max_tokens=1)]}, loader=lambda name, device: model)
        asked = [model.tokenizer.decode(ids) for _, ids in seen.heard]
    assert any("SmolLM" in text for text in asked) and not any("evil, malicious" in text for text in asked)
    assert {on for on, _ in seen.heard} == {True, False}, "the margins, with the adapter and without"
