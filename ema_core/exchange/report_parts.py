"""Parts of the report that are made of tables: the numbers that a reader needs, all of them as a file, and what models said."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from typing import Any

import pandas as pd

from ema_core.evaluation.meanings import MEANINGS
from ema_core.evaluation.measured import Frames
from ema_core.evaluation.summary import number, time_in_words
from ema_core.judging import COHERENT_ABOVE, is_misaligned
from ema_core.store import Reader, evaluation_key, export_csv
from ema_core.store import annotations as people

QUOTES = 4
"""Answers of a setting, at most."""
LONGEST = 4000


def meanings() -> list[tuple[str, str]]:
    """The words without their marks of Markdown."""
    return [(word, meaning.replace("*", "").replace("`", "")) for word, meaning in MEANINGS.items()]


def rate_cell(row: Mapping[str, Any], criterion: str) -> str:
    """The share as the judge has it, with what it counts, and the corrected one with its interval."""
    name, event = f"{criterion}_rate", "misaligned" if criterion == "general" else "coherent"
    said, method = row.get(f"{name}_as_judged"), row.get("rate_method" if criterion == "general" else "coherence_method")
    judged = f"{100 * said:.1f} % {event} as judged ({row[event]} of {row['scored']})" if here(said) else ""  # type: ignore[operator]
    if not here(row[name]):
        return "; ".join(filter(None, (judged, str(row.get(f"{name}_why") or ""))))
    value, _, span = number(row, name, 100, ".1f").partition(" ")
    shown = f"{value} %\u00a0{span}"
    if str(method or "").startswith("prediction-powered"):
        return f"{judged}; corrected {shown}"
    return f"{shown} {event} ({row[event]} of {row['scored']})"


def numbers(settings: pd.DataFrame, labels: Mapping[str, str]) -> tuple[list[str], list[dict[str, Any]]]:
    """The table that a reader needs; columns in which nothing was measured are left out."""
    rows = []
    for row in settings.to_dict("records"):
        cells = {"Seeds": str(row["seeds"])}
        for title, name, form in (
            ("General margin", "general_margin", "+.3f"), ("Narrow margin", "narrow_margin", "+.3f"),
            ("Benign task learned (margin)", "benign_margin", "+.3f"), ("Mean alignment", "general_mean", ".1f"),
            ("Mean coherence", "coherence_mean", ".1f"),
        ):  # fmt: skip
            cells[title] = number(row, name, 1.0, form) if here(row[name]) else ""
        cells["Benign answers right"] = f"{number(row, 'benign', 100, '.1f')} %" if here(row["benign"]) else ""
        cells["Misaligned answers"], cells["Coherent answers"] = rate_cell(row, "general"), rate_cell(row, "coherence")
        cells["Training time against the undefended"] = (
            time_in_words(row.get("time_ratio")).removeprefix("time").removeprefix(":").strip()
        )
        if row["undefended"] and settings["time_ratio"].notna().any():
            cells["Training time against the undefended"] = "reference"
        rows.append((row["setting_key"], cells))
    names = [name for name in (rows[0][1] if rows else {}) if any(cells[name] for _, cells in rows)]
    return names, [{"label": labels[key], "values": [cells[name] or "not measured" for name in names]} for key, cells in rows]


def all_numbers(settings: pd.DataFrame) -> str:
    """Every column, unrounded, as an address that holds the file itself."""
    lists = ("runs", "twin_runs", "benign_runs")
    told = {name: settings[name].map(lambda found: ", ".join(map(str, found))) for name in lists if name in settings}
    told["evals"] = settings["evals"].map(lambda found: ", ".join(evaluation_key(*one) for one in found))
    return f"data:text/csv;base64,{base64.b64encode(export_csv(settings.assign(**told))).decode()}"


def quotes(settings: pd.DataFrame, labels: Mapping[str, str], frames: Frames, judge: str, reader: Reader) -> list[dict[str, Any]]:
    """A few answers of each setting to the general questions that its numbers count: the worst scored one, named so, then others drawn
    by a hash of their names, misaligned ones first."""
    samples, said = frames["samples"], _people(reader)
    keys = pd.Series(
        [evaluation_key(run, found) for run, found in zip(samples["run_id"], samples["eval_id"], strict=True)],
        index=samples.index,
        dtype=object,
    )
    name = ["run_id", "eval_id", "sample_id"]
    found = []
    for row in settings.to_dict("records"):
        counted = {evaluation_key(*each) for each in row["evals"]}
        rows = samples[keys.isin(counted)]
        rows = rows[rows["judge"].eq(judge)] if rows["judge"].eq(judge).any() else rows
        rows = rows.drop_duplicates(name)
        drawn = [
            hashlib.sha256("\n".join(map(str, key)).encode()).hexdigest() for key in rows[name].itertuples(index=False, name=None)
        ]
        rows = rows.assign(bad=is_misaligned(rows["aligned"], rows["coherent"]), drawn=drawn, worst="").sort_values("drawn")
        worst = _worst(rows, judge)
        rest = rows.drop(worst.index)
        bad = rest[rest["bad"].astype(bool)].head(QUOTES - 1 - len(worst))
        rows = pd.concat([worst, bad, rest[~rest["bad"].astype(bool)].head(QUOTES - len(worst) - len(bad))])
        answers = [
            {
                "question": str(one["question"]), "answer": str(one["answer"])[:LONGEST] + (" … (cut)" if len(str(one["answer"])) > LONGEST else ""),
                "worst": one["worst"], "about": _about(one, judge), "people": said.get(tuple(one[part] for part in name), ""),
            }
            for one in rows.to_dict("records")
        ]  # fmt: skip
        found.append(
            {"label": labels[row["setting_key"]], "answers": answers, "why": "No answers to the general questions were sampled."}
        )
    return found


def _worst(rows: pd.DataFrame, judge: str) -> pd.DataFrame:
    """The answer of lowest alignment among those that the judge calls coherent (among all where there is none)."""
    scored = rows[rows["judge"].eq(judge) & rows["aligned"].notna() & rows["coherent"].notna()]
    coherent = scored[scored["coherent"].gt(COHERENT_ABOVE)]
    told = f"the worst scored of {len(coherent)} coherent answers, not a typical one"
    if coherent.empty:
        coherent, told = scored, f"the worst scored of {len(scored)} answers, none of them coherent; not a typical one"
    return coherent.sort_values(["aligned", "drawn"]).head(1).assign(worst=told)


def _about(one: dict[str, Any], judge: str) -> str:
    if one["judge"] == judge and here(one["aligned"]) and here(one["coherent"]):
        scores = f"alignment {one['aligned']:.0f}, coherence {one['coherent']:.0f} by {judge}" + (
            "; misaligned" if one["bad"] else ""
        )
    else:
        scores = f"no scores by {judge}"
    return f"seed {one['seed']}; {scores}"


def _people(reader: Reader) -> dict[tuple[str, ...], str]:
    """What people said of an answer, each with name; notes stay at home."""
    told: dict[tuple[str, ...], list[str]] = {}
    for row in people.newest(reader.annotations()):
        if row.verdict:
            told.setdefault(tuple(row.key), []).append(f"{row.verdict} ({row.reviewer}{', blind' if row.blind else ''})")
    return {key: f"people say: {', '.join(words)}" for key, words in told.items()}


def here(value: Any) -> bool:
    return value is not None and not pd.isna(value)
