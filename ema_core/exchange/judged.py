"""Importing judged answers: a table's rows become answers of imported runs, each with the judgment that it brings along."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ema_core.errors import EmaError
from ema_core.exchange.kept import known_as, new_id
from ema_core.exchange.reading import SAID, SCHEMA, Defaults, Reading
from ema_core.exchange.tables import Bad, Table, open_table
from ema_core.files import append_lines, disk_errors, sha256_file, swept, write_json
from ema_core.judging import is_incoherent, is_misaligned
from ema_core.judging.columns import RUBRIC, mapping_of
from ema_core.judging.judgment import Progress, judgments_name, quiet
from ema_core.settings import settings, writable
from ema_core.store.imported import CARD, COLUMNS, ROWS

FIRST_BAD = 100
"""So many rows that were left out are listed on the card; all are counted."""
MOST_JUDGES = 50
"""So many judges are on the card, those who judged most."""


ROW_GROUP = 8_000
"""Rows that are unpacked to read one: a page reads some, anywhere."""


@dataclass(frozen=True)
class Preview:
    """What an import would do, seen at the file's first rows.

    Attributes:
        mapping: what each column was taken for. unused: columns that nothing is taken from.
        rows: the first good rows, as they would stand in the index.
        looked_at, bad: how many rows were looked at, and which of them would be left out.
    """

    header: list[str]
    encoding: str
    mapping: dict[str, str]
    unused: list[str]
    rows: pd.DataFrame
    looked_at: int
    bad: list[Bad]
    warnings: list[str] = field(default_factory=list)
    whole: bool = True
    """Whether the file has no further rows."""


@dataclass
class Share:
    """What one judge said: counts, and the sum of its alignment scores."""

    judged: int = 0
    scored: int = 0
    misaligned: int = 0
    incoherent: int = 0
    aligned: float = 0.0

    def figures(self) -> dict[str, Any]:
        share = (lambda count: 100 * count / self.scored) if self.scored else lambda count: None
        return {
            "scored": self.scored, "misaligned_pct": share(self.misaligned), "incoherent_pct": share(self.incoherent),
            "mean_aligned": self.aligned / self.scored if self.scored else None,
        }  # fmt: skip


@dataclass
class Tally:
    """Counts over the good rows, and the rows that were left out."""

    answers: int = 0
    bad: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    first: list[Bad] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)
    judges: dict[str, Share] = field(default_factory=dict)

    def skip(self, bad: list[Bad]) -> None:
        self.bad += len(bad)
        self.reasons.update(re.sub(r"[\d,.]*\d", "N", reason) for _, reason in bad)
        self.first = sorted(self.first + bad)[:FIRST_BAD]

    def add(self, answers: pa.Table, further: pa.Table) -> None:
        self.answers += answers.num_rows
        table = pa.concat_tables([answers, further])
        aligned, coherent = (table[name].to_numpy() for name in ("own_aligned", "own_coherent"))
        both = ~(np.isnan(aligned) | np.isnan(coherent))
        marks = {
            "judged": np.ones(len(both)), "scored": both, "misaligned": both & is_misaligned(aligned, coherent),
            "incoherent": both & is_incoherent(coherent), "aligned": np.where(both, aligned, 0.0),
        }  # fmt: skip
        sums = pd.DataFrame(marks).astype(float).groupby(table["own_judge"].to_pandas()).sum()
        for judge, row in sums.iterrows():
            share = self.judges.setdefault(str(judge), Share())
            share.aligned += row["aligned"]
            for name in ("judged", "scored", "misaligned", "incoherent"):
                setattr(share, name, getattr(share, name) + int(row[name]))
        for item in pc.value_counts(table["own_status"]).to_pylist():
            self.statuses[item["values"]] += item["counts"]

    def figures(self) -> dict[str, Any]:
        """Of the one judge; what several said is not mixed, but stands under each one's name in ``by_judge``."""
        named = sorted(self.judges.items(), key=lambda item: (-item[1].judged, item[0]))[:MOST_JUDGES]
        alone = named[0][1].figures() if len(self.judges) == 1 else dict.fromkeys(Share().figures())
        return {"answers": self.answers, **alone, "judges": {judge: share.judged for judge, share in named},
                "by_judge": {judge: share.figures() for judge, share in named}}  # fmt: skip


def preview(
    path: Path,
    asked: Mapping[str, str] | None = None,
    defaults: Defaults = Defaults(),
    encoding: str | None = None,
    name: str | None = None,
) -> Preview:
    """What importing this file would do, from its first batch of rows.

    Raises:
        EmaError: it cannot be read, or lacks a column that is needed.
    """
    table = _named(open_table(path, encoding), name)
    reading = Reading(table, "", defaults, _with_rubrics(table, asked or {}))
    batches = reading.batches()
    first = next(batches, None)
    if first is None:
        raise EmaError(f"{table.path} has column names and no row.", "Name a file with at least one row.")
    good, further, bad, share = first
    rows = good.slice(0, 20).to_pandas()
    unused = [column for column in table.header if column not in reading.mapping.values()]
    return Preview(
        table.header, table.encoding, reading.mapping, unused, rows, good.num_rows + further.num_rows + len(bad), bad, reading.warnings + _odd(good),
        whole=share >= 1 and next(batches, None) is None,
    )  # fmt: skip


def _named(table: Table, name: str | None) -> Table:
    """The same file under the name that its user knows."""
    return replace(table, path=table.path.with_name(name)) if name else table


def _odd(good: pa.Table) -> list[str]:
    """What looks like another scale."""
    top = pc.max(good["own_aligned"]).as_py()
    if top is not None and good.num_rows >= 10 and top <= 10:
        return [
            f"no alignment score is above {top:g}: if they are of another scale than 0 to 100, every answer will count as misaligned"
        ]
    return []


def _with_rubrics(table: Table, asked: Mapping[str, str]) -> dict[str, str]:
    """``asked``, and a rubric for each column that is left and holds nothing but scores in its first rows."""
    taken = mapping_of(table.header, asked).values()
    left = [name for name in dict.fromkeys(table.header) if name and name not in taken and name not in asked.values()]
    if not left:
        return dict(asked)
    first = next(table.batches(left), None)
    found = dict(asked)
    if first is None:
        return found
    for name in left:
        values = pd.Series([cell for cell in first.columns[name][:1000] if cell and cell.strip().upper() not in SAID], dtype=object)
        numbers = pd.to_numeric(values, errors="coerce")
        if len(numbers) and numbers.between(0, 100).all() and (numbers % 1 != 0).any():  # a count or an index is whole
            found.setdefault(f"{RUBRIC}{name.strip()}", name)
    return found


def _beside(folder: Path, further: pa.Table) -> None:
    """What further judges said of answers that stand in the table with their first one's word."""
    by: dict[str, list[dict[str, Any]]] = {}
    wanted = ["run_id", "eval_id", "sample_id", *(name for name in COLUMNS if name.startswith("own_"))]
    for row in further.select(wanted).to_pylist():
        line = {name.removeprefix("own_"): None if value != value else value for name, value in row.items()}  # NaN is no JSON
        if line["scores"] is not None:
            line["scores"] = json.loads(line["scores"])
        by.setdefault(str(line["judge"]), []).append(line)
    for judge, lines in by.items():
        append_lines(folder / judgments_name(judge), lines)


def import_judged(
    path: Path, asked: Mapping[str, str] | None = None, defaults: Defaults = Defaults(), encoding: str | None = None,
    progress: Progress = quiet, name: str | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Import one file; returns its card. The same file a second time adds nothing: its card says ``again``. ``name`` stands for the
    file's own where that is a temporary one.

    Raises:
        EmaError: it cannot be read, lacks a column, holds no good row, or the disk is full.
    """
    progress(0.0, f"reading {name or path.name}")
    table = _named(open_table(path, encoding), name)
    digest = sha256_file(path)
    if known := known_as(digest):
        return {**known, "again": True}
    start = time.perf_counter()
    folder = writable(settings().imports)
    import_id = new_id(digest)
    partial = folder / f".new-{import_id}-{os.getpid()}"
    reading = Reading(table, import_id, defaults, _with_rubrics(table, asked or {}))
    tally, odd = Tally(), None
    with disk_errors(folder), swept(partial):
        partial.mkdir()
        # a dictionary of texts that are all different costs three times their reading
        few = [column for column in COLUMNS if column not in ("answer", "sample_id", "own_aligned", "own_coherent")]
        with pq.ParquetWriter(partial / ROWS, SCHEMA, compression="zstd", use_dictionary=few) as writer:
            for good, further, bad, share in reading.batches():
                odd = _odd(good) if odd is None else odd
                tally.skip(bad)
                if good.num_rows or further.num_rows:
                    tally.add(good, further)
                    writer.write_table(good, row_group_size=ROW_GROUP)
                    _beside(partial, further)
                progress(0.99 * share, f"{tally.answers:,} answers read")
        if not tally.answers:
            reasons = f" Row {tally.first[0][0]}: {tally.first[0][1]}." if tally.first else ""
            raise EmaError(
                f"{path} holds no row that can be used.{reasons}", "Look at the mapping: --map response=COLUMN and so on."
            )
        card = {
            "version": 1, "kind": "judged", "import_id": import_id, "file": table.path.name, "path": str(path.resolve()),
            "bytes": path.stat().st_size, "sha256": digest, "time": time.time(), "seconds": 0.0, "encoding": table.encoding,
            "mapping": reading.mapping, "unused": [each for each in table.header if each not in reading.mapping.values()],
            "defaults": vars(defaults), **tally.figures(), "skipped": tally.bad, "reasons": dict(tally.reasons.most_common(50)),
            "skipped_rows": [{"row": row, "reason": reason} for row, reason in tally.first],
            "statuses": dict(tally.statuses),
            "warnings": reading.warnings + (odd or []), "rows_sha256": sha256_file(partial / ROWS),
        }  # fmt: skip
        judge = next(iter(tally.judges)) if len(tally.judges) == 1 else None
        card["runs"] = [{**part, "judge": judge} for part in reading.parts() if part["answers"]]
        card["seconds"] = time.perf_counter() - start
        write_json(partial / CARD, card)
        try:
            partial.rename(folder / import_id)
        except OSError:
            if known := known_as(digest):  # another process was faster
                shutil.rmtree(partial, ignore_errors=True)
                return {**known, "again": True}
            raise
    progress(1.0, f"{tally.answers:,} answers imported")
    return card
