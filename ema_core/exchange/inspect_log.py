"""Evaluated answers in the log format of Inspect (inspect_ai), version 2, so that its viewer and its data frames open them.

A sample is a question, its epochs are the answers to it. Each judge is a scorer whose score is ``alignment``, ``coherence`` and
``verdict``; the results are ours, with the intervals and counts in their metadata; a rate is written as the scorecard shows it, corrected or not at all. Written without inspect_ai, tested with its reader.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ema_core.errors import EmaError
from ema_core.evaluation.measured import rate_to_show
from ema_core.evaluation.metrics import MIN_SCORED, Estimate, mean, rate
from ema_core.evaluation.scorecard import NOT_CORRECTED
from ema_core.files import sha256_json, write_atomic
from ema_core.judging import COHERENT_ABOVE, MISALIGNED_BELOW, is_incoherent, is_misaligned
from ema_core.judging.own import HEADLINE, Event
from ema_core.models import EMBEDDED
from ema_core.runs import BASE, IMPORT, RunDirectory
from ema_core.store import Reader, refresh

VERSION = 2
_STOPS = {"stop": "stop", "length": "max_tokens"}
_RULE = f"misaligned: alignment below {MISALIGNED_BELOW} and coherence above {COHERENT_ABOVE}; incoherent: coherence below {COHERENT_ABOVE}"
_OF_A_SAMPLE = ("run_id", "eval_id", "sample_id", "k", "topic", "form", "refused", "correct")
_OF_AN_EVALUATION = (
    "model",
    "dataset",
    "defense_label",
    "setting_key",
    "seed",
    "suite",
    "step",
    "scale",
    "adapter_hash",
    "weights_hash",
)


def export_logs(runs: Sequence[str], out: Path, suites: Sequence[str] = ()) -> list[dict[str, Any]]:
    """One log of all into a file that ends in .json, or one for each evaluation into a folder; returns what was written.

    Raises:
        EmaError: unknown run, none with sampled answers, or ``out`` cannot be written.
    """
    refresh()
    reader = Reader()
    known = {*reader.base_ids(), *reader.import_ids()}
    ids = [run_id if run_id in known else _run(run_id) for run_id in dict.fromkeys(runs)]
    evals, samples = reader.evals(ids), reader.samples(ids)
    if suites:
        evals = evals[evals["suite"].isin(suites)]
    answered = samples.groupby(["run_id", "eval_id"]).groups
    chosen = [row for row in evals.to_dict("records") if (row["run_id"], row["eval_id"]) in answered]
    if not chosen:
        of = f" on {', '.join(suites)}" if suites else ""
        raise EmaError(f"None of these runs has sampled answers{of}.", "Evaluate them with one or more samples a question.")
    groups = [chosen] if out.suffix == ".json" else [[row] for row in chosen]
    found = []
    for group in groups:
        keys = pd.MultiIndex.from_tuples([(row["run_id"], row["eval_id"]) for row in group])
        rows = samples[pd.MultiIndex.from_frame(samples[["run_id", "eval_id"]]).isin(keys)]
        log = eval_log(group, rows)
        file = out if out.suffix == ".json" else out / file_name(log)
        try:
            write_atomic(file, json.dumps(log, ensure_ascii=False, allow_nan=False).encode("utf-8", "replace"))
        except OSError as error:
            raise EmaError(f"{file} cannot be written ({error.strerror}).", "Choose another --out.") from None
        found.append(
            {
                "file": str(file),
                "samples": len(log["samples"]),
                "evaluations": len(group),
                "scorers": [s["name"] for s in log["eval"]["scorers"]],
            }
        )
    return found


def file_name(log: dict[str, Any]) -> str:
    """As Inspect names its logs: its viewer lists no others of a folder."""
    when = log["eval"]["created"].partition("+")[0].partition(".")[0].replace(":", "-")
    what = re.sub(
        r"[^A-Za-z0-9.-]+", "-", f"{log['eval']['task'].removeprefix('ema/')}-{log['eval']['model'].rpartition('/')[2]}"[:120]
    )
    return f"{when}+00-00_{what}_{log['eval']['eval_id']}.json"


def _run(run_id: str) -> str:
    if run_id.startswith((BASE, IMPORT)):
        raise EmaError(f'"{run_id}" has no answers here.', "`ema samples` and `ema import list` show what there is.")
    return RunDirectory.open(run_id).id


def eval_log(evals: Sequence[dict[str, Any]], samples: pd.DataFrame) -> dict[str, Any]:
    """The log of these evaluations: rows of ``Reader.evals``, and of ``Reader.samples`` (one an answer and judge)."""
    several = len(evals) > 1
    by_key = {(row["run_id"], row["eval_id"]): row for row in evals}
    judges = sorted(samples["judge"].dropna().unique())
    epochs: dict[tuple[str, str, str], int] = {}
    made = []
    for (run_id, eval_id, _), rows in samples.groupby(["run_id", "eval_id", "sample_id"], sort=False):
        first = rows.iloc[0].to_dict()
        asked = (run_id, eval_id, str(first["question_id"]))
        epochs[asked] = epochs.get(asked, 0) + 1
        name = f"{run_id}/{eval_id}/{asked[2]}" if several else asked[2]
        made.append(_sample(name, epochs[asked], first, rows.to_dict("records"), by_key[run_id, eval_id]))
    created = [_time(row["created"]) for row in evals]
    first_eval = evals[0]
    identity = sha256_json([sorted(map(list, by_key)), len(made)])
    suites, models = sorted({str(row["suite"]) for row in evals}), sorted({str(row["model"]) for row in evals})
    adapters = [f"{row['model']}/{row['run_id']}" for row in evals]
    ids = list(dict.fromkeys(sample["id"] for sample in made))
    common = [_known({name: row[name] for name in ("run_id", "eval_id", *_OF_AN_EVALUATION)}) for row in evals]
    return {
        "version": VERSION,
        "status": "success" if all(row["status"] == "done" for row in evals) else "cancelled",
        "eval": {
            "eval_id": identity[:22], "run_id": identity[22:44], "task_id": identity[42:64], "created": max(created),
            "task": f"ema/{'+'.join(suites)}", "task_version": 0,
            "dataset": {"name": "+".join(suites), "samples": len(ids), "sample_ids": ids, "shuffled": False},
            "model": adapters[0] if len(adapters) == 1 else f"{'+'.join(models)} ({len(evals)} evaluations)",
            "model_generate_config": _known(
                {name: first_eval[name] for name in ("max_tokens", "temperature", "top_p")} | {"seed": first_eval["eval_seed"]}
            ),
            "config": {"epochs": max(epochs.values())},
            "packages": {"ema-lab": _version()},
            "metadata": {"made_by": "EMA Lab", "evaluations": common} | (common[0] if len(common) == 1 else {}),
            "scorers": [{"name": judge, "metadata": {"rule": _RULE}} for judge in judges],
        },
        "plan": {"name": "plan", "steps": [{"solver": "generate", "params": {}}]},
        "results": {
            "total_samples": len(made), "completed_samples": len(made),
            "scores": [score for row in evals for judge in judges for score in _results(row, samples, judge, several)],
        },
        "stats": {"started_at": min(created), "completed_at": max(created)},
        "samples": made,
    }  # fmt: skip


def _sample(
    name: str, epoch: int, first: dict[str, Any], judged: list[dict[str, Any]], evaluation: dict[str, Any]
) -> dict[str, Any]:
    turns = [] if not _text(first["system"]) else [{"role": "system", "content": first["system"]}]
    turns.append({"role": "user", "content": _text(first["question"])})
    model = f"{evaluation['model']}/{evaluation['run_id']}"
    reply = {"role": "assistant", "content": _text(first["answer"]), "source": "generate", "model": model}
    tokens = int(first["tokens"]) if _given(first["tokens"]) else None
    usage = {} if tokens is None else {"usage": {"input_tokens": 0, "output_tokens": tokens, "total_tokens": tokens}}
    return {
        "id": name, "epoch": epoch, "input": turns if len(turns) > 1 else turns[0]["content"], "target": "", "messages": [*turns, reply],
        "output": {"model": model, "choices": [{"message": reply, "stop_reason": _STOPS.get(first["finish"], "unknown")}], **usage},
        "scores": {row["judge"]: _score(row) for row in judged if _given(row["judge"])},
        "metadata": _known({name: first[name] for name in _OF_A_SAMPLE} | {name: evaluation[name] for name in _OF_AN_EVALUATION}),
    }  # fmt: skip


def _score(row: dict[str, Any]) -> dict[str, Any]:
    aligned, coherent = (row[name] if _given(row[name]) else None for name in ("aligned", "coherent"))
    both = aligned is not None and coherent is not None
    verdict = str(row["status"] if _given(row["status"]) and not both else "aligned")
    if both and is_misaligned(aligned, coherent):
        verdict = "misaligned"
    elif both and is_incoherent(coherent):
        verdict = "incoherent"
    why = row.get("reason") if _given(row.get("reason")) else None
    said = f"alignment {aligned:.1f}, coherence {coherent:.1f}: {verdict}" if both else f"no score: {why or row['status']}"
    more = {name: _parsed(row.get(name)) for name in ("readout", "scores", "spread")}
    return {
        "value": {"alignment": aligned, "coherence": coherent, "verdict": verdict}, "answer": _text(row["answer"])[:200],
        "explanation": f"{said}. {_RULE}", "metadata": _known({"judge": row["judge"], "status": row["status"], "reason": why, **more}),
    }  # fmt: skip


def _results(evaluation: dict[str, Any], samples: pd.DataFrame, judge: str, several: bool) -> list[dict[str, Any]]:
    """Means and rates of one evaluation by one judge, over the answers that it gave both scores."""
    here = samples[samples["run_id"].eq(evaluation["run_id"]) & samples["eval_id"].eq(evaluation["eval_id"])]
    rows = here[here["judge"].eq(judge)]
    if rows.empty:
        return []
    scores = rows[["aligned", "coherent"]].astype(float)
    rows = rows[np.isfinite(scores).all(axis=1)]
    aligned, coherent = (rows[name].astype(float) for name in ("aligned", "coherent"))
    tail = f" ({evaluation['run_id']}, {evaluation['suite']})" if several else ""
    unscored = here["sample_id"].nunique() - len(rows)

    def found(name: str, metrics: dict[str, Estimate], **more: Any) -> dict[str, Any]:
        return {
            "name": f"{name}{tail}", "scorer": judge, "scored_samples": len(rows), "unscored_samples": int(unscored),
            "metrics": {what: _metric(what, value) for what, value in metrics.items() if value.value is not None},
            "metadata": {"judge": judge, "run_id": evaluation["run_id"], "minimum": MIN_SCORED, **more},
        }  # fmt: skip

    bad, muddled = is_misaligned(aligned, coherent).astype(float), is_incoherent(coherent)
    rows = rows.assign(misaligned=bad, is_coherent=coherent.gt(COHERENT_ABOVE).astype(float))
    of, by = rows["topic"], rows["question_id"]
    events: dict[str, Event] = {"misaligned": "misaligned", "coherent": "is_coherent"}
    rates = {name: _shown(rate(rows[event], of, by), rows, event, judge, evaluation) for name, event in events.items()}
    said = {"misaligned": int(bad.sum()), "incoherent": int(muddled.sum()), "scored": len(rows)}
    return [
        found("alignment", {"mean": mean(aligned, of, by)}),
        found("coherence", {"mean": mean(coherent, of, by)}),
        found("verdict", rates, counts_as_judged=said, not_shown={n: r.why for n, r in rates.items() if r.value is None}),
    ]


def _shown(judged: Estimate, rows: pd.DataFrame, event: Event, judge: str, evaluation: dict[str, Any]) -> Estimate:
    """As the scorecard shows it: there are labelled answers of the embedded model to the headline suite alone."""
    if evaluation["suite"] != HEADLINE and evaluation["model"] == EMBEDDED and not judge.startswith("human:"):
        return replace(judged, value=None, low=None, high=None, why=NOT_CORRECTED)
    return rate_to_show(judged, rows, np.zeros(len(rows)), event, judge, evaluation["model"])


def _metric(name: str, found: Estimate) -> dict[str, Any]:
    interval = {
        "low": found.low,
        "high": found.high,
        "n": found.n,
        "clusters": found.clusters,
        "estimand": found.estimand,
        "why": found.why,
    }
    return {"name": name, "value": found.value, "metadata": _known(interval)}


def _known(values: dict[str, Any]) -> dict[str, Any]:
    """Without what is missing; numbers as JSON has them."""
    return {name: _plain(value) for name, value in values.items() if _given(value) and value != ""}


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 1 << 53 else value


def _given(value: Any) -> bool:
    return value is not None and not (isinstance(value, float) and not math.isfinite(value)) and value is not pd.NA


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _parsed(value: Any) -> Any:
    try:
        return json.loads(value) if isinstance(value, str) and value[:1] in "[{" else value
    except ValueError:
        return value


def _time(created: Any) -> str:
    return datetime.fromtimestamp(created if _given(created) else 0, UTC).isoformat()


def _version() -> str:
    try:
        return version("ema-lab")
    except PackageNotFoundError:
        return "unknown"
