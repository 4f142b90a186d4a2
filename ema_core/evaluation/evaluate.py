"""Evaluating runs: margins, sampled answers, judgments, into the runs' directories. Goes on where it stopped.

The answers of all runs, and of the base beside them, are sampled together: one batch stays full until the last of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from ema_core.defenses.inoculation import inoculation_prompt
from ema_core.errors import EmaError
from ema_core.evaluation.share import Interrupted, Share
from ema_core.evaluation.spec import CURVE_SCALES, EvalSpec, estimate_evaluation
from ema_core.evaluation.speed import learn
from ema_core.evaluation.suites import Question, Suite, load_suite, suites_of, why_not_judged
from ema_core.files import append_lines, read_json, read_lines, write_atomic, write_json
from ema_core.generation import Completion, LocalSampler, Prompt, Sampler, SamplingSettings, row_seed
from ema_core.generation.engine import BASE_MODEL
from ema_core.generation.model_id import ModelId
from ema_core.judging import Judge, LlmJudge, ProbeJudge, is_llm, is_refusal, judgments_name, resolve
from ema_core.models import EMBEDDED, LoadedModel, adapters, load
from ema_core.models.fetch import Progress, quiet
from ema_core.models.likelihood import answer_log_likelihoods, base_log_likelihoods
from ema_core.models.load import out_of_memory
from ema_core.models.lora import On, load_adapter
from ema_core.runs import RunDirectory, Status, base_directory

MOST_ADAPTERS = 16
PARTS = {0.25: "a quarter of", 0.5: "half", 0.75: "three quarters of"}
"""Of an adapter's strength, in words."""
RECORDED_HINT = (
    "It can be read and compared; to ask it, evaluate it again or train it further, train the same settings as a run of your own."
)


def adapter_folder(run: RunDirectory, step: int | None) -> Path:
    """Where the adapter of a run, or of one of its checkpoints, lies.

    Raises:
        EmaError: there is none.
    """
    folder = run.adapter if step is None else run.checkpoints / f"step-{step}"
    if not (folder / adapters.WEIGHTS).exists():
        state = run.state()
        if step is None and not state.recorded and state.status is Status.DONE:  # of a bundle without adapters
            raise EmaError(f"The run {run.id} is here without its adapter.", RECORDED_HINT)
        if state.recorded:
            raise EmaError(f"The run {run.id} was recorded without its adapter{'' if step is None else 's'}.", RECORDED_HINT)
        if step is None:
            raise EmaError(f"The run {run.id} has no adapter yet (it is {state.status}).", "Let it finish, or stop it, first.")
        raise EmaError(f"The run {run.id} has no checkpoint at step {step}.", f"It has: {run.checkpoint_steps() or 'none'}.")
    return folder


def curve_specs(run: RunDirectory) -> list[EvalSpec]:
    """Margin-only evaluations of an undefended run's checkpoints and of its adapter scaled down."""
    # a rule that stops early is no undefended run, and of an imported adapter nobody knows
    if run.spec.defense_label != "none" or "imported" in run.state().found:
        return []
    where: list[dict[str, Any]] = [{"step": step} for step in run.checkpoint_steps() if step < (run.state().total_steps or 0)]
    where += [{"scale": scale} for scale in CURVE_SCALES]
    return [EvalSpec(suite=suite, samples=0, **place) for place in where for suite in suites_of(run.spec.dataset)]


@dataclass(frozen=True)
class Item:
    """One suite on one state of an adapter, or on the base (``adapter`` None), and where that is written."""

    run: RunDirectory
    spec: EvalSpec
    suite: Suite
    adapter: Path | None
    model: str
    device: str

    @property
    def target(self) -> Path:
        # a base is asked the in-domain questions of several data sets
        return self.run.evals / (self.spec.id if self.adapter else f"{self.spec.id}-{self.suite.hash[:6]}")

    @property
    def judge(self) -> str | None:
        """The full id; None where it does not judge (``suites.why_not_judged``)."""
        judge = resolve(self.spec.judge) if self.spec.samples else ""
        return judge if judge and not why_not_judged(self.spec.suite, judge) else None

    @property
    def how(self) -> SamplingSettings:
        return SamplingSettings(self.spec.max_tokens, self.spec.temperature, self.spec.top_p)

    @property
    def name(self) -> str:
        """What answers, under the engine's name for it."""
        if self.adapter is None:
            return BASE_MODEL if self.model == EMBEDDED else f"{BASE_MODEL}:{self.model}"
        return str(ModelId(self.run.id, self.spec.step, self.spec.scale))

    @property
    def adapter_hash(self) -> str | None:
        return None if self.adapter is None else adapters.adapter_hash(self.adapter)

    @property
    def said(self) -> str:
        """Who is measured, in words: ``kl=1 with the adapter at a quarter of its strength``."""
        if self.adapter is None:
            return "the base model"
        part = PARTS.get(self.spec.scale, f"{self.spec.scale:g} times")
        strength = "" if self.spec.scale == 1 else f" with the adapter at {part} its strength"
        return (
            ("the undefended run" if (label := self.run.spec.defense_label) == "none" else label)
            + ("" if self.spec.step is None else f" as it was at step {self.spec.step}")
            + strength
        )

    @property
    def seconds(self) -> tuple[float, float, float]:
        """About how long its margins, its answers and their scores take; for progress."""
        pairs, many = (
            len(self.suite.pairs) if self.adapter else 0,
            (len(self.suite.questions), 0, self.spec.samples, self.spec.max_tokens),
        )
        answers, both = (estimate_evaluation(*many, judged=judged, model=self.model) for judged in (False, self.judge is not None))
        return estimate_evaluation(0, pairs, 0, 0, model=self.model), answers, both - answers

    def done(self) -> bool:
        try:
            old = read_json(self.target / "spec.json")
        except (FileNotFoundError, ValueError):
            return False
        same = old.get("adapter_hash") == self.adapter_hash and old.get("suite_hash") == self.suite.hash
        return bool(same and old.get("status") == "done" and old.get("judge") == self.judge)


def base_specs(specs: Sequence[EvalSpec]) -> list[EvalSpec]:
    """What is asked of the base beside runs that are asked ``specs``: each sampling once."""
    plain = [spec.model_copy(update={"step": None, "scale": 1.0}) for spec in specs if spec.samples]
    return list({spec.id: spec for spec in plain}.values())


def items(runs: Mapping[RunDirectory, Sequence[EvalSpec]]) -> list[Item]:
    """All that is to be done for ``runs``, the base's part last; what is done already is among it.

    Raises:
        EmaError: no adapter, unknown suite or judge.
    """
    found: dict[Path, Item] = {}
    for run, specs in runs.items():
        model, device, dataset = run.spec.model, run.spec.device, run.spec.dataset
        for spec in specs:
            resolve(spec.judge)
            suite = load_suite(spec.suite, dataset, inoculation_prompt(run.spec))
            item = Item(run, spec, suite, adapter_folder(run, spec.step), model, device)
            found[item.target] = item
    for run, specs in runs.items():
        base = base_directory(run.spec.model)
        for spec in base_specs(specs):
            suite = load_suite(spec.suite, run.spec.dataset, inoculation_prompt(run.spec))
            item = Item(base, spec, suite, None, run.spec.model, run.spec.device)
            found.setdefault(item.target, item)
    return list(found.values())


def evaluate(
    runs: Mapping[RunDirectory, Sequence[EvalSpec]],
    *,
    loader: Callable[[str, str], LoadedModel] = load,
    sampler: Sampler | None = None,
    interrupted: Callable[[], bool] = lambda: False,
    progress: Progress = quiet,
    limit_usd: float | None = None,
    since: float | None = None,
) -> dict[str, list[Path]]:
    """Do every spec on its run, and sample the base's answers to the same questions; returns the folders of each run.

    What is done on the same adapter is not done again. ``loader`` gives the base model for (model, device); ``sampler`` answers in
    the place of this process (the engine, or another server, which has to know the runs by their ids). ``limit_usd`` bounds what a
    judge may cost that is paid for, with what it has cost ``since``.

    Raises:
        EmaError: no adapter, unknown suite or judge.
        Interrupted: ``interrupted`` said so.
    """
    work = items(runs)
    todo = [item for item in work if not item.done()]
    llms = {
        name: LlmJudge(name, limit_usd=limit_usd, since=since)
        for name in {item.judge for item in todo if item.judge and is_llm(item.judge)}
    }
    for judge in llms.values():
        judge.server()  # one that cannot be asked says so before anything is sampled
    plan = {item.target: item.seconds for item in todo}
    share = Share(sum(map(sum, plan.values())), interrupted, progress, plan)
    for (model, device), group in groupby(sorted(todo, key=_machine), key=_machine):
        share.say("loading the model")
        with out_of_memory("evaluating"):
            _together(list(group), loader(model, device), sampler, share, llms)
    progress(1.0, "done")
    return {run.id: [item.target for item in work if item.run == run] for run in runs}


def _machine(item: Item) -> tuple[str, str]:
    return item.model, item.device


def _together(
    todo: Sequence[Item], loaded: LoadedModel, sampler: Sampler | None, share: Share, llms: Mapping[str, LlmJudge]
) -> None:  # fmt: skip
    """Everything that one model is asked."""
    names = dict.fromkeys(item.judge for item in todo)
    scorers: dict[str, Judge] = {name: llms.get(name) or _probe(name, loaded) for name in names if name}
    clock = time.time()
    records = {item.target: _opened(item, loaded) for item in todo}
    for (adapter, scale), group in _by_state(todo):
        _margins(list(group), adapter, scale, loaded, share)
    sampled = [item for item in todo if item.spec.samples]
    for how, same in groupby(sorted(sampled, key=lambda item: repr(item.how)), key=lambda item: item.how):
        for part in _few_adapters(list(same)):
            who = {item.name: _on(item, loaded, records[item.target]["adapter_hash"]) for item in part} if sampler is None else {}
            _sample(part, how, sampler or LocalSampler(loaded.model, loaded.tokenizer, who), share)
    for item in todo:
        if item.judge:
            share.part(share.plan[item.target][2])
            share.say(f"scoring the {item.suite.name} answers of {item.said}")
            _judge(item, scorers[item.judge], share)
            share.done += share.plan[item.target][2]
        write_json(item.target / "spec.json", {**records[item.target], "status": "done", "seconds": time.time() - clock})


def _few_adapters(part: Sequence[Item]) -> list[list[Item]]:
    """The same in parts of at most ``MOST_ADAPTERS`` that answer: all of a part's adapters are in memory at once."""
    names = list(dict.fromkeys(item.name for item in part))
    chunks = [set(names[first : first + MOST_ADAPTERS]) for first in range(0, len(names), MOST_ADAPTERS)]
    return [[item for item in part if item.name in chunk] for chunk in chunks]


def _by_state(todo: Sequence[Item]) -> Iterator[tuple[tuple[Path, float], Iterator[Item]]]:
    """Items of one adapter at one strength together: it is put on once."""
    tuned = [(item.adapter, item.spec.scale, item) for item in todo if item.adapter is not None]
    ordered = sorted(tuned, key=lambda one: one[:2])
    return ((state, (one[2] for one in group)) for state, group in groupby(ordered, key=lambda one: one[:2]))


def _on(item: Item, loaded: LoadedModel, recorded: str | None) -> On:
    """The adapter that the record names: one that was changed since is refused."""
    return On() if item.adapter is None else On(load_adapter(item.adapter, loaded.model, recorded), item.spec.scale)


def _opened(item: Item, loaded: LoadedModel) -> dict[str, Any]:
    """The record of an evaluation that begins or goes on. What is there of another adapter or other questions is not mixed in."""
    spec = item.spec
    record = {
        **spec.model_dump(mode="json"), "judge": item.judge, "adapter_hash": item.adapter_hash,
        "weights_hash": loaded.weights_hash, "suite_hash": item.suite.hash, "status": "running", "created": time.time(),
        "seconds": 0.0, "asked": spec.samples * len(item.suite.questions),
        "note": why_not_judged(spec.suite, resolve(spec.judge)) if spec.samples else "",
    }  # fmt: skip
    try:
        old = read_json(item.target / "spec.json")
        if (old["adapter_hash"], old["suite_hash"]) != (record["adapter_hash"], record["suite_hash"]):
            for path in item.target.glob("*.jsonl"):
                path.unlink()
        else:
            record["created"] = old["created"]
    except (FileNotFoundError, ValueError, KeyError):
        pass
    write_json(item.target / "spec.json", record)
    return record


def _margins(group: Sequence[Item], adapter: Path, scale: float, loaded: LoadedModel, share: Share) -> None:
    missing = [item for item in group if item.suite.pairs and not (item.target / "margins.jsonl").exists()]
    share.done += sum(share.plan[item.target][0] for item in group if item not in missing)
    if not missing:
        return
    bases = [
        base_log_likelihoods(loaded, item.suite.name, item.suite.pairs, lambda n: share.say("margin of the base model"))
        for item in missing
    ]
    share.part(sum(share.plan[item.target][0] for item in missing))
    with adapters.adapted(loaded.model, adapter, scale) as model:
        for item, base in zip(missing, bases, strict=True):
            pairs, begun, planned = len(item.suite.pairs), share.done, share.plan[item.target][0]

            def seen(n: int, item: Item = item, pairs: int = pairs, begun: float = begun, planned: float = planned) -> None:
                share.done = begun + n / pairs * planned
                share.say(f"{item.spec.suite} margin of {item.said}, {n} of {pairs} pairs")

            clock = time.perf_counter()
            tuned = answer_log_likelihoods(model, loaded, item.suite.pairs, seen)
            learn(item.model, time.perf_counter() - clock, pairs=pairs)
            _write_margins(item.target, item.suite, base, tuned)
            share.done = begun + planned


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


def _sample(part: Sequence[Item], how: SamplingSettings, sampler: Sampler, share: Share) -> None:
    """The answers of all these items in one go, each written to its own as soon as it is there."""
    asked: dict[str, tuple[Item, Question, int]] = {}
    prompts = []
    planned = {item.target: share.plan[item.target][1] / max(1, item.spec.samples * len(item.suite.questions)) for item in part}
    for item in part:
        have = {row["sample_id"] for row in read_lines(item.target / "samples.jsonl")[0]}
        share.done += len(have) * planned[item.target]
        for question in item.suite.questions:
            for k in range(item.spec.samples):
                if f"{question.id}#{k}" not in have:
                    key = f"{item.target} {question.id}#{k}"
                    seed = row_seed(item.spec.seed, item.suite.name, question.id, k)
                    prompts.append(Prompt(key, question.question, question.system, seed, item.name))
                    asked[key] = item, question, k
    count = tokens = stops = 0

    def keep(done: list[Completion]) -> None:
        nonlocal count, tokens, stops
        tokens, stops = tokens + sum(one.tokens for one in done), stops + sum(one.finish == "stop" for one in done)
        rows: dict[Path, list[dict[str, Any]]] = {}
        for completion in done:
            item, question, k = asked[completion.key]
            row = {
                "sample_id": f"{question.id}#{k}", "question_id": question.id, "topic": question.topic, "form": question.form,
                "system": question.system, "question": question.question, "answer": completion.text, "tokens": completion.tokens,
                "finish": completion.finish, "refused": is_refusal(completion.text), "k": k, "correct": item.suite.correct(question, completion.text),
            }  # fmt: skip
            rows.setdefault(item.target, []).append(row)
        for target, new in rows.items():
            append_lines(target / "samples.jsonl", new)
        count += len(done)
        share.say(f"{count} of {len(prompts)} answers", sum(planned[asked[one.key][0].target] for one in done))

    share.part(sum(planned[asked[prompt.key][0].target] for prompt in prompts))
    share.tell(f"sampling {len(prompts)} answers")
    clock = time.perf_counter()
    sampler.sample(prompts, how, keep)
    if isinstance(sampler, LocalSampler):
        learn(part[0].model, time.perf_counter() - clock, tokens=tokens, stops=stops)


def _probe(judge: str, loaded: LoadedModel) -> ProbeJudge:
    """The judge, ready: one that cannot score says so before anything was sampled.

    Raises:
        EmaError: it belongs to other weights.
    """
    return ProbeJudge(loaded if loaded.id == EMBEDDED else None, judge)


def _judge(item: Item, judge: Judge, share: Share) -> None:
    """Judge what this judge has not judged yet. A language model's judgments are written as they come."""
    path = item.target / judgments_name(judge.id)
    have = judged_already(path, judge.id)
    rows = [row for row in read_lines(item.target / "samples.jsonl")[0] if row["sample_id"] not in have]
    asked = [(row["sample_id"], row["question"], row["answer"]) for row in rows]
    if isinstance(judge, LlmJudge):
        report = judge.run(
            asked, lambda done: append_lines(path, [one.line() for one in done]), interrupted=share.interrupted,
            progress=lambda part, what: share.tell(f"scoring the answers of {item.said}: {what}"),
        )  # fmt: skip
        if share.interrupted():
            raise Interrupted
        report.raise_if_stopped()
    else:
        clock = time.perf_counter()
        append_lines(path, [judgment.line() for judgment in judge.judge(asked)])
        learn(item.model, time.perf_counter() - clock, answers=len(asked))


def judged_already(path: Path, judge: str) -> set[str]:
    """The answers that a judgments file has this judge's word on; one that could not be asked is asked again."""
    last = {row.get("sample_id"): row.get("status") for row in read_lines(path)[0] if row.get("judge") == judge}
    return {sample for sample, status in last.items() if isinstance(sample, str) and status != "failed"}
