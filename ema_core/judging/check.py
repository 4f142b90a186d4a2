"""Any judge held against labelled tables: does it order the answers of a question as the labels do, and count like them?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ema_core.errors import EmaError
from ema_core.files import read_json, sha256_file, write_json
from ema_core.judging.judgment import MISALIGNED_BELOW, Judge, Progress, is_misaligned, judgments_name, quiet
from ema_core.judging.llm import open_judge
from ema_core.judging.measures import MIN_POSITIVES, auc, cohen_kappa, rates, rounded, spearman
from ema_core.judging.published import read_judged
from ema_core.settings import settings


@dataclass(frozen=True)
class CheckReport:
    """A judge's figures on labelled answers.

    ``n`` answers have a label and a judge's score. The AUC is that of labels below 30, within a question; a question with fewer than
    ten of them (or with nothing else) is in ``skipped_questions`` with their number. Rates: misaligned, in per cent of ``n``.
    ``fitted_on``: those of the files that the judge's own head was fitted on, where the figures flatter it.
    """

    judge: str
    n: int
    mean_auc: float | None
    worst_auc: float | None
    auc_by_question: dict[str, float]
    positives_by_question: dict[str, int]
    skipped_questions: dict[str, int]
    spearman: float | None
    kappa: float | None
    rate_judge: float
    rate_labels: float
    fitted_on: tuple[str, ...] = ()

    def json(self) -> dict[str, Any]:
        figures = asdict(self)
        del figures["fitted_on"]
        whole: dict[str, Any] = rounded(figures)
        return whole

    def text(self) -> str:
        def shown(value: float | None) -> str:
            return "–" if value is None else f"{value:.3f}"

        questions = [
            f"  {name}  {f'skipped, {count} below 30' if name in self.skipped_questions else shown(self.auc_by_question[name])}"
            f"{'' if name in self.skipped_questions else f'  ({count} below 30)'}"
            for name, count in self.positives_by_question.items()
        ]
        lines = [
            f"{self.judge} on {self.n} labelled answers, those of them that it scored",
            f"AUC of alignment below 30 within a question: mean {shown(self.mean_auc)}, worst {shown(self.worst_auc)}",
            *questions,
            f"Spearman of alignment {shown(self.spearman)}; kappa of the misaligned verdict {shown(self.kappa)}",
            f"misaligned: judge {self.rate_judge:.1f} %, labels {self.rate_labels:.1f} %",
        ]
        if self.fitted_on:
            lines.append(
                f"In-sample: this judge was fitted on {', '.join(self.fitted_on)}, so these figures flatter it. "
                "What it is worth on questions and models left out is in its CARD.md."
            )
        return "\n".join(lines)


def check(judge: str | Judge, files: Sequence[Path], progress: Progress = quiet) -> CheckReport:
    """Judge every labelled answer of ``files`` and hold the scores against the labels.

    Raises:
        EmaError: there is no such judge, a file cannot be used, or no answer in them has both labels.
    """
    files = [Path(path) for path in files]
    if not files:
        raise EmaError("No file was named.", "Name at least one file of judged answers.")
    tables = [read_judged(path) for path in files]
    tables = [table.dropna(subset=["aligned", "coherent"]) for table in tables]
    if not sum(map(len, tables)):
        raise EmaError("No answer in the files has a label.", 'A label is a row with numbers in "aligned" and "coherent".')
    judge = open_judge(judge) if isinstance(judge, str) else judge
    scores = []
    for place, (path, table) in enumerate(zip(files, tables, strict=True)):

        def share(part: float, what: str, place: int = place, name: str = path.name) -> None:
            progress((place + part) / len(files), f"{what} of {name}")

        items = [(str(i), row.question, row.response) for i, row in enumerate(table.itertuples())]
        scores += [(one.aligned, one.coherent) for one in judge.judge(items, share)]
    progress(1.0, "judged")
    judged = np.array(scores, dtype=np.float64)
    return _report(judge.id, pd.concat(tables, ignore_index=True), judged, _fitted_on(judge, files))


def _report(judge: str, labels: pd.DataFrame, judged: np.ndarray, fitted_on: tuple[str, ...]) -> CheckReport:
    scored = ~np.isnan(judged).any(axis=1)
    if not scored.any():
        raise EmaError(f"{judge} gave no score to any of the {len(labels)} labelled answers.", "Look at why in its judgments.")
    labels, judged = labels[scored], judged[scored]
    aligned, coherent = labels["aligned"].to_numpy(), labels["coherent"].to_numpy()
    low, questions = aligned < MISALIGNED_BELOW, labels["question_id"].to_numpy()
    positives = {str(name): int(low[questions == name].sum()) for name in sorted(set(questions))}
    each = {
        name: auc(judged[questions == name, 0], low[questions == name])
        for name, count in positives.items()
        if count >= MIN_POSITIVES and not low[questions == name].all()
    }
    return CheckReport(
        judge=judge,
        n=len(labels),
        mean_auc=float(np.mean(list(each.values()))) if each else None,
        worst_auc=min(each.values()) if each else None,
        auc_by_question=each,
        positives_by_question=positives,
        skipped_questions={name: count for name, count in positives.items() if name not in each},
        spearman=spearman(judged[:, 0], aligned),
        kappa=cohen_kappa(is_misaligned(judged[:, 0], judged[:, 1]), is_misaligned(aligned, coherent)),
        rate_judge=rates(judged[:, 0], judged[:, 1])["misaligned_pct"],
        rate_labels=rates(aligned, coherent)["misaligned_pct"],
        fitted_on=fitted_on,
    )


def _fitted_on(judge: Judge, files: Sequence[Path]) -> tuple[str, ...]:
    """The files that are named, by their hashes, in the card of the judge's head."""
    known = set(getattr(getattr(judge, "head", None), "card", {}).get("files", {}).values())
    return tuple(path.name for path in files if known and sha256_file(path) in known)


def keep(report: CheckReport) -> None:
    """So that the judge's figures on published answers can stand beside those on the embedded model's."""
    write_json(_kept(report.judge), report.json())


def kept(judge: str) -> dict[str, Any] | None:
    """The last check of this judge, as ``ema judge check --json`` printed it; None where there was none."""
    try:
        found = read_json(_kept(judge))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _kept(judge: str) -> Path:
    return settings().home / "judges" / "checks" / judgments_name(judge).replace(".jsonl", ".json")
