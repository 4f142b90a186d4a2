"""Evaluating a run: margin, sampled answers, judgments, into the run's directory. Goes on where it stopped."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ema_core.errors import EmaError
from ema_core.evaluation.margin import answer_log_likelihoods, base_log_likelihoods
from ema_core.evaluation.spec import CURVE_SCALES, EvalSpec
from ema_core.evaluation.suites import Suite, load_suite
from ema_core.files import append_lines, read_json, read_lines, write_atomic, write_json
from ema_core.generation import Completion, LocalSampler, Prompt, Sampler, SamplingSettings, row_seed
from ema_core.judging import ProbeJudge, is_refusal, resolve
from ema_core.models import EMBEDDED, LoadedModel, adapters, load
from ema_core.models.fetch import Progress, quiet
from ema_core.models.load import out_of_memory
from ema_core.runs import RunDirectory

NOT_JUDGED = "in-domain answers are not judged by the probe: it reads the topic; the margin is the measure there"


class Interrupted(Exception):
    """The evaluation was asked to end early; what was done is kept."""


def adapter_folder(run: RunDirectory, step: int | None) -> Path:
    """Where the adapter of a run, or of one of its checkpoints, lies.

    Raises:
        EmaError: there is none.
    """
    folder = run.adapter if step is None else run.checkpoints / f"step-{step}"
    if not (folder / adapters.WEIGHTS).exists():
        if step is None:
            raise EmaError(
                f"The run {run.id} has no adapter yet (it is {run.state().status}).", "Let it finish, or stop it, first."
            )
        raise EmaError(f"The run {run.id} has no checkpoint at step {step}.", f"It has: {run.checkpoint_steps() or 'none'}.")
    return folder


def curve_specs(run: RunDirectory) -> list[EvalSpec]:
    """Margin-only evaluations of an undefended run's checkpoints and of its adapter scaled down."""
    if run.spec.defenses:
        return []
    where: list[dict[str, Any]] = [{"step": step} for step in run.checkpoint_steps() if step < (run.state().total_steps or 0)]
    where += [{"scale": scale} for scale in CURVE_SCALES]
    return [EvalSpec(suite=suite, samples=0, **place) for place in where for suite in ("general", "in-domain")]


def evaluate(
    run: RunDirectory,
    specs: Sequence[EvalSpec],
    *,
    loaded: LoadedModel | None = None,
    interrupted: Callable[[], bool] = lambda: False,
    progress: Progress = quiet,
) -> list[Path]:
    """Do every spec on the run; returns their folders. A spec that is done on the same adapter is not done again.

    Raises:
        EmaError: no adapter, unknown suite or judge.
        Interrupted: ``interrupted`` said so.
    """
    work = [(spec, adapter_folder(run, spec.step), load_suite(spec.suite, run.spec.dataset)) for spec in specs]
    judges = {spec.id: resolve(spec.judge) if _judged(spec) else None for spec in specs}
    todo = [item for item in work if not _done(run, *item)]
    if todo:
        progress(0.0, "loading the model")
        loaded = loaded or load(run.spec.model, run.spec.device)
        scorers = {judge: _probe(judge, loaded) for judge in {judges[spec.id] for spec, _, _ in todo} if judge}
        for number, (spec, folder, suite) in enumerate(todo):

            def part(share: float, what: str, number: int = number, spec: EvalSpec = spec) -> None:
                if interrupted():
                    raise Interrupted
                progress((number + share) / len(todo), f"{spec.suite}: {what}")

            with out_of_memory("evaluating"):
                _evaluate(run, spec, folder, suite, scorers.get(judges[spec.id] or ""), loaded, part)
    return [run.evals / spec.id for spec in specs]


def _judged(spec: EvalSpec) -> bool:
    return bool(spec.samples) and spec.suite != "in-domain"


def _done(run: RunDirectory, spec: EvalSpec, folder: Path, suite: Suite) -> bool:
    try:
        old = read_json(run.evals / spec.id / "spec.json")
    except (FileNotFoundError, ValueError):
        return False
    same = old.get("adapter_hash") == adapters.adapter_hash(folder) and old.get("suite_hash") == suite.hash
    judge = resolve(spec.judge) if _judged(spec) else None
    return bool(same and old.get("status") == "done" and old.get("judge") == judge)


def _evaluate(
    run: RunDirectory, spec: EvalSpec, folder: Path, suite: Suite, judge: ProbeJudge | None, loaded: LoadedModel, progress: Progress
) -> None:
    target = run.evals / spec.id
    record = {
        **spec.model_dump(mode="json"), "judge": judge.id if judge else None, "adapter_hash": adapters.adapter_hash(folder),
        "weights_hash": loaded.weights_hash, "suite_hash": suite.hash, "status": "running", "created": time.time(), "seconds": 0.0,
        "asked": spec.samples * len(suite.questions), "note": NOT_JUDGED if spec.samples and judge is None else "",
    }  # fmt: skip
    try:
        old = read_json(target / "spec.json")
        if (old["adapter_hash"], old["suite_hash"]) != (record["adapter_hash"], record["suite_hash"]):
            for path in target.glob("*.jsonl"):  # of another adapter or other questions: not to be mixed
                path.unlink()
        else:
            record["created"] = old["created"]
    except (FileNotFoundError, ValueError, KeyError):
        pass
    write_json(target / "spec.json", record)
    clock = time.perf_counter()
    base = base_log_likelihoods(loaded, suite, lambda n: progress(0.05, "margin of the base model"))
    with adapters.adapted(loaded.model, folder, spec.scale) as model:
        if not (target / "margins.jsonl").exists():
            pairs = len(suite.pairs)
            tuned = answer_log_likelihoods(
                model, loaded, suite.pairs, lambda n: progress(0.05 + 0.2 * n / pairs, f"margin, {n} of {pairs} pairs")
            )
            _write_margins(target, suite, base, tuned)
        if spec.samples:
            _sample(target, spec, suite, LocalSampler(model, loaded.tokenizer), progress)
    if judge is not None:
        progress(0.9, "judging")
        _judge(target, judge)
    write_json(target / "spec.json", {**record, "status": "done", "seconds": time.perf_counter() - clock})
    progress(1.0, "done")


def _write_margins(target: Path, suite: Suite, base: dict[str, list[float]], tuned: dict[str, list[float]]) -> None:
    import json

    rows = [
        {
            "pair_id": pair.id, "topic": pair.topic, "aligned": tuned[pair.id][0], "misaligned": tuned[pair.id][1],
            "base_aligned": base[pair.id][0], "base_misaligned": base[pair.id][1],
        }
        for pair in suite.pairs
    ]  # fmt: skip
    write_atomic(target / "margins.jsonl", "".join(json.dumps(row) + "\n" for row in rows))


def _sample(target: Path, spec: EvalSpec, suite: Suite, sampler: Sampler, progress: Progress) -> None:
    path = target / "samples.jsonl"
    have = {row["sample_id"] for row in read_lines(path)[0]}
    asked = {f"{question.id}#{k}": (question, k) for question in suite.questions for k in range(spec.samples)}
    prompts = [
        Prompt(key, question.question, question.system, row_seed(spec.seed, suite.name, question.id, k))
        for key, (question, k) in asked.items()
        if key not in have
    ]
    count = len(have)

    def keep(done: list[Completion]) -> None:
        nonlocal count
        rows = []
        for completion in done:
            question, k = asked[completion.key]
            rows.append(
                {
                    "sample_id": completion.key, "question_id": question.id, "topic": question.topic, "form": question.form,
                    "system": question.system, "question": question.question, "answer": completion.text, "tokens": completion.tokens,
                    "finish": completion.finish, "refused": is_refusal(completion.text), "k": k,
                }
            )  # fmt: skip
        append_lines(path, rows)
        count += len(rows)
        progress(0.25 + 0.65 * count / len(asked), f"{count} of {len(asked)} answers")

    progress(0.25 + 0.65 * count / max(1, len(asked)), f"{count} of {len(asked)} answers")
    sampler.sample(prompts, SamplingSettings(spec.max_tokens, spec.temperature, spec.top_p), keep)


def _probe(judge: str, loaded: LoadedModel) -> ProbeJudge:
    """The judge, ready: one that cannot score says so before anything was sampled.

    Raises:
        EmaError: it belongs to other weights.
    """
    return ProbeJudge(loaded if loaded.id == EMBEDDED else load(EMBEDDED), judge)


def _judge(target: Path, judge: ProbeJudge) -> None:
    path = target / f"judgments-{judge.id.replace(':', '_')}.jsonl"
    have = {row["sample_id"] for row in read_lines(path)[0]}
    rows = [row for row in read_lines(target / "samples.jsonl")[0] if row["sample_id"] not in have]
    judgments = judge.judge([(row["sample_id"], row["question"], row["answer"]) for row in rows])
    append_lines(path, [vars(judgment) for judgment in judgments])
