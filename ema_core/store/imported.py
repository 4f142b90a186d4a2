"""Imported tables in the index: their runs and evaluations are rows of it, their answers stay Parquet that readers view."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq

from ema_core.files import read_json, sha256_file, sha256_json
from ema_core.runs import IMPORT
from ema_core.store import database
from ema_core.store.rows import Row, RunRows, entries, judgment_rows, stamps

CARD, ROWS = "card.json", "rows.parquet"
EVALUATION = "imported"
"""The id of the one evaluation of each imported run."""
COLUMNS = {
    "run_id": "VARCHAR", "eval_id": "VARCHAR", "sample_id": "VARCHAR", "question_id": "VARCHAR", "topic": "VARCHAR",
    "system": "VARCHAR", "question": "VARCHAR", "answer": "VARCHAR", "tokens": "BIGINT", "refused": "BOOLEAN", "k": "BIGINT",
    "own_judge": "VARCHAR", "own_aligned": "DOUBLE", "own_coherent": "DOUBLE", "own_status": "VARCHAR", "own_scores": "VARCHAR",
}  # fmt: skip
"""Of ``rows.parquet``: an answer and the judgment that came with it, if one did. ``own_scores`` is JSON."""
ORIGIN = "CASE WHEN coalesce(recorded, '') <> '' THEN 'recorded: ' || recorded ELSE 'own' END"
"""Whose a run is, in words: the macro ``origin`` of the queries."""
_OWN = tuple(name for name in COLUMNS if name.startswith("own_"))


def is_import(run_id: str) -> bool:
    """Whether this id is of an import, or of a run in one."""
    return run_id.startswith(IMPORT)


def signature(folder: Path) -> str:
    """Changes whenever the import's rows could."""
    return sha256_json(stamps([entry for entry in entries(folder) if entry.is_file()], folder))


def read_import(folder: Path) -> RunRows:
    """The runs, evaluations and further judgments of an import, and where its answers lie. A damaged one gives no rows and a warning.

    The whole file is held against its hash once, whenever it changes, so that no query meets a damaged page later.
    """
    rows = RunRows(answers=signature(folder))
    try:
        card = _card(folder)
        file = folder / ROWS
        if sha256_file(file) != card["rows_sha256"]:
            raise ValueError(
                f"its {ROWS} is damaged or was changed (another hash than its card says); undo it and import the file again"
            )
        wanted, found = dict.fromkeys(COLUMNS), pq.read_schema(file).names
        if missing := [name for name in wanted if name not in found]:
            raise ValueError(f"its {ROWS} lacks {', '.join(missing)}; undo it and import the file again")
        for part in card["runs"]:
            rows.tables["runs"].append(_run_row(card, part))
            rows.tables["evals"].append(_eval_row(card, part))
    except FileNotFoundError as error:
        return RunRows(warnings=[f"{folder.name} was left out: {Path(error.filename).name} is missing"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        return RunRows(warnings=[f"{folder.name} was left out: {error}"])
    own = {row["run_id"] for row in rows.tables["runs"]}
    judged = judgment_rows(folder, ("run_id", "eval_id", "sample_id", "judge"), {})
    rows.tables["judgments"] = [row for row in judged if row["run_id"] in own]
    rows.tables["imports"] = [
        {"run_id": folder.name, "file": f"imports/{folder.name}/{ROWS}", "sha256": card["rows_sha256"], "rows": card["answers"]}
    ]
    return rows


def _card(folder: Path) -> dict[str, Any]:
    card = read_json(folder / CARD)
    if not isinstance(card, dict) or not isinstance(card.get("runs"), list):
        raise ValueError(f"its {CARD} does not say what is in it")
    for part in card["runs"]:
        if not str(part["run_id"]).startswith(f"{folder.name}-"):
            raise ValueError(f"its {CARD} names {part['run_id']}, which is not a run of it")
    return card


def _run_row(card: Row, part: Row) -> Row:
    return {
        "run_id": part["run_id"], "kind": "import", "recorded": "", "model": part["model"], "dataset": part["dataset"], "defense_label": part["defense"],
        "setting_key": f"import:{sha256_json([part['model'], part['dataset'], part['defense']])[:16]}", "defenses": "[]",
        "seed": part["seed"], "status": "done", "created": card["time"], "name": card["file"],
    }  # fmt: skip


def _eval_row(card: Row, part: Row) -> Row:
    return {
        "run_id": part["run_id"], "eval_id": EVALUATION, "suite": part["suite"], "judge": part["judge"], "scale": 1.0,
        "status": "done", "created": card["time"], "asked": part["answers"], "suite_hash": f"import:{part['suite']}",
    }  # fmt: skip


def make_views(connection: duckdb.DuckDBPyConnection, home: Path) -> None:
    """``samples`` and ``judgments`` as readers know them, in the connection's own memory: what runs wrote, and what was imported.

    Here and not in the index, so that a home that was moved is still right. ``placed_samples`` says beside where in its file an imported answer
    stands (else -1), so that some rows are read without looking through all.
    """
    idx = f"{database.ALIAS}.main"
    files = [str(home / file) for (file,) in connection.execute(f"SELECT file FROM {idx}.imports ORDER BY file").fetchall()]
    own = ", ".join(f"NULL::{COLUMNS[name]} AS {name}" for name in _OWN)
    connection.execute(f"CREATE MACRO memory.main.origin(recorded) AS {ORIGIN}")
    connection.execute(f"CREATE VIEW memory.main.written_samples AS FROM {idx}.samples")
    connection.execute(f"CREATE VIEW memory.main.written_judgments AS FROM {idx}.judgments")
    samples, judgments = f"SELECT *, -1 AS stands, {own} FROM {idx}.samples", f"FROM {idx}.judgments"
    if files:
        rows = f"read_parquet({_literal(files)}, file_row_number = true)"
        samples += f" UNION ALL BY NAME SELECT {', '.join(COLUMNS)}, file_row_number AS stands FROM {rows}"
        judgments += (
            f" UNION ALL BY NAME SELECT run_id, eval_id, sample_id, {', '.join(f'{name} AS {name[4:]}' for name in _OWN)}"
            f" FROM {rows} WHERE own_judge IS NOT NULL"
        )
    connection.execute(f"CREATE VIEW memory.main.placed_samples AS {samples}")
    connection.execute("CREATE VIEW memory.main.samples AS SELECT * EXCLUDE (stands) FROM memory.main.placed_samples")
    connection.execute(f"CREATE VIEW memory.main.judgments AS {judgments}")


def _literal(names: Sequence[str]) -> str:
    """A list of SQL strings; a view's definition takes no bound parameter."""
    quoted = ", ".join("'" + name.replace("'", "''") + "'" for name in names)
    return f"[{quoted}]"
