"""One run directory as rows of the index. Reads files; knows nothing of DuckDB."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ema_core.errors import EmaError
from ema_core.evaluation.measured import RECORDED
from ema_core.files import read_json, read_lines, sha256_json
from ema_core.runs import BASE, Recipe, RunDirectory, Status, probes, read_label, steps

TABLES = ("runs", "steps", "penalties", "probes", "evals", "samples", "judgments", "margins", "imports")
_RUN_FILES = ("spec.json", "state.json", "events.jsonl", "model.json", "label.json")
Row = dict[str, Any]
NOT_STATED = "not stated"
"""The defense of an adapter or a table from elsewhere, where nobody said it."""


@dataclass
class RunRows:
    """What a run puts into each table, and what could not be read."""

    tables: dict[str, list[Row]] = field(default_factory=lambda: {table: [] for table in TABLES})
    warnings: list[str] = field(default_factory=list)
    answers: str = ""


def signature(run: RunDirectory) -> str:
    """Changes whenever the run's rows could: names, sizes and times of its files, and whether a running one is alive."""
    files = [entry for entry in entries(run.path) if entry.name in _RUN_FILES]
    for folder in entries(run.evals):
        files += entries(folder.path)
    seen = stamps(files, run.path)
    try:
        running = b'"running"' in (run.path / "state.json").read_bytes()
    except OSError:
        running = False
    return sha256_json([seen, run.locked() if running else None])


def answers_signature(run: RunDirectory) -> str:
    """Changes with the files of answers and scores alone, so not while the run trains on."""
    return sha256_json(stamps([entry for folder in entries(run.evals) for entry in entries(folder.path)], run.path))


def stamps(files: Iterable[os.DirEntry[str]], folder: Path) -> list[tuple[str, int, int, int]]:
    """Name, identity, size and time of each file."""
    seen = []
    for entry in files:
        try:
            stat = os.stat(entry.path)
        except OSError:
            continue
        seen.append((entry.path[len(str(folder)) :], stat.st_ino, stat.st_size, stat.st_mtime_ns))
    return seen


def entries(path: str | Path) -> list[os.DirEntry[str]]:
    """What lies in a folder, by name; nothing where there is none."""
    try:
        with os.scandir(path) as entries:
            return sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)
    except OSError:
        return []


def read_run(run: RunDirectory) -> RunRows:
    """All rows of a run. A run that cannot be understood gives no rows and a warning; a damaged eval only loses itself."""
    rows = RunRows(answers=answers_signature(run))
    try:
        if run.id.startswith(BASE):
            rows.tables["runs"].append(_base_row(run))
        else:
            rows.tables["runs"].append(_run_row(run))
            rows.tables["steps"], rows.tables["penalties"], rows.tables["probes"] = _curve_rows(run)
    except (EmaError, OSError, ValueError) as error:
        return RunRows(warnings=[f"{run.id} was left out: {error}"])
    for folder in (Path(entry.path) for entry in entries(run.evals) if entry.is_dir()):
        try:
            _read_eval(run.id, folder, rows)
        except (OSError, ValueError) as error:
            rows.warnings.append(f"{run.id}: the evaluation {folder.name} was left out: {error}")
    return rows


def _curve_rows(run: RunDirectory) -> tuple[list[Row], list[Row], list[Row]]:
    """The rows of ``steps``, of ``penalties`` and of ``probes``."""
    run_id = run.id
    events = [event for event in lines(run.events_path) if _of_a_step(event)]
    found = steps(events)
    penalties: list[Row] = []
    for event in found:
        event["run_id"] = run_id
        terms = event.get("penalties")
        for name, value in terms.items() if isinstance(terms, dict) else ():
            if isinstance(value, dict):
                value.update(run_id=run_id, step=event["step"], defense=name)
                penalties.append(value)
    looks = [{**event, "run_id": run_id} for event in probes(events)]
    return found, penalties, looks


def lines(path: Path) -> list[Row]:
    """``files.read_lines`` in half the time: one call of the JSON parser for a file without a torn line."""
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return []
    whole = raw[: raw.rfind(b"\n") + 1].splitlines()
    try:
        values = json.loads(b"[" + b",".join(whole) + b"]")
        if len(values) == len(whole) and all(type(value) is dict for value in values):
            return values
    except ValueError:
        pass
    return read_lines(path)[0]


def _of_a_step(event: Row) -> bool:
    if event.get("kind") not in ("step", "probe") or type(event.get("step")) is not int:
        return False
    if type(event.get("attempt")) is not int:
        event["attempt"] = 0
    return True


def _run_row(run: RunDirectory) -> Row:
    spec, state, label = run.spec, run.state(), read_label(run)
    recipe, found = spec.recipe, state.found
    error = f"{state.error} {state.hint}".strip() if state.status is Status.FAILED else state.error
    row = {
        "run_id": run.id,
        "kind": "run",
        "recorded": "",
        "setting_key": spec.setting.key,
        "model": spec.model,
        "dataset": spec.dataset,
        "safe_pool": spec.safe_pool,
        "defense_label": spec.defense_label,
        "defenses": json.dumps([defense.model_dump(mode="json") for defense in spec.defenses], sort_keys=True, ensure_ascii=False),
        "preset": recipe.preset,
        "steps": recipe.steps,
        "batch_size": recipe.batch_size,
        "learning_rate": recipe.learning_rate,
        "rank": recipe.rank,
        "recipe": json.dumps(recipe.model_dump(mode="json"), sort_keys=True),
        "recipe_label": recipe_label(recipe),
        "seed": spec.seed,
        "status": str(state.status),
        "step": state.step,
        "total_steps": state.total_steps or recipe.steps,
        "created": state.created,
        "seconds": state.seconds,
        "name": label.name,
        "tags": json.dumps(label.tags, ensure_ascii=False),
        "note": label.note,
        "owner": state.owner,
        "attempt": state.attempt,
        "error": error,
        "adapter_hash": found.get("adapter_hash"),
        "weights_hash": found.get("weights_hash"),
        "device": found.get("device") or spec.device,
    }
    row = row | _unknown_training(row) if "imported" in found else row
    return row | _apart(row, state.recorded) if state.recorded else row


def _apart(row: Row, study: str) -> Row:
    """A recorded run is never taken for a seed, a twin or a sibling of a run that was made here."""
    return {
        "recorded": study, "setting_key": f"{row['setting_key']}-recorded-{study}", "recipe_label": f"{row['recipe_label']}{RECORDED}{study}",
        "recipe": json.dumps({**json.loads(row["recipe"]), "recorded": study}, sort_keys=True),
    }  # fmt: skip


def _unknown_training(row: Row) -> Row:
    """Of an adapter from elsewhere: the spec's recipe and its lack of a defense are none of its facts, so it is nobody's twin, and two
    adapters are never seeds of one setting."""
    which = sha256_json([row["model"], row["adapter_hash"]])[:16]
    return {
        "setting_key": f"adapter:{which}", "defense_label": NOT_STATED, "recipe_label": "imported adapter",
        "recipe": json.dumps({"adapter": row["adapter_hash"]}), "preset": "imported", "steps": None, "batch_size": None, "learning_rate": None,
    }  # fmt: skip


def _base_row(run: RunDirectory) -> Row:
    """A model without an adapter, as ``runs.base_directory`` made its folder."""
    try:
        known = read_json(run.path / "model.json")
    except FileNotFoundError:
        raise ValueError("it has no model.json, so nobody can say which model answered") from None
    if not isinstance(known, dict) or not isinstance(known.get("model"), str):
        raise ValueError("its model.json does not name a model")
    recorded = str(known.get("recorded") or "")
    return {
        "run_id": run.id,
        "kind": "base",
        "recorded": recorded,
        "setting_key": f"base:{known['model']}" + (f"-recorded-{recorded}" if recorded else ""),
        "model": known["model"],
        "defense_label": "base",
        "defenses": "[]",
        "status": str(Status.DONE),
        "created": known.get("created"),
        "weights_hash": known.get("weights_hash"),
    }


def recipe_label(recipe: Recipe) -> str:
    """``demo · 60 steps · batch 4 · lr 1e-04 · rank 32``: the recipe as a reader tells it from another."""
    length = f"{recipe.steps} steps" if recipe.steps else f"{recipe.epochs} epoch{'s' if recipe.epochs > 1 else ''}"
    return f"{recipe.preset} · {length} · batch {recipe.batch_size} · lr {recipe.learning_rate:g} · rank {recipe.rank}"


def _read_eval(run_id: str, folder: Path, rows: RunRows) -> None:
    names = [entry.name for entry in entries(folder)]
    if "spec.json" not in names:
        if any(name.endswith(".jsonl") for name in names):
            raise ValueError("it has no spec.json, so nobody can say what was asked")
        return  # being created
    spec = read_json(folder / "spec.json")
    if not isinstance(spec, dict):
        raise ValueError("its spec.json is no JSON object")
    key = {"run_id": run_id, "eval_id": folder.name}
    rows.tables["evals"].append({**spec, **key})
    rows.tables["samples"] += _once(lines(folder / "samples.jsonl"), ("sample_id",), key)
    rows.tables["margins"] += _once(lines(folder / "margins.jsonl"), ("pair_id",), key)
    rows.tables["judgments"] += judgment_rows(folder, ("sample_id", "judge"), key)


def judgment_rows(folder: Path, names: tuple[str, ...], key: Row) -> list[Row]:
    """What lies in the folder's ``judgments-<judge>.jsonl``, each once by ``names``."""
    files = [entry.name for entry in entries(folder) if entry.name.startswith("judgments-") and entry.name.endswith(".jsonl")]
    scores = (
        {"judge": name.removeprefix("judgments-").removesuffix(".jsonl"), **line} for name in files for line in lines(folder / name)
    )
    return _once(scores, names, key)


def _once(values: Iterable[Row], names: tuple[str, ...], key: Row) -> list[Row]:
    """Each value once by ``names``; what a resumed evaluation wrote again replaces its forerunner."""
    last: dict[tuple[Any, ...], Row] = {}
    for value in values:
        identity = tuple(value.get(name) for name in names)
        if all(isinstance(part, str) for part in identity):
            last[identity] = {**value, **key}
    return list(last.values())
