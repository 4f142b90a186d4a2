"""Judging answers that are there already: of runs, of bases, of imported tables. Torch-free to import."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ema_core.errors import EmaError, nearest
from ema_core.evaluation.evaluate import Interrupted, judged_already
from ema_core.evaluation.suites import KEPT, all_suites, why_not_judged
from ema_core.files import append_lines, read_json, read_lines
from ema_core.jobs import queue
from ema_core.judging import Judgment, LlmJudge, ProbeJudge, is_llm, judgments_name, resolve
from ema_core.judging.asking import SECONDS
from ema_core.judging.judgment import Item, Progress, quiet
from ema_core.judging.report import Estimate, Report
from ema_core.runs import IMPORT, RunDirectory, answering_ids
from ema_core.settings import settings
from ema_core.shared.limits import check_usd
from ema_core.store import Reader, refresh

BLOCK = 500
"""Answers that a probe judges before they are written down: what an end in between costs."""


@dataclass(frozen=True)
class Answers:
    """An evaluation's answers that a judge has not judged yet, and the file that its judgments go to. ``there`` counts all of them."""

    run_id: str
    eval_id: str
    suite: str
    path: Path
    items: tuple[Item, ...]
    there: int

    def line(self, judgment: Judgment) -> dict[str, Any]:
        """In an import's file a line says of which run it is; elsewhere the folder does."""
        where = {"run_id": self.run_id, "eval_id": self.eval_id} if self.run_id.startswith(IMPORT) else {}
        return where | judgment.line()


@dataclass(frozen=True)
class Asked:
    """What is to be judged, by whom, and what it may cost."""

    runs: tuple[str, ...]
    judge: str
    suites: tuple[str, ...] = ()
    limit_usd: float | None = None
    price_in: float | None = None
    price_out: float | None = None
    timeout: float = SECONDS

    def payload(self) -> dict[str, Any]:
        return {name: list(value) if isinstance(value, tuple) else value for name, value in vars(self).items()}

    @classmethod
    def of(cls, payload: dict[str, Any]) -> Asked:
        return cls(**{**payload, "runs": tuple(payload["runs"]), "suites": tuple(payload["suites"])})


def judgments_path(run_id: str, eval_id: str, judge: str) -> Path:
    """Where a judge's judgments of an evaluation's answers go: beside them, and beside the table where they were imported."""
    if run_id.startswith(IMPORT):
        return settings().imports / run_id.rpartition("-")[0] / judgments_name(judge)
    return settings().runs / run_id / "evals" / eval_id / judgments_name(judge)


def to_judge(names: Sequence[str], judge: str, suites: Sequence[str] = ()) -> list[Answers]:
    """The answers of runs, bases and imports that ``judge`` (a full id) has not judged; without ``suites`` all that it may judge.

    Raises:
        EmaError: unknown run or suite, or a suite that this judge does not judge.
    """
    known = [*all_suites(), KEPT]
    for suite in suites:
        if suite not in known and not any(name.startswith(IMPORT) for name in names):  # a table has suites of its own
            raise EmaError(f'There is no suite "{suite}".', nearest(suite, known))
        if why := why_not_judged(suite, judge):
            raise EmaError(f"{why[0].upper()}{why[1:]}.", "Leave the suite out, or take another judge.")
    found: list[Answers] = []
    for name in dict.fromkeys(names):
        if name.startswith(IMPORT):
            found += _of_import(name, judge, suites)
        else:
            found += _of_run(_opened(name), judge, suites)
    return found


def _opened(name: str) -> RunDirectory:
    """A run, or a model without an adapter of ours (``base-…``)."""
    return RunDirectory(settings().runs / name) if name in answering_ids() else RunDirectory.open(name)


def _of_run(run: RunDirectory, judge: str, suites: Sequence[str]) -> list[Answers]:
    found = []
    for folder in sorted(run.evals.glob("*/")):
        try:
            suite = str(read_json(folder / "spec.json")["suite"])
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if why_not_judged(suite, judge) or (suites and suite not in suites):
            continue
        path = judgments_path(run.id, folder.name, judge)
        have = judged_already(path, judge)
        rows = {row["sample_id"]: row for row in read_lines(folder / "samples.jsonl")[0] if isinstance(row.get("sample_id"), str)}
        items = tuple(
            (sample_id, str(row["question"]), str(row["answer"]))
            for sample_id, row in rows.items()
            if sample_id not in have and "question" in row and "answer" in row
        )
        found.append(Answers(run.id, folder.name, suite, path, items, len(rows)))
    return found


def _of_import(name: str, judge: str, suites: Sequence[str]) -> list[Answers]:
    """The answers of an imported run, or of all of an imported table: from the index, for only that knows the file's form.

    Raises:
        EmaError: there is none.
    """
    refresh()
    reader = Reader()
    there = reader.import_ids()
    run_ids = [run_id for run_id in there if run_id == name or run_id.startswith(f"{name}-")]
    if not run_ids:
        raise EmaError(f'There is no imported run or table "{name}".', nearest(name, there))
    rows = reader.samples(run_ids).drop_duplicates(["run_id", "eval_id", "sample_id"])
    path = judgments_path(run_ids[0], "", judge)  # a table has one file for all of its runs
    have = _judged_of_table(path, judge)
    found = []
    for (run_id, eval_id, suite), part in rows.groupby(["run_id", "eval_id", "suite"], dropna=False, sort=False):
        if why_not_judged(str(suite), judge) or (suites and suite not in suites):
            continue
        texts = part[["sample_id", "question", "answer"]].astype(object).itertuples(index=False)
        items = tuple((str(a), str(b or ""), str(c or "")) for a, b, c in texts if (run_id, eval_id, a) not in have)
        found.append(Answers(str(run_id), str(eval_id), str(suite), path, items, len(part)))
    return found


def _judged_of_table(path: Path, judge: str) -> set[tuple[Any, ...]]:
    """``evaluate.judged_already`` of a table, whose lines say of which run and evaluation they are."""
    last = {
        (row.get("run_id"), row.get("eval_id"), row.get("sample_id")): row.get("status")
        for row in read_lines(path)[0]
        if row.get("judge") == judge
    }
    return {key for key, status in last.items() if status != "failed"}


def estimate(asked: Asked) -> tuple[Estimate, int]:
    """What judging would take, and how many of the answers are judged by this judge already. A probe costs nothing.

    Raises:
        EmaError: as ``to_judge``, or no such judge.
    """
    groups = to_judge(asked.runs, asked.judge, asked.suites)
    items = [item for group in groups for item in group.items]
    have = sum(group.there - len(group.items) for group in groups)
    if is_llm(asked.judge):
        return _llm(asked).estimate(items), have
    return Estimate(len(items), 0, 0, 0, 0, 0.0, "a probe on this machine", len(items) / 10), have


def _llm(asked: Asked, since: float | None = None) -> LlmJudge:
    return LlmJudge(
        asked.judge,
        price_in=asked.price_in,
        price_out=asked.price_out,
        limit_usd=asked.limit_usd,
        since=since,
        seconds=asked.timeout,
    )


def judge_answers(
    asked: Asked, *, progress: Progress = quiet, interrupted: Callable[[], bool] = lambda: False, since: float | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Judge what is there, here and now, and write it beside the answers. ``since``: what was paid from then on counts towards the limit.

    Returns the report's fields, with ``runs``, ``files`` (written to) and ``before`` (answers that were judged already).

    Raises:
        EmaError: unknown names, or the judge cannot be asked; what was judged is kept.
    """
    judge = resolve(asked.judge)
    asked = replace(asked, judge=judge)
    groups = to_judge(asked.runs, judge, asked.suites)
    places = [(group, item) for group in groups for item in group.items]
    files: dict[Path, None] = {}

    def keep(done: list[Judgment]) -> None:
        lines: dict[Path, list[dict[str, Any]]] = {}
        for judgment in done:
            group, item = places[int(judgment.sample_id)]
            lines.setdefault(group.path, []).append(group.line(replace(judgment, sample_id=item[0])))
        for path, rows in lines.items():
            append_lines(path, rows)
            files[path] = None

    numbered = [(str(place), question, answer) for place, (_, (_, question, answer)) in enumerate(places)]
    if is_llm(judge):
        report = _llm(asked, since).run(numbered, keep, progress=progress, interrupted=interrupted)
    else:
        report = _by_probe(judge, numbered, keep, progress, interrupted)
    before = sum(group.there - len(group.items) for group in groups)
    return report.json() | {
        "runs": list(asked.runs),
        "files": [str(path) for path in files],
        "before": before,
        "words": report.words(),
    }


def _by_probe(
    judge: str, items: list[Item], keep: Callable[[list[Judgment]], None], progress: Progress, interrupted: Callable[[], bool]
) -> Report:
    report, begun = Report(judge, answers=len(items), usd=0.0), time.monotonic()
    if not items:
        return report
    probe = ProbeJudge(None, judge)
    for first in range(0, len(items), BLOCK):

        def say(share: float, what: str, first: int = first) -> None:
            if interrupted():
                raise Interrupted
            progress((first + share * min(BLOCK, len(items) - first)) / len(items), what)

        try:
            found = probe.judge(items[first : first + BLOCK], say)
        except Interrupted:
            report.stopped = "cancelled"
            break
        keep(found)
        report.statuses.update(judgment.status for judgment in found)
        report.judged += len(found)
    report.seconds = time.monotonic() - begun
    return report


def launch_judging(asked: Asked) -> queue.Job:
    """Queue it; a job that does the same already is taken instead. Its limit counts from now on, also when it goes on after a crash.

    Raises:
        EmaError: unknown names, nothing to judge, no key, or a limit without a price.
    """
    asked = replace(asked, judge=resolve(asked.judge))
    if not any(group.items for group in to_judge(asked.runs, asked.judge, asked.suites)):
        raise EmaError(
            "There is no answer that this judge has not judged.", "Sample answers first, or repeat it on purpose (repeat 2)."
        )
    if is_llm(asked.judge):
        check_usd(asked.limit_usd)
        _llm(asked).server()
    waiting = [job for job in queue.jobs() if job.kind == "judge" and job.status in ("queued", "running")]
    same = [job for job in waiting if job.payload == asked.payload()]
    return same[0] if same else queue.enqueue("judge", asked.payload())
