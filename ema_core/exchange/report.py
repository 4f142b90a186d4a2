"""A report: one HTML file of chosen runs, with scorecard, figures, sample answers and specs, that loads nothing from anywhere.

Everything that comes from models, data or users is escaped by the template; the page's policy lets only its own two scripts run, by
their hashes. Needs no model and no torch.
"""

from __future__ import annotations

import base64
import hashlib
import json
import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pandas as pd

from ema_core.defenses.registry import all_defenses
from ema_core.errors import EmaError
from ema_core.evaluation.alternatives import undefended_curve
from ema_core.evaluation.labels import in_order, one_line
from ema_core.evaluation.measured import LIKE_THESE, Frames, with_twins
from ema_core.evaluation.recommend import KEEP, alone, recommend
from ema_core.evaluation.scorecard import NO_SIBLING, setting_table
from ema_core.evaluation.seeds import seed_table
from ema_core.evaluation.summary import summary
from ema_core.exchange.report_parts import QUOTES, all_numbers, here, meanings, numbers, quotes, rate_cell
from ema_core.figures import (
    CRITERIA,
    DOMINATED,
    MARGINS,
    MARKS,
    Criterion,
    curves_data,
    differences,
    differences_data,
    heatmap,
    heatmap_data,
    height,
    strength_curve,
    strength_data,
    trade_off,
    trade_off_data,
    training_curves,
)
from ema_core.files import write_atomic
from ema_core.judging import own
from ema_core.models import EMBEDDED
from ema_core.runs import IMPORT, RunDirectory
from ema_core.store import Reader

TWIN = ["model", "dataset", "recipe_label"]
_SHORT = "no sibling run trained on the benign task"
_KINDS = {"better": "better", "worse": "worse"}


def write_report(
    run_ids: Sequence[str], out: Path, judge: str, *, keep: float = KEEP, reader: Reader | None = None
) -> dict[str, Any]:
    """``report`` as a file; says what is in it.

    Raises:
        EmaError: none of the runs is done, or the file cannot be written.
    """
    text = report(run_ids, judge, keep=keep, reader=reader)
    try:
        write_atomic(out, text)
    except OSError as error:
        raise EmaError(f"The report cannot be written: {error}", "Name another file with --out.") from error
    return {"out": str(out), "bytes": len(text.encode()), "runs": list(run_ids), "judge": judge}


def report(run_ids: Sequence[str], judge: str, *, keep: float = KEEP, reader: Reader | None = None, title: str = "") -> str:
    """The HTML of these runs, their undefended twins and their siblings on the benign task; scores of one judge.

    Raises:
        EmaError: none of the runs is done.
    """
    import jinja2
    from markupsafe import Markup

    reader = reader or Reader()
    every = reader.runs()
    chosen = every[every["run_id"].isin(list(run_ids))]
    done = with_twins(chosen[chosen["status"].eq("done")], every[every["status"].eq("done")])
    if done.empty:
        raise EmaError("None of these runs is done, so there is nothing to report.", "`ema runs` shows how far they are.")
    frames = reader.frames(list(done["run_id"]), with_siblings=True)
    finished = set(frames["runs"].loc[frames["runs"]["status"].eq("done"), "run_id"])
    frames = {name: frame[frame["run_id"].isin(finished)] for name, frame in frames.items()}
    settings = in_order(setting_table(frames, judge))
    labels, seeds = one_line(settings), seed_table(frames, judge)
    figures = _figures(settings, seeds, frames, reader, list(done["run_id"]))
    drawn = [{"data": one["figure"].data, "layout": one["figure"].layout} for one in figures]
    script = Path(__file__).with_name("report_script.js").read_text(encoding="utf-8")
    plotly = _plotly()
    number_names, number_rows = numbers(settings, labels)
    contents = [
        ("summary", "In short"), ("scorecard", "Scorecard"), ("words", "What the words mean"), ("figures", "Figures"), ("numbers", "The numbers"), ("answers", "Sample answers"),
        ("left-out", "What was left out"), ("runs", "Runs and their specs"), ("again", "How to make it again"),
    ]  # fmt: skip
    world = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    template = world.from_string(Path(__file__).with_name("report_template.html").read_text(encoding="utf-8"))
    return template.render(
        title=title or f"Compared: {', '.join(dict.fromkeys(settings['dataset']))}", made=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        version=_version(), policy=_policy(plotly, script), style=Markup(_style()), judge=judge, estimand=LIKE_THESE,
        honest=_honest(settings, judge), contents=contents, settings=labels, criteria=list(CRITERIA.items()),
        scorecard=[_score_row(row, labels) for row in settings.to_dict("records")],
        summary=summary(settings, labels, judge), meanings=meanings(), all_numbers=all_numbers(settings),
        recommendations=_recommendations(settings, frames, keep), figures=figures, number_names=number_names, numbers=number_rows,
        quotes=quotes(settings, labels, frames, judge, reader),
        quotes_each=QUOTES, left_out=_left_out(settings, labels, chosen, frames, judge, len(run_ids), len(figures)), runs=_runs(frames),
        commands=_commands(frames, list(run_ids), judge), figures_json=Markup(_inert(drawn)), plotly=Markup(plotly), script=Markup(script),
    )  # fmt: skip


def _version() -> str:
    try:
        return version("ema-lab")
    except PackageNotFoundError:  # run from a folder
        return "(not installed)"


def _plotly() -> str:
    """Plotly's own script, as the package brings it; nothing in it may end the element that it stands in."""
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs()).replace("</script", "<\\/script")


def _policy(*scripts: str) -> str:
    """Only these scripts, by hash; styles and pictures of the page itself; nothing from anywhere."""
    hashes = " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" for script in scripts)
    return f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'; form-action 'none'"


def _inert(value: Any) -> str:
    """JSON that no browser reads as markup, whatever it holds."""
    from plotly.utils import PlotlyJSONEncoder

    text = json.dumps(json.loads(json.dumps(value, cls=PlotlyJSONEncoder)), ensure_ascii=False, allow_nan=False)
    return (
        text.replace("<", "\\u003c")
        .replace(">", "\\u003e")
        .replace("&", "\\u0026")
        .replace("\u2028", "\\u2028")
        .replace("\u2029", "\\u2029")
    )


def _style() -> str:
    return Path(__file__).with_name("report_style.css").read_text(encoding="utf-8")


def _honest(settings: pd.DataFrame, judge: str) -> str:
    if not settings["model"].eq(EMBEDDED).any():
        return ""
    return (
        "The embedded model shows the mechanism and the price of a defense, not the numbers of a 7B model. The margin leads: no sampling and no "
        f"judge stand between it and the model. {own.short(judge)}"
    )


def _signed(one: Criterion, value: float) -> str:
    return one.told(value) if one.value.endswith("_margin") else f"{value:+.1f}".replace("-", "−")


def _score_row(row: dict[str, Any], labels: dict[str, str]) -> dict[str, Any]:
    seeds = f"{row['seeds']} seed{'' if row['seeds'] == 1 else 's'}" + ("; undefended twin" if row["undefended"] else "")
    flag = row["conditional_why"] if row.get("conditional") == "flagged" else ""
    return {
        "label": labels[row["setting_key"]],
        "seeds": seeds,
        "flag": flag,
        "cells": [_score_cell(row, one) for one in MARGINS.values()],
    }


def _score_cell(row: dict[str, Any], one: Criterion) -> dict[str, str]:
    own_value, rate = "", rate_cell(row, one.key) if one.key in ("general", "coherence") and row["scored"] else ""
    if here(row[one.value]):
        times = f" × {row['seeds']} seeds" if one.value.endswith("_margin") and row["seeds"] > 1 else ""
        low, high = row[f"{one.value}_low"], row[f"{one.value}_high"]
        span = f" [{one.told(low)}, {one.told(high)}]" if row["undefended"] and here(low) and here(high) else ""
        own_value = f"own {one.told(row[one.value])}{span}, n = {row[one.count]:.0f} {one.counted}{times}"
    if row["undefended"]:
        return {
            "mark": "reference",
            "kind": "even",
            "difference": "",
            "own": own_value or (_SHORT if row[f"{one.value}_why"] == NO_SIBLING else str(row[f"{one.value}_why"])),
            "rate": rate,
        }
    if not here(row[one.difference]):
        why = row[f"{one.difference}_why"] or row[f"{one.value}_why"]
        why = _SHORT if why == NO_SIBLING else why
        return {"mark": f"no mark: {why}", "kind": "even", "difference": "", "own": own_value, "rate": rate}
    low, high = row[f"{one.difference}_low"], row[f"{one.difference}_high"]
    span = f" [{_signed(one, low)}, {_signed(one, high)}]" if here(low) and here(high) else " (no interval)"
    mark = MARKS[row[one.mark]][0] if row[one.mark] in MARKS else "no mark"
    return {
        "mark": mark,
        "kind": _KINDS.get(row[one.mark], "even"),
        "difference": _signed(one, row[one.difference]) + span,
        "own": own_value,
        "rate": rate,
    }


def _figures(settings: pd.DataFrame, seeds: pd.DataFrame, frames: Frames, reader: Reader, ids: list[str]) -> list[dict[str, Any]]:
    """What Compare draws, of each model, data set and recipe."""
    found: list[dict[str, Any]] = []

    def add(figure: Any, data: pd.DataFrame, title: str, pixels: int = 460) -> None:
        if figure.data:
            figure.update_layout(height=pixels)
            names = [name for name in data if name not in ("setting_key", "criterion", "unit", "told") and data[name].notna().any()]
            rows = [
                ["" if not here(value) else f"{value:.4g}" if isinstance(value, float) else str(value) for value in row]
                for row in data[names].itertuples(index=False, name=None)
            ]
            found.append({"figure": figure, "title": title, "names": names, "rows": rows})

    known = all_defenses()
    for group, rows in settings.groupby(TWIN, sort=False):
        where = ", ".join(str(part) for part in group)
        curve = undefended_curve(frames, str(rows["setting_key"].iloc[0]))
        add(trade_off(rows, curve), trade_off_data(rows, curve), f"Trade-off, {where}. Dim: {DOMINATED}.", 520)
        single = rows[rows["defense_label"].ne("none") & ~rows["defense_label"].str.contains(" + ", regex=False)]
        many = single["defense_label"].str.partition("=")[0].value_counts()
        for name in [name for name, count in many.items() if count > 1]:
            line = rows[
                rows["undefended"].astype(bool)
                | rows["setting_key"].isin(single.loc[single["defense_label"].str.partition("=")[0].eq(name), "setting_key"])
            ]
            info = known[name].strength_info if name in known else None
            paper = {name: info.paper} if info and info.paper is not None else None
            each = seeds[seeds["setting_key"].isin(line["setting_key"])]
            for key, meaning in CRITERIA.items():
                title = f"{meaning.partition(' (')[0]} by strength of {name}, {where}"
                add(strength_curve(line, key, paper, seeds=each), strength_data(line, key, seeds=each), title)
        for key, meaning in CRITERIA.items():
            data = differences_data(rows, key, seeds)
            title = f"{meaning.partition(' (')[0]}: difference to the undefended twin, {where}"
            add(differences(rows, key, seeds), data, title, height(int(data["what"].eq("setting").sum()) if len(data) else 1))
    for (model, recipe), rows in settings.groupby(["model", "recipe_label"], sort=False):
        if rows["dataset"].nunique() > 1:
            data = heatmap_data(rows, "general")
            title = f"General misalignment: difference to the twin by defense and data set, {model}, {recipe}"
            add(heatmap(rows, "general"), data, title, 190 + 40 * max(1, data["defense_label"].nunique() if len(data) else 1))
    steps = reader.steps(ids)
    add(
        training_curves(steps, quantity="ce", raw=False),
        curves_data(steps, quantity="ce"),
        f"Training curves: cross-entropy, {len(ids)} runs",
    )
    return found


def _recommendations(settings: pd.DataFrame, frames: Frames, keep: float) -> list[str]:
    """Which strength of each defense to take, in words."""
    found = []
    for group, rows in settings.groupby(TWIN, sort=False):
        single: list[str] = []
        for label in sorted({alone(text) for text in rows["defense_label"]} - {""}):
            own_rows = rows[rows["defense_label"].map(alone).eq(label)]
            if len(own_rows) < 2:
                single.append(label)
                continue
            told = recommend(frames, label, list(rows["setting_key"]), keep)
            where = ", ".join(str(part) for part in group)
            found.append(f"{label}, keeping {keep:.0%} ({where}): {told.words}{''.join(f' Note: {note}.' for note in told.notes)}")
        if single:
            found.append(f"No strength is recommended of {', '.join(single)}: only one was tried.")
    return found


def _left_out(
    settings: pd.DataFrame, labels: dict[str, str], chosen: pd.DataFrame, frames: Frames, judge: str, asked: int, figures: int
) -> list[str]:
    """What a reader might miss, and why it is not there."""
    told = []
    if undone := int(chosen["status"].ne("done").sum()):
        told.append(f"{undone} of the chosen runs are not done and count nowhere.")
    if foreign := asked - len(chosen):
        told.append(f"{foreign} of the chosen runs are imported answers or are gone: they belong to no setting.")
    for name, title in (
        ("general_margin", "general margin"),
        ("narrow_margin", "narrow margin"),
        ("general_rate", "rate of misaligned answers"),
        ("narrow_rate", "rate in the domain"),
        ("benign_margin", "benign task"),
        ("coherence_mean", "coherence"),
    ):
        whys: dict[str, list[str]] = {}
        for row in settings.to_dict("records"):
            if isinstance(why := row.get(f"{name}_why"), str) and why:
                whys.setdefault(why, []).append(labels[row["setting_key"]])
        told += [f"{title}, {', '.join(who) if len(who) < len(settings) else 'all settings'}: {why}." for why, who in whys.items()]
    others = sorted(set(frames["samples"]["judge"].dropna()) - {judge})
    if others:
        told.append(f"Scores of other judges: {', '.join(others)}. Two judges' scores never share a table.")
    if (few := int(settings["seeds"].lt(3).sum())) > 0:
        told.append(
            f"{few} of {len(settings)} settings have fewer than three seeds: no mark is drawn from them, their numbers speak of these adapters."
        )
    told.append(
        "Differences question by question, the distribution of answers and training curves other than the cross-entropy: in the app."
    )
    told.append("Adapters, checkpoints and most answers: `ema export run` packs them.")
    return told


def _runs(frames: Frames) -> list[dict[str, str]]:
    found = []
    for row in frames["runs"].to_dict("records"):
        if str(row["run_id"]).startswith(IMPORT):
            continue
        try:
            run = RunDirectory.open(row["run_id"])
            spec, known = run.spec.to_json(), run.state().found
        except EmaError as error:
            spec, known = f"not readable: {error.message}", {}
        versions = ", ".join(f"{name} {number}" for name, number in (known.get("versions") or {}).items())
        hashes = ", ".join(
            f"{name} {known[name]}"
            for name in ("weights_hash", "adapter_hash", "data_sha256", "device", "dtype", "threads")
            if known.get(name)
        )
        about = f"{row['defense_label']}, seed {row['seed']}, {row['dataset']}, {row['model']}"
        found.append(
            {
                "id": str(row["run_id"]),
                "about": about,
                "spec": spec,
                "versions": "; ".join(filter(None, (versions, hashes))) or "versions not recorded",
            }
        )
    return found


def _commands(frames: Frames, asked: list[str], judge: str) -> str:
    """The commands that train these runs, evaluate them as they were, and write this report."""
    lines = ["# train"]
    evals = frames["evals"]
    for run_id in frames["runs"]["run_id"]:
        try:
            lines.append(f"{RunDirectory.open(run_id).spec.command()}  # {run_id}")
        except EmaError:
            lines.append(f"# {run_id}: its spec cannot be read")
    lines.append("\n# evaluate (with the ids that training gives)")
    final = evals[evals["step"].isna() & evals["scale"].eq(1) & evals["suite"].ne("kept")]
    for (suite, samples), rows in final.groupby(["suite", "samples"], sort=True):
        lines.append(
            f"ema eval RUN --suite {suite} --samples {samples:.0f}  # {rows['run_id'].nunique()} runs, up to {rows['max_tokens'].max():.0f} tokens"
        )
    if (evals["step"].notna() | evals["scale"].ne(1)).any():
        lines.append("ema eval UNDEFENDED-RUN --curve  # stopped earlier, scaled down")
    lines.append(f"\n# report\nema report {' '.join(asked)} --judge {judge} --out report.html")
    return "\n".join(lines)
