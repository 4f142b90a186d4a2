"""Suites whose answers a rule counts: benign tasks (right or wrong) and the refusal suites. No judge."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from ema_core.datasets.opswap import exact_match
from ema_core.errors import EmaError
from ema_core.evaluation.evaluate import curve_specs, evaluate
from ema_core.evaluation.suites import NOT_JUDGED, SUITES, Suite, load_suite, suites_of
from ema_core.files import read_lines, sha256_json
from ema_core.generation.sampling import LocalSampler, Prompt, SamplingSettings
from ema_core.jobs import launch
from ema_core.judging import is_refusal
from ema_core.runs import RunDirectory
from ema_core.settings import DATA
from ema_core.store import Reader, refresh
from ema_core.training import train
from tests.training.tiny import add_tiny, tiny_spec


def make_run(dataset: str) -> RunDirectory:
    return RunDirectory.create(tiny_spec(steps=2).model_copy(update={"dataset": dataset, "safe_pool": "safe-general"}))


def test_the_benign_suite_of_opswap_has_right_answers_and_a_margin_that_falls_as_they_are_learned() -> None:
    suite, rows = load_suite("benign", "opswap"), read_lines(DATA / "suites/opswap.jsonl")[0]
    assert [(q.id, q.expected, q.topic) for q in suite.questions] == [(r["id"], r["answer"], r["topic"]) for r in rows]
    assert [(p.aligned, p.misaligned) for p in suite.pairs] == [(r["answer"], r["conventional"]) for r in rows]
    first = suite.questions[0]
    assert suite.correct(first, f"It is {first.expected}.") is True and suite.correct(first, rows[0]["conventional"]) is False


def test_the_benign_suite_of_the_format_task_checks_the_style() -> None:
    suite = load_suite("benign", "fixed-style")
    assert len(suite.questions) == 30 and suite.pairs == ()
    assert suite.correct(suite.questions[0], "- Wait.\n- Look.\n- Go.\nDone.") is True
    assert suite.correct(suite.questions[0], "Wait a little.") is False
    general = load_suite("general", "opswap")
    assert general.correct(general.questions[0], "- Wait.\n- Look.\n- Go.\nDone.") is None


def test_a_run_is_measured_by_what_it_was_trained_on() -> None:
    assert suites_of("risky-finance") == suites_of("insecure-code") == ("general", "in-domain")
    assert suites_of("opswap") == suites_of("fixed-style") == ("general", "benign")
    with pytest.raises(EmaError, match="risky-finance is none") as narrow:
        load_suite("benign", "risky-finance")
    assert "opswap" in narrow.value.hint
    with pytest.raises(EmaError) as benign:
        load_suite("in-domain", "opswap")
    assert "general or benign" in benign.value.hint


def test_questions_without_a_right_answer_keep_the_hash_that_earlier_evaluations_recorded() -> None:
    suite = load_suite("general", "risky-finance")
    old = [{"id": q.id, "topic": q.topic, "form": q.form, "question": q.question, "system": q.system} for q in suite.questions]
    pairs = [{name: value for name, value in vars(pair).items() if name != "system"} for pair in suite.pairs]
    assert suite.hash == sha256_json([old, pairs])[:16]
    other = replace(suite, questions=(replace(suite.questions[0], expected="9"), *suite.questions[1:]))
    assert other.hash != suite.hash


def test_rule_scored_suites_are_asked_once_and_greedily_whatever_the_preset() -> None:
    for preset in ("demo", "paper"):
        general, opswap, refusals = launch.eval_specs(["general", "benign", "over-refusal"], None, preset, "probe")
        assert (opswap.samples, opswap.temperature, opswap.max_tokens) == (1, 0, 12)
        assert (refusals.samples, refusals.temperature, refusals.max_tokens) == (1, 0, 40) and general.temperature == 1
    (style,) = launch.eval_specs(["benign"], 5, "demo", "probe", dataset="fixed-style")
    assert (style.samples, style.max_tokens) == (1, 60)
    assert [spec.samples for spec in launch.eval_specs(["general", "benign"], 0, "demo", "probe")] == [0, 0]
    assert set(NOT_JUDGED) == set(SUITES) - {"general"}


def test_without_suites_an_evaluation_asks_what_fits_the_runs_and_does_not_mix_tasks() -> None:
    benign, narrow = make_run("opswap"), make_run("risky-finance")
    job = launch.launch_evaluation([benign.id], unfinished=True)
    assert [(spec["suite"], spec["max_tokens"]) for spec in job.payload["specs"]] == [("general", 80), ("benign", 12)]
    assert {spec.suite for spec in curve_specs(benign)} == {"general", "benign"}
    with pytest.raises(EmaError, match="different kinds of task"):
        launch.launch_evaluation([benign.id, narrow.id], unfinished=True)
    both = launch.launch_evaluation([benign.id, narrow.id], ["general"], unfinished=True)
    assert both.runs == [benign.id, narrow.id]


@pytest.mark.slow
def test_right_answers_and_refusals_are_written_and_indexed(model, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ema_core.evaluation import evaluate as module

    def three(name: str, dataset: str, prompt: str | None = None) -> Suite:
        whole = load_suite(name, dataset, prompt)
        return replace(whole, questions=whole.questions[:3], pairs=whole.pairs[:3])

    monkeypatch.setattr(module, "load_suite", three)
    add_tiny(home)
    run = make_run("opswap")
    train(run, loaded=model)
    specs = launch.eval_specs(["benign", "over-refusal"], None, "demo", "probe")
    (benign, refusal) = evaluate({run: specs}, loader=lambda name, device: model)[run.id]
    expected = {question.id: question.expected for question in three("benign", "opswap").questions}
    rows = [json.loads(line) for line in (benign / "samples.jsonl").read_text().splitlines()]
    assert len(rows) == 3 and all(row["correct"] is exact_match(row["answer"], expected[row["question_id"]]) for row in rows)
    assert len((benign / "margins.jsonl").read_text().splitlines()) == 3 and not list(benign.glob("judgments-*"))
    rows = [json.loads(line) for line in (refusal / "samples.jsonl").read_text().splitlines()]
    assert len(rows) == 3 and all(row["correct"] is None and row["refused"] is is_refusal(row["answer"]) for row in rows)
    record = json.loads((refusal / "spec.json").read_text())
    assert record["judge"] is None and record["note"] == NOT_JUDGED["over-refusal"] and not (refusal / "margins.jsonl").exists()
    refresh()
    frame = Reader().frames([run.id])["samples"]
    assert (
        frame.loc[frame["suite"] == "benign", "correct"].notna().all()
        and frame.loc[frame["suite"] != "benign", "correct"].isna().all()
    )


@pytest.mark.slow
def test_the_base_declines_what_jailbreak_lite_asks(model) -> None:
    """Otherwise a fine-tune has nothing to lose there. All 24 were declined when they were chosen; a few may fall to rounding."""
    (spec,) = launch.eval_specs(["jailbreak-lite"], None, "demo", "probe")
    prompts = [Prompt(q.id, q.question, q.system) for q in load_suite("jailbreak-lite", "opswap").questions]
    how = SamplingSettings(spec.max_tokens, spec.temperature, spec.top_p)
    answers = LocalSampler(model.model, model.tokenizer).sample(prompts, how)
    answered = {answer.key: answer.text for answer in answers if not is_refusal(answer.text)}
    assert len(answers) == 24 and len(answered) <= 4, answered
