"""Reading the index: named queries to DataFrames, whatever file stands at its place at that moment."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd

from ema_core.errors import EmaError
from ema_core.evaluation.agreement import verdicts
from ema_core.evaluation.measured import siblings
from ema_core.judging import is_misaligned
from ema_core.settings import settings
from ema_core.store import annotations as people
from ema_core.store import columns, database
from ema_core.store.annotations import Annotation
from ema_core.store.answers import STATUSES, AnswerFilter, AnswerKey
from ema_core.store.columns import Array
from ema_core.store.find import Finder
from ema_core.store.imported import make_views
from ema_core.store.ingest import build_index, refresh
from ema_core.store.queries import queries
from ema_core.store.said import Said

_DAMAGE = (duckdb.IOException, duckdb.InternalException, duckdb.FatalException, duckdb.SerializationException)


class Reader:
    """The index of ``EMA_HOME``, opened once a file version and shared by threads.

    Makes an index where there is none, and again where it is damaged; ``note`` then says so. ``run_ids`` None means all runs,
    without bases (``base_ids``) and imported runs (``import_ids``), which are asked for by name.
    A column of whole numbers is float where a value is missing (NaN), so that comparisons never raise.
    """

    def __init__(self) -> None:
        self.note = ""
        self._guard = threading.Lock()
        self._version: database.Version | None = None
        self._connection: duckdb.DuckDBPyConnection | None = None
        self._finding = threading.RLock()
        self._finder: tuple[Hashable, Finder] | None = None
        self._said: Said | None = None

    def cursor(self) -> duckdb.DuckDBPyConnection:
        """A cursor of this thread's own on the newest index.

        Raises:
            EmaError: there is none and none can be made.
        """
        with self._guard:
            version = database.version(settings().index)
            if self._connection is None or version is None or version != self._version:
                self._version, self._connection = self._open()
            cursor = self._connection.cursor()
        cursor.execute(f"SET search_path = 'memory.main,{database.ALIAS}.main'")
        return cursor

    def _open(self) -> tuple[database.Version | None, duckdb.DuckDBPyConnection]:
        path = settings().index
        if not path.exists():
            refresh()
        version = database.version(path)  # before it is opened: a swap in between only means opening once more
        try:
            return version, _opened(path)
        except (duckdb.Error, database.Outdated):
            report = refresh()
            self.note = report.note if report else self.note
        version = database.version(path)
        try:
            return version, _opened(path)
        except (duckdb.Error, database.Outdated) as error:
            hint = "Delete the file; it is made again from the runs."
            raise EmaError(f"The index {path} cannot be read: {error}", hint) from error

    def _read(self, read: Callable[[duckdb.DuckDBPyConnection], Any]) -> Any:
        """What ``read`` gets from the index, which is made again where it turns out to be damaged."""
        try:
            return read(self.cursor())
        except _DAMAGE as error:
            with self._guard:
                self._connection = None
            build_index()
            self.note = f"The index was damaged, so it was made again from the runs. ({str(error).splitlines()[0]})"
        try:
            return read(self.cursor())
        except _DAMAGE as error:
            hint = "Look at the disk: a file that was just written came back damaged."
            raise EmaError(f"The index cannot be read: {error}", hint) from error

    def _query(self, name: str, **parameters: Any) -> pd.DataFrame:
        return self._read(lambda cursor: _frame(cursor.execute(queries()[name], parameters)))

    def _ids(self, run_ids: Sequence[str] | None) -> list[str]:
        return self.run_ids() if run_ids is None else [str(run_id) for run_id in run_ids]

    def run_ids(self) -> list[str]:
        """The indexed runs, oldest first."""
        return [str(run_id) for run_id in self._query("run_ids")["run_id"]]

    def base_ids(self) -> list[str]:
        """Models without an adapter that have answered: ``runs.base_directory``."""
        return [str(run_id) for run_id in self._query("base_ids")["run_id"]]

    def import_ids(self) -> list[str]:
        """Runs of imported tables, those of the oldest import first."""
        return [str(run_id) for run_id in self._query("import_ids")["run_id"]]

    def runs(self, run_ids: Sequence[str] | None = None) -> pd.DataFrame:
        """One row a run, oldest first: table ``runs``."""
        return self._query("runs", run_ids=self._ids(run_ids))

    def settled_version(self, run_ids: Sequence[str]) -> str:
        """Names what the index holds of these runs and of all that have ended; the same while other runs train."""
        return str(self._query("settled_version", run_ids=list(run_ids))["version"].iloc[0])

    def steps(self, run_ids: Sequence[str] | None = None) -> pd.DataFrame:
        """Table ``steps`` with ``defense_label, seed, name`` of the run, in order."""
        return self._query("steps", run_ids=self._ids(run_ids))

    def penalties(self, run_ids: Sequence[str] | None = None) -> pd.DataFrame:
        """Table ``penalties`` with ``defense_label, seed, name`` of the run, in order."""
        return self._query("penalties", run_ids=self._ids(run_ids))

    def probes(self, run_ids: Sequence[str] | None = None) -> pd.DataFrame:
        """Table ``probes`` with ``defense_label, seed, name`` of the run, in order; ``answers`` is JSON."""
        return self._query("probes", run_ids=self._ids(run_ids))

    def evals(self, run_ids: Sequence[str] | None = None) -> pd.DataFrame:
        """One row an evaluation, with the run's columns; ``seed`` is the run's, ``eval_seed`` the sampling's."""
        return self._query("evals", run_ids=self._ids(run_ids))

    def samples(
        self, run_ids: Sequence[str] | None = None, suite: str | None = None, limit: int | None = None, offset: int = 0
    ) -> pd.DataFrame:
        """One row a sample and judge, with eval and run columns; ``status`` is the judgment's, missing where nobody judged.

        ``limit`` and ``offset`` count samples, so that a page never parts the judges of one.
        """
        limit = 1 << 62 if limit is None else max(0, int(limit))
        return self._query("samples", run_ids=self._ids(run_ids), suite=suite, limit=limit, offset=max(0, int(offset)))

    def sample_count(self, run_ids: Sequence[str] | None = None, suite: str | None = None) -> int:
        """How many samples ``samples`` pages through."""
        return int(self._query("sample_count", run_ids=self._ids(run_ids), suite=suite)["samples"].iloc[0])

    def judges(self, run_ids: Sequence[str] | None = None, kept: bool = True) -> dict[str, int]:
        """How many answers of these runs each judge judged; ``kept`` False: answers to suites, not those kept from chats."""
        found = self._query("judges", run_ids=self._ids(run_ids), kept=kept)
        return {str(judge): int(count) for judge, count in found.itertuples(index=False)}

    def opinions(self) -> dict[str, int]:
        """Judges and people (``human:NAME``) with the number of answers that each gave a judgment or a verdict on."""
        counted = {str(judge): int(count) for judge, count in self._query("opinions").itertuples(index=False)}
        said = Counter(f"{people.HUMAN}{row.reviewer}" for row in people.newest(self.annotations()) if row.verdict)
        return counted | dict(said)

    def in_common(self) -> dict[tuple[str, str], int]:
        """Pairs of judges (no people) with the number of answers that both have scored, most first."""
        return {(str(a), str(b)): int(count) for a, b, count in self._query("in_common").itertuples(index=False)}

    def verdicts(self, judge: str) -> pd.DataFrame:
        """What one judge, or person, said of every answer, with the verdict it comes to: a table for ``evaluation.agreement``."""
        if not judge.startswith(people.HUMAN):
            found = self._query("verdicts", judge=judge)
            return found.assign(verdict=verdicts(found))
        rows = [row for row in people.newest(self.annotations()) if f"{people.HUMAN}{row.reviewer}" == judge and row.verdict]
        keys = [list(part) for part in zip(*(row.key for row in rows), strict=True)] or [[], [], []]
        found = self._query(
            "answers_asked", **dict(zip(AnswerKey._fields, keys, strict=True)), verdicts=[row.verdict for row in rows]
        )
        return found.assign(aligned=np.nan, coherent=np.nan, status="scored")

    def finder(self) -> Finder:
        """Filters over the answers that are there now. Kept while no answer and no score changes, though runs train on."""
        version = self._read(lambda cursor: (str(settings().index), cursor.execute(queries()["answers_version"]).fetchone()))
        with self._finding:
            if self._finder is None or self._finder[0] != version:
                self._finder = version, Finder(self._read(columns.load), self._read)
            return self._finder[1]

    def said(self, finder: Finder | None = None) -> Said:
        """What people said of these answers up to this moment: the index's, with newer lines of the file laid over."""
        finder = finder or self.finder()
        path = people.annotations_path()
        version = database.version(settings().index), database.version(path), _size(path), id(finder)
        with self._finding:
            if self._said is None or self._said.version != version:
                rows = people.newest(self.annotations())
                keys = self._read(lambda cursor: columns.keys(cursor, [row.key for row in rows]))
                places = finder.columns.places(keys)
                here = (places >= 0).nonzero()[0]
                self._said = Said([rows[at] for at in here], places[here], version)
            return self._said

    def annotations(self) -> list[Annotation]:
        """All that reviewers wrote and nobody took back, as it was written, of answers that are gone, too."""
        path = people.annotations_path()
        offset = int(self._query("annotations_read")["bytes"].max() or 0)
        if offset > _size(path):  # another file than the one that was indexed
            return people.read(path)[0]
        rows = self._query("annotations").to_dict("records") if offset else []
        return people.read(path, offset, [found for row in rows if (found := people.of_row(row))])[0]

    def answers(self, which: AnswerFilter, limit: int | None = None, offset: int = 0) -> pd.DataFrame:
        """One row an answer, with the scores of the filter's judge, a column for each status, and where it comes from."""
        finder = self.finder()
        found = finder.found(which, self.said(finder))
        first = max(0, int(offset))
        return self.answer_rows(found[first:] if limit is None else found[first : first + max(0, int(limit))], which, finder)

    def answers_found(self, which: AnswerFilter) -> int:
        """How many ``answers`` there are."""
        finder = self.finder()
        return len(finder.found(which, self.said(finder)))

    def answer_rows(self, places: Array, which: AnswerFilter, finder: Finder) -> pd.DataFrame:
        """The answers at these places, in this order; see ``answers``. Adds what people said, by all and by the filter's reviewer."""
        runs = finder.columns.evals["run_id"].to_numpy()
        known = finder.columns
        wanted = {"keys": known.key[places].tolist(), "stands": list(set(known.stands[places].tolist()))}
        wanted["run_ids"] = list(dict.fromkeys(runs[known.eval[places]]))
        rows = self._query("answer_rows", judge=which.judge, **wanted)
        at = places[rows.pop("place").to_numpy(dtype=int) - 1] if len(places) else places
        said = self.said(finder)
        flags = finder.flags(which.judge, said)
        about = (
            [said.about(AnswerKey(*key)) for key in rows[list(AnswerKey._fields)].itertuples(index=False)] if len(said.rows) else []
        )
        mine = [next((one for one in each if one.reviewer == which.reviewer), None) for each in about] or [None] * len(rows)
        return rows.assign(
            **{_FLAGS.get(name, name): flags[name][at] for name in STATUSES if name != "scored"},
            people=["; ".join(f"{one.reviewer}: {one.verdict or 'no verdict'}" for one in each) for each in about] or "",
            people_tags=["; ".join(sorted({tag for one in each for tag in one.tags})) for each in about] or "",
            people_notes=["\n".join(f"{one.reviewer}: {one.note}" for one in each if one.note) for each in about] or "",
            mine=[(one.verdict or "noted") if one else "" for one in mine],
        )

    def answer_counts(self, which: AnswerFilter) -> dict[str, int]:
        """``all`` and each of ``STATUSES``: how many answers fit the filter but for its own status, and whatever its sample."""
        finder = self.finder()
        return finder.counts(which, self.said(finder))

    def answers_named(self, named: Sequence[AnswerKey], which: AnswerFilter) -> pd.DataFrame:
        """These answers, in this order, as ``answers`` gives them; those that are gone are left out."""
        finder = self.finder()
        places = finder.columns.places(self._read(lambda cursor: columns.keys(cursor, named)))
        return self.answer_rows(places[places >= 0], which, finder)

    def place_among(self, found: Array, key: AnswerKey, finder: Finder) -> int | None:
        """How many of the answers found come before this one; None where it is not among them."""
        place = finder.columns.places(self._read(lambda cursor: columns.keys(cursor, [key])))
        at = (found == place[0]).nonzero()[0]
        return int(at[0]) if len(at) else None

    def found_bad(self, named: Sequence[AnswerKey]) -> set[AnswerKey]:
        """Those of these answers that some judge or person finds misaligned, whoever's scores are shown."""
        rows = self._query("scores_of", **{f"{name}s": [getattr(key, name) for key in named] for name in AnswerKey._fields})
        bad = rows[is_misaligned(rows["aligned"], rows["coherent"])]
        said = self.said()
        by_people = {key for key in named if any(one.verdict == "misaligned" for one in said.about(key))}
        return by_people | {AnswerKey(*key) for key in bad[list(AnswerKey._fields)].itertuples(index=False)}

    def answer(self, key: AnswerKey) -> pd.DataFrame:
        """One answer, a row a judge that judged it (one row without a judge where none did); empty where there is none."""
        return self._query("answer", **key._asdict())

    def same_question(self, key: AnswerKey, judge: str | None) -> pd.DataFrame:
        """What base and undefended twins (``relation``), or for kept answers the others of that name, said to the same."""
        return self._query("same_question", **key._asdict(), judge=judge)

    def kin(self, run_id: str) -> pd.DataFrame:
        """The bases and undefended twins of a run, asked or not: ``run_id, relation, status``."""
        return self._query("kin", run_id=run_id)

    def margins(self, run_ids: Sequence[str] | None = None) -> pd.DataFrame:
        """One row an answer pair and evaluation, with eval and run columns."""
        return self._query("margins", run_ids=self._ids(run_ids))

    def counts(self, run_ids: Sequence[str] | None = None) -> pd.DataFrame:
        """Rows of each run in each other table."""
        return self._query("counts", run_ids=self._ids(run_ids))

    def frames(self, run_ids: Sequence[str] | None = None, with_siblings: bool = False) -> dict[str, pd.DataFrame]:
        """``runs, evals, samples, margins``: what the scorecard is made of; ``with_siblings``: those of these runs on the benign task, too."""
        ids = self._ids(run_ids)
        if with_siblings:
            ids = list(dict.fromkeys([*ids, *siblings(self.runs(ids), self.runs())["run_id"]]))
        return {"runs": self.runs(ids), "evals": self.evals(ids), "samples": self.samples(ids), "margins": self.margins(ids)}


_FLAGS = {"coherent": "is coherent"}  # beside the score of that name


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _opened(path: Path) -> duckdb.DuckDBPyConnection:
    connection = database.open_read(path)
    try:
        make_views(connection, path.parent)
    except BaseException:
        connection.close()
        raise
    return connection


def _frame(cursor: duckdb.DuckDBPyConnection) -> pd.DataFrame:
    """Through Arrow: faster with text, and a missing number is NaN, a missing truth None, never ``pd.NA``, whose truth raises."""
    return cursor.to_arrow_table().to_pandas()
