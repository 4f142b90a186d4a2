"""Opening, filling and hashing an index file. The only module that knows DuckDB's habits.

Two habits shape it (duckdb 1.5.5, tried): one process may write a file *or* many may read it, so a file is finished before it
is swapped in; and ``duckdb.connect(path)`` gives an open path's old database back even after another file took its place,
so readers attach the file to a database of their own in memory.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from ema_core.files import sha256_json
from ema_core.store.rows import TABLES, Row

ROWS_VERSION = 6
"""Raised when the same files give other rows than before, so that older indexes are rebuilt."""
_CONFIG: dict[str, Any] = {"autoinstall_known_extensions": "false", "autoload_known_extensions": "false"}
ALIAS = "idx"
CONTENT = (*TABLES, "annotations")
Version = tuple[str, int, int]


class Outdated(Exception):
    """The index was made by another version."""


@cache
def fingerprint() -> str:
    """What made an index: schema, row reader and DuckDB."""
    return sha256_json([_schema(), ROWS_VERSION, duckdb.__version__])


def _schema() -> str:
    return Path(__file__).with_name("schema.sql").read_text(encoding="utf-8")


def version(path: Path) -> Version | None:
    """Names one file that stands or stood at ``path``; None where there is none."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return str(path), stat.st_ino, stat.st_mtime_ns


def open_read(path: Path) -> duckdb.DuckDBPyConnection:
    """The index, attached as ``idx``. Cursors of the connection say ``USE idx`` for themselves.

    Raises:
        duckdb.Error: it is damaged, or another process writes it.
        Outdated: another version of EMA Lab or DuckDB made it.
    """
    connection = duckdb.connect(":memory:", config=_CONFIG)
    quoted = str(path).replace("'", "''")
    try:
        connection.execute(f"ATTACH '{quoted}' AS {ALIAS} (READ_ONLY)")  # ATTACH takes no bound parameter
        connection.execute(f"USE {ALIAS}")
        try:
            made_by = connection.execute("SELECT fingerprint FROM made_by").fetchone()
        except duckdb.CatalogException:
            made_by = None
        if made_by != (fingerprint(),):
            raise Outdated(path)
    except BaseException:
        connection.close()
        raise
    return connection


def open_write(path: Path) -> duckdb.DuckDBPyConnection:
    """A file that nobody else has open, with the schema if it is new."""
    new = not path.exists()
    connection = duckdb.connect(str(path), config=_CONFIG)
    try:
        if new:
            connection.execute(_schema())
            connection.execute("INSERT INTO made_by VALUES (?)", [fingerprint()])
    except BaseException:
        connection.close()
        raise
    return connection


def insert(connection: duckdb.DuckDBPyConnection, table: str, rows: Sequence[Row]) -> None:
    """Append rows in bulk; what does not fit its column becomes NULL."""
    if not rows:
        return
    connection.register("incoming", arrow(table, rows))
    connection.execute(f"INSERT INTO {table} SELECT * FROM incoming")
    connection.unregister("incoming")


def arrow(table: str, rows: Sequence[Row]) -> pa.Table:
    """Rows in the columns and types of a table of the index."""
    schema = _schemas()[table]
    return pa.Table.from_arrays([_column([row.get(item.name) for row in rows], item.type) for item in schema], schema=schema)


@cache
def _schemas() -> dict[str, pa.Schema]:
    with duckdb.connect(":memory:", config=_CONFIG) as connection:
        connection.execute(_schema())
        return {table: connection.execute(f"SELECT * FROM {table}").to_arrow_table().schema for table in (*CONTENT, "indexed")}


def _column(values: list[Any], kind: pa.DataType) -> pa.Array:
    try:
        return pa.array(values, kind)
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        return pa.array([_fit(value, kind) for value in values], kind)


def _fit(value: Any, kind: pa.DataType) -> Any:
    if value is None:
        return None
    if pa.types.is_string(kind):
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        return text.encode("utf-8", "replace").decode("utf-8")
    if pa.types.is_boolean(kind):
        return value if isinstance(value, bool) else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if pa.types.is_floating(kind):
        return float(value) if isinstance(value, float) or abs(value) < 1 << 1000 else None
    whole = isinstance(value, int) or (math.isfinite(value) and value == int(value))
    return int(value) if whole and abs(value) < 1 << 63 else None


def counts(connection: duckdb.DuckDBPyConnection) -> dict[str, int]:
    """Rows by table; imported answers are samples, too."""
    union = " UNION ALL ".join(f"SELECT '{table}', count(*) FROM {table}" for table in CONTENT)
    found = dict(connection.execute(union).fetchall())
    imported = connection.execute("SELECT coalesce(sum(rows), 0)::BIGINT FROM imports").fetchone()
    return found | {"samples": found["samples"] + (imported or (0,))[0]}


def rows_hash(connection: duckdb.DuckDBPyConnection) -> str:
    """Hash over the content of all rows of all tables, whatever their order. Comparable within one DuckDB version."""
    digest = hashlib.sha256()
    for table in CONTENT:
        names = ",".join(sorted(item.name for item in _schemas()[table]))
        sql = f"SELECT count(*), coalesce(sum(hash(whole)::HUGEINT), 0) FROM {table} AS whole"
        digest.update(f"{table}({names}) {connection.execute(sql).fetchone()}\n".encode())
    return digest.hexdigest()
