"""Making the index from the run directories: a new file, finished, then swapped in by rename."""

from __future__ import annotations

import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import duckdb
from filelock import FileLock, Timeout

from ema_core.errors import EmaError
from ema_core.files import disk_errors
from ema_core.runs import RunDirectory, answering_ids, import_ids
from ema_core.settings import settings, writable
from ema_core.shared.room import hidden_ids
from ema_core.store import annotations as people
from ema_core.store import database, imported
from ema_core.store.rows import TABLES, RunRows, read_run, signature

Progress = Callable[[int, int], None]
"""Called with how many runs are done, of how many that have to be read."""
Filled = tuple[dict[str, int], str, int, list[str]]
_OF_IMPORTS = (
    "SELECT run_id FROM runs WHERE kind = 'import' AND list_contains(?::VARCHAR[], regexp_replace(run_id, '-[0-9]+$', ''))"
)
_BATCH = 25  # runs that are held in memory before they are inserted


@dataclass(frozen=True)
class IndexReport:
    """What was indexed.

    Attributes:
        rows: rows by table.
        hash: over all of them (``database.rows_hash``).
        read, kept: runs that were read anew, and whose rows came from the old index.
        warnings: what was left out, one sentence each.
        note: why the old index was not used, where it was asked for.
    """

    rows: dict[str, int]
    hash: str
    seconds: float
    read: int = 0
    kept: int = 0
    warnings: list[str] = field(default_factory=list)
    note: str = ""


def build_index(progress: Progress | None = None) -> IndexReport:
    """Read all runs and put a new index in the place of the old one, whatever state that is in.

    Raises:
        EmaError: the folder cannot be written, the disk is full, or another process has been indexing for minutes.
    """
    with _lock():
        return _build(signatures(), progress, reuse=False)


def refresh(progress: Progress | None = None) -> IndexReport | None:
    """Bring the index up to date, reading only the runs that changed; None where nothing did.

    Raises:
        EmaError: as ``build_index``.
    """
    if signatures() == _stored(settings().index):
        return None
    with _lock():
        now = signatures()
        if now == _stored(settings().index):  # another process was faster
            return None
        return _build(now, progress, reuse=True)


def signatures() -> dict[str, str]:
    """The signature of each run directory, of each base's and of each import, as it is now."""
    runs, imports = settings().runs, settings().imports
    hidden = hidden_ids()
    found = {run_id: signature(RunDirectory(runs / run_id)) for run_id in answering_ids() if run_id not in hidden}
    return found | {import_id: imported.signature(imports / import_id) for import_id in import_ids()}


def _read(run_id: str) -> RunRows:
    if imported.is_import(run_id):
        return imported.read_import(settings().imports / run_id)
    return read_run(RunDirectory(settings().runs / run_id))


def _stored(path: Path) -> dict[str, str] | None:
    version = database.version(path)
    return None if version is None else _stored_in(version)


@lru_cache(maxsize=4)
def _stored_in(version: database.Version) -> dict[str, str] | None:
    try:
        with database.open_read(Path(version[0])) as connection:
            return dict(connection.execute("SELECT run_id, signature FROM indexed").fetchall())
    except (duckdb.Error, database.Outdated):
        return None


@contextmanager
def _lock() -> Iterator[None]:
    home = writable(settings().home)
    lock = FileLock(home / "index.lock")
    try:
        lock.acquire(timeout=300)
    except Timeout:
        raise EmaError("Another process has been indexing for five minutes.", "Wait for it or end it, then try again.") from None
    try:
        yield
    finally:
        lock.release()


def _build(now: dict[str, str], progress: Progress | None, reuse: bool) -> IndexReport:
    """Under the lock. ``now`` was taken before any file is read: what is written meanwhile is seen by the next refresh."""
    start = time.perf_counter()
    index = settings().index
    for stray in index.parent.glob(".index-new-*"):  # of an indexer that was killed
        _remove(stray)
    new = index.with_name(f".index-new-{uuid.uuid4().hex[:12]}.duckdb")  # a name that DuckDB never saw in this process
    note = ""
    with disk_errors(index), _database_errors(index):
        try:
            report = None
            if reuse and index.exists():
                try:
                    report = _fill(new, now, progress, index)
                except (duckdb.Error, database.Outdated) as error:
                    if _disk_full(error):
                        raise
                    note = _why(error)
                    _remove(new)
            rows, digest, read, warnings = report or _fill(new, now, progress, None)
            _sync(new)
            os.replace(new, index)
        finally:
            for left in index.parent.glob(f"{new.name}*"):
                _remove(left)
    return IndexReport(rows, digest, time.perf_counter() - start, read, len(now) - read, warnings, note)


def _fill(new: Path, now: dict[str, str], progress: Progress | None, old: Path | None) -> Filled:
    """Rows by table, their hash, how many runs were read, and the warnings."""
    if old is not None:
        database.open_read(old).close()  # refuses a damaged or outdated one
        shutil.copyfile(old, new)
    with database.open_write(new) as connection:
        stored = dict(connection.execute("SELECT run_id, signature FROM indexed").fetchall())
        gone = [run_id for run_id in stored if now.get(run_id) != stored[run_id]]
        todo = [run_id for run_id in now if now[run_id] != stored.get(run_id)]
        connection.begin()
        if gone:
            of_imports = [run_id for (run_id,) in connection.execute(_OF_IMPORTS, [gone]).fetchall()]
            for table in (*TABLES, "indexed"):
                connection.execute(f"DELETE FROM {table} WHERE run_id IN (SELECT unnest(?::VARCHAR[]))", [gone + of_imports])
        for first in range(0, len(todo), _BATCH):
            batch = {run_id: _read(run_id) for run_id in todo[first : first + _BATCH]}
            _insert(connection, batch, now)
            if progress:
                progress(min(first + _BATCH, len(todo)), len(todo))
        _insert_annotations(connection)
        connection.commit()
        connection.execute("CHECKPOINT")
        warnings = connection.execute("SELECT unnest(warnings) FROM indexed ORDER BY run_id").fetchall()
        return database.counts(connection), database.rows_hash(connection), len(todo), [text for (text,) in warnings]


def _insert(connection: duckdb.DuckDBPyConnection, batch: dict[str, RunRows], now: dict[str, str]) -> None:
    for table in TABLES:
        database.insert(connection, table, [row for rows in batch.values() for row in rows.tables[table]])
    made = [
        {"run_id": run_id, "signature": now[run_id], "answers": rows.answers, "warnings": rows.warnings}
        for run_id, rows in batch.items()
    ]
    database.insert(connection, "indexed", made)


def _insert_annotations(connection: duckdb.DuckDBPyConnection) -> None:
    """All that stand now. They alone never make an index anew: readers lay over what is newer."""
    standing, end = people.read(people.annotations_path())
    connection.execute("DELETE FROM annotations")
    connection.execute("DELETE FROM annotations_read")
    rows = [{**people.row(found), "line": number} for number, found in enumerate(standing)]
    database.insert(connection, "annotations", rows)
    connection.execute("INSERT INTO annotations_read VALUES (?)", [end])


@contextmanager
def _database_errors(index: Path) -> Iterator[None]:
    try:
        yield
    except duckdb.Error as error:
        if _disk_full(error):
            raise EmaError(
                f"The disk is full (writing {index}).", "Free some space, then `ema index`; no result is lost."
            ) from error
        raise EmaError(f"The index {index} could not be made: {error}", "Run `ema doctor`; no result is lost.") from error


def _disk_full(error: Exception) -> bool:
    return any(words in str(error) for words in ("No space left", "Disk quota", "disk is full"))


def _why(error: Exception) -> str:
    if isinstance(error, database.Outdated):
        return "The index was made by another version, so it was made again."
    return f"The index was damaged, so it was made again from the runs. ({str(error).splitlines()[0]})"


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
