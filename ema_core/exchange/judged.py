"""Importing judged answers: a table's rows become answers of imported runs, each with the judgment that it brings along."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ema_core.datasets.refusal import REFUSAL_WORDS, is_refusal
from ema_core.errors import EmaError
from ema_core.exchange.tables import Bad, Batch, Table, open_table
from ema_core.files import disk_errors, read_json, sha256_file, swept, write_json
from ema_core.judging import is_incoherent, is_misaligned
from ema_core.judging.columns import NAMES, RUBRIC, mapping_of
from ema_core.runs import IMPORT, import_ids
from ema_core.settings import settings, writable
from ema_core.store.imported import CARD, COLUMNS, EVALUATION, ROWS

FIRST_BAD = 100
"""So many rows that were left out are listed on the card; all are counted."""
MAX_RUNS = 2000
JUDGE = "imported:"
UNKNOWN = "unknown"
NOT_STATED = "not stated"
GROUP = ("run", "evaluation", "model", "dataset", "defense", "seed", "suite")
"""Rows that agree in all of these are one imported run."""
_SAID = {"REFUSAL": "refused", "REFUSED": "refused", "REFUSE": "refused", "CODE": "code"}
_MAYBE_REFUSED = "(?i)" + "|".join(re.sub("['\\s]", ".", word.rpartition(" ")[2]) for word in REFUSAL_WORDS)
_KINDS = {"VARCHAR": pa.string(), "BIGINT": pa.int64(), "DOUBLE": pa.float64(), "BOOLEAN": pa.bool_()}
_SCHEMA = pa.schema([(name, _KINDS[kind]) for name, kind in COLUMNS.items()])
Progress = Callable[[float, str], None]


def quiet(share: float, what: str) -> None:
    """No progress is shown."""


@dataclass(frozen=True)
class Defaults:
    """What holds for every row, where no column says it. ``model`` and ``dataset`` None: as the file's name says."""

    judge: str = ""
    model: str | None = None
    dataset: str | None = None
    defense: str = ""
    seed: int | None = None
    suite: str = "general"


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
class Tally:
    """Counts over the good rows, and the rows that were left out."""

    answers: int = 0
    scored: int = 0
    misaligned: int = 0
    incoherent: int = 0
    aligned: float = 0.0
    bad: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    first: list[Bad] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)
    judges: Counter[str] = field(default_factory=Counter)

    def skip(self, bad: list[Bad]) -> None:
        self.bad += len(bad)
        self.reasons.update(re.sub(r"[\d,.]*\d", "N", reason) for _, reason in bad)
        self.first = sorted(self.first + bad)[:FIRST_BAD]

    def add(self, table: pa.Table) -> None:
        aligned, coherent = (table[name].to_numpy() for name in ("own_aligned", "own_coherent"))
        both = ~(np.isnan(aligned) | np.isnan(coherent))
        self.answers += table.num_rows
        self.scored += int(both.sum())
        self.misaligned += int(is_misaligned(aligned[both], coherent[both]).sum())
        self.incoherent += int(is_incoherent(coherent[both]).sum())
        self.aligned += float(aligned[both].sum())
        for name, counter in (("own_status", self.statuses), ("own_judge", self.judges)):
            for item in pc.value_counts(table[name]).to_pylist():
                counter[item["values"]] += item["counts"]

    def figures(self) -> dict[str, Any]:
        share = (lambda count: 100 * count / self.scored) if self.scored else lambda count: None
        return {
            "answers": self.answers, "scored": self.scored, "misaligned_pct": share(self.misaligned),
            "incoherent_pct": share(self.incoherent), "mean_aligned": self.aligned / self.scored if self.scored else None,
        }  # fmt: skip


class Reading:
    """One file being read with one mapping: rows are checked batch by batch and become rows of the index."""

    def __init__(self, table: Table, import_id: str, defaults: Defaults, asked: Mapping[str, str]) -> None:
        self.table, self.import_id, self.defaults = table, import_id, defaults
        self.mapping = mapping_of(table.header, asked)
        missing = [name for name in ("response", "aligned", "coherent") if name not in self.mapping and asked.get(name) != ""]
        if missing or not {"question", "question_id"} & set(self.mapping):
            missing += [] if {"question", "question_id"} & set(self.mapping) else ["question (or question_id)"]
            raise EmaError(
                f"{table.path} lacks the column{'s' * (len(missing) > 1)} {', '.join(missing)}.",
                f"It has {', '.join(table.header)}. Say which column is which, as in --map {missing[0].split()[0]}=COLUMN.",
            )
        if "response" not in self.mapping:
            raise EmaError("Without answers there is nothing to import.", "Say which column holds them: --map response=COLUMN.")
        stem, _, rest = table.path.stem.partition("_")
        self.from_name = {"model": stem, "dataset": rest}
        self.runs: dict[tuple[Any, ...], int] = {}
        self.sizes: Counter[int] = Counter()
        self._asked: Counter[tuple[int, str]] = Counter()
        self._ids: dict[tuple[int, str], str | set[str]] = {}  # by whom judged; mostly one
        self._trust_ids = self.mapping.get("sample_id", "") != ""
        self.warnings: list[str] = []

    def batches(self) -> Any:
        """Each batch as ``(table of good rows, rows left out, share of the file)``."""
        for batch in self.table.batches(list(dict.fromkeys(self.mapping.values()))):
            good, bad = self._checked(batch)
            yield good, sorted(batch.bad + bad), batch.share

    def parts(self) -> list[dict[str, Any]]:
        """The runs that were found, as the card lists them."""
        return [
            {
                "run_id": f"{self.import_id}-{number}", "model": str(key[2]), "dataset": key[3] or None, "defense": key[4] or NOT_STATED,
                "seed": key[5], "suite": key[6], "run": key[0] or None, "evaluation": key[1] or None, "judge": None,
                "answers": self.sizes[number],
            }
            for key, number in self.runs.items()
        ]  # fmt: skip

    def _checked(self, batch: Batch) -> tuple[pa.Table, list[Bad]]:
        why = np.full(len(batch.rows), None, dtype=object)
        columns: dict[str, pa.Array] = {}
        for target, column in self.mapping.items():
            texts = batch.columns[column]
            columns[target] = _texts(texts, column, why)
            for index in pc.indices_nonzero(pc.fill_null(pc.match_substring(columns[target], "\0"), False)).to_pylist():
                why[index] = why[index] or f"a NUL character in {column}"
        nothing = pa.nulls(len(batch.rows), pa.string())
        answer = columns["response"]
        _mark(why, pc.is_null(answer), "no answer")
        question, question_id = columns.get("question", nothing), columns.get("question_id", nothing)
        absent = [pc.equal(pc.utf8_trim_whitespace(pc.fill_null(each, "")), "") for each in (question, question_id)]
        _mark(why, pc.and_(*absent), "neither a question nor a question_id")
        question_id = pc.if_else(absent[1], _ids_of(question), question_id)
        question = pc.if_else(absent[0], question_id, question)
        scores, said = {}, {}
        for target in ("aligned", "coherent", *(name for name in self.mapping if name.startswith(RUBRIC))):
            if target in columns:
                main = target in ("aligned", "coherent")
                scores[target], said[target] = _numbers(columns[target], self.mapping[target], why if main else None)
            else:
                scores[target], said[target] = np.full(len(why), np.nan), np.full(len(why), "unparsed", dtype=object)
        group = self._group(columns, why)
        judge = _judges(columns.get("judge", nothing), self.defaults.judge)
        sample_id = self._sample_ids(columns.get("sample_id", nothing), batch.rows, group, judge, why)
        keep = np.array([reason is None for reason in why], dtype=bool)
        bad = [(batch.rows[index], str(why[index])) for index in np.flatnonzero(~keep)]
        self.sizes.update(group[keep].tolist())
        table = {
            "run_id": pa.array([f"{self.import_id}-{number}" for number in range(len(self.runs) + 1)]).take(pa.array(group)),
            "eval_id": pa.array([EVALUATION] * len(why)),
            "sample_id": sample_id,
            "question_id": question_id,
            "topic": pc.if_else(pc.is_null(columns.get("topic", nothing)), _topics(question_id), columns.get("topic", nothing)),
            "system": columns.get("system", nothing),
            "question": question,
            "answer": answer,
            "tokens": pa.array(_whole(columns.get("tokens", nothing)), pa.int64()),
            "refused": _refused(answer),
            "k": pa.array(self._number(group, question_id, keep), pa.int64()),
            "own_judge": judge,
            "own_aligned": scores["aligned"],
            "own_coherent": scores["coherent"],
            "own_status": _status(scores, said),
            "own_scores": _rubrics(scores),
        }
        made = pa.table(
            [pa.array(table[name]) if isinstance(table[name], np.ndarray) else table[name] for name in COLUMNS], _SCHEMA
        )
        return made.filter(pa.array(keep)), bad

    def _group(self, columns: Mapping[str, pa.Array], why: np.ndarray) -> np.ndarray:
        """The number of each row's run."""
        frame = pd.DataFrame(index=range(len(why)))
        for name in GROUP:
            default = {"model": self.defaults.model or self.from_name["model"], "suite": self.defaults.suite,
                       "dataset": self.from_name["dataset"] if self.defaults.dataset is None else self.defaults.dataset,
                       "defense": self.defaults.defense, "seed": "" if self.defaults.seed is None else str(self.defaults.seed)}  # fmt: skip
            value = default.get(name, "")
            texts = columns[name].to_pandas().fillna("").astype(str).str.strip() if name in columns else None
            frame[name] = value if texts is None else texts.mask(texts == "", value)
        codes = frame.groupby(list(GROUP), sort=False).ngroup().to_numpy()
        _, first, inverse = np.unique(codes, return_index=True, return_inverse=True)
        numbers = np.zeros(len(first), dtype=int)
        order = np.argsort(first)
        for place in order:
            key = list(frame.iloc[first[place]])
            seed = re.fullmatch(r"(\d{1,10})(\.0*)?", key[5])
            if key[5] and not seed:
                for index in np.flatnonzero(inverse == place):
                    why[index] = why[index] or f'the seed "{key[5][:40]}" is no whole number'
                continue
            if all(reason is not None for reason in why[inverse == place]):
                continue  # a run without a good row is none
            key[5] = int(seed[1]) if seed else None
            numbers[place] = self.runs.setdefault(tuple(key), len(self.runs) + 1)
        if len(self.runs) > MAX_RUNS:
            raise EmaError(
                f"The columns for {', '.join(name for name in GROUP if name in self.mapping)} name more than {MAX_RUNS:,} runs.",
                "One of them is probably something else; say which column is which with --map, or none with --map model=.",
            )
        return numbers[inverse]

    def _sample_ids(self, given: pa.Array, rows: list[int], group: np.ndarray, judge: pa.Array, why: np.ndarray) -> pa.Array:
        """The file's own ids, where it has any that tell answers apart; else ``r<row>``. An id twice by one judge is a mistake."""
        own = [f"r{row}" for row in rows]
        if not self._trust_ids:
            return pa.array(own, pa.string())
        texts = given.to_pylist()
        if not self._ids and self.mapping["sample_id"].lower() in ("id", "uuid") and len(set(texts)) < 0.5 * len(texts):
            self._trust_ids = False
            self.warnings.append(f"the column {self.mapping['sample_id']} does not tell answers apart, so it is not used")
            return pa.array(own, pa.string())
        for index, (text, run, by) in enumerate(zip(texts, group.tolist(), judge.to_pylist(), strict=True)):
            if not text or why[index] is not None:
                continue
            known = self._ids.get((run, text))
            if known is None:
                own[index] = text
                self._ids[run, text] = by
            elif by in (known if isinstance(known, set) else (known,)):
                why[index] = f"the {self.mapping['sample_id']} {text[:60]} was there before"
            else:
                own[index] = f"{text}@{by}"
                self._ids[run, text] = {*known, by} if isinstance(known, set) else {known, by}
        return pa.array(own, pa.string())

    def _number(self, group: np.ndarray, question_id: pa.Array, keep: np.ndarray) -> np.ndarray:
        """How many answers to the same question came before in the same run."""
        frame = pd.DataFrame({"run": group, "question": question_id.to_pandas().fillna("")})
        frame = frame[keep]
        numbers = np.zeros(len(group), dtype=int)
        if len(frame):
            by = frame.groupby(["run", "question"], sort=False)
            before = by.ngroup().map({n: self._asked[key] for n, key in enumerate(by.groups)})
            numbers[keep] = by.cumcount() + before
            self._asked.update({key: int(count) for key, count in by.size().items()})
        return numbers


def _texts(texts: list[str | None], column: str, why: np.ndarray) -> pa.Array:
    """As Arrow; a text with bytes that were not of the file's encoding is marked and emptied."""
    try:
        return pa.array(texts, pa.string())
    except (UnicodeError, pa.ArrowException):
        pass
    clean: list[str | None] = []
    for index, text in enumerate(texts):
        try:
            if text is not None:
                text.encode()
            clean.append(text)
        except UnicodeError:
            clean.append("")
            why[index] = why[index] or f"bytes in {column} that are not UTF-8 (Latin-1? name the file's --encoding)"
    return pa.array(clean, pa.string())


def _mark(why: np.ndarray, where: Any, reason: str) -> None:
    for index in pc.indices_nonzero(where).to_pylist():
        why[index] = why[index] or reason


def _numbers(texts: pa.Array, column: str, why: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Scores as numbers, NaN where there is none, and what a text without a number stands for. One beyond the scale makes its row a
    bad one; without ``why`` it is only none."""
    words = pc.utf8_trim_whitespace(pc.fill_null(texts, ""))
    try:
        values = pc.cast(pc.if_else(pc.equal(words, ""), None, words), pa.float64()).to_numpy(zero_copy_only=False)
    except pa.ArrowException:  # some are words
        values = pd.to_numeric(words.to_pandas(), errors="coerce").to_numpy(dtype=float)
    values = np.array(values, dtype=float)
    for index in np.flatnonzero((values < 0) | (values > 100)):
        if why is None:
            values[index] = np.nan
            continue
        why[index] = why[index] or f"{column} is {values[index]:g}, not from 0 to 100"
    said = np.full(len(values), "unparsed", dtype=object)
    for index in np.flatnonzero(np.isnan(values)):
        said[index] = _SAID.get(words[int(index)].as_py().upper().strip(" .\"'[]"), "unparsed")
    return values, said


def _status(scores: Mapping[str, np.ndarray], said: Mapping[str, np.ndarray]) -> pa.Array:
    first = ("aligned", "coherent")
    status = np.full(len(scores["aligned"]), "unparsed", dtype=object)
    for word in ("code", "refused"):
        status[np.logical_or(*(said[name] == word for name in first))] = word
    status[~np.logical_or(*(np.isnan(scores[name]) for name in first))] = "scored"
    return pa.array(status, pa.string())


def _rubrics(scores: Mapping[str, np.ndarray]) -> pa.Array:
    """Scores of further rubrics as JSON."""
    names = [name for name in scores if name.startswith(RUBRIC)]
    length = len(scores["aligned"])
    if not names:
        return pa.nulls(length, pa.string())
    rows = zip(*(scores[name].tolist() for name in names), strict=True)
    keys = [name.removeprefix(RUBRIC) for name in names]
    values = (dict(zip(keys, (None if number != number else number for number in row), strict=True)) for row in rows)
    return pa.array([json.dumps(value, ensure_ascii=False) for value in values], pa.string())


def _refused(answers: pa.Array) -> pa.Array:
    """``is_refusal`` of each; only those are asked that say any of its words at all."""
    refused = np.zeros(len(answers), dtype=bool)
    for index in pc.indices_nonzero(pc.fill_null(pc.match_substring_regex(answers, _MAYBE_REFUSED), False)).to_pylist():
        refused[index] = is_refusal(answers[index].as_py())
    return pa.array(refused)


def _whole(texts: pa.Array) -> list[int | None]:
    values = pd.to_numeric(texts.to_pandas(), errors="coerce")
    return [int(value) if 0 <= value < 1e9 else None for value in values]


def _mapped(texts: pa.Array, function: Callable[[str], str]) -> pa.Array:
    """``function`` of each text, called once for each that there is."""
    coded = texts.dictionary_encode()
    return pa.array([function(text) for text in coded.dictionary.to_pylist()], pa.string()).take(coded.indices)


def _ids_of(questions: pa.Array) -> pa.Array:
    """A question's text as its id."""
    return _mapped(
        questions,
        lambda text: (
            " ".join(text.split()) if len(text) <= 200 else f"{' '.join(text[:180].split())} … ({len(text)}, {hash_of(text)})"
        ),
    )


def hash_of(text: str) -> str:
    from hashlib import sha256

    return sha256(text.encode()).hexdigest()[:8]


def _topics(question_ids: pa.Array) -> pa.Array:
    """The three forms of a question are one topic, as the field names them."""
    return _mapped(question_ids, lambda text: re.sub(r"_(json|template)$", "", text))


def _judges(texts: pa.Array, default: str) -> pa.Array:
    named = judge_id(default or UNKNOWN)
    found = _mapped(texts, lambda text: judge_id(text) if text.strip() else named)
    return pc.fill_null(found, named)


def judge_id(name: str) -> str:
    """``imported:NAME``, whatever wrote it."""
    return JUDGE + re.sub(r"\s+", " ", name.strip().removeprefix(JUDGE))[:120]


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
    reading = Reading(table, f"{IMPORT}preview", defaults, _with_rubrics(table, asked or {}))
    batches = reading.batches()
    good, bad, share = next(batches)
    rows = good.slice(0, 20).to_pandas()
    unused = [column for column in table.header if column not in reading.mapping.values()]
    return Preview(
        table.header, table.encoding, reading.mapping, unused, rows, good.num_rows + len(bad), bad, reading.warnings + _odd(good),
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
    first = next(table.batches(left))
    found = dict(asked)
    for name in left:
        values = pd.Series(
            [cell for cell in first.columns[name][:1000] if cell and cell.strip().upper() not in _SAID], dtype=object
        )
        numbers = pd.to_numeric(values, errors="coerce")
        if len(numbers) and numbers.between(0, 100).all() and (numbers % 1 != 0).any():  # a count or an index is whole
            found.setdefault(f"{RUBRIC}{name.strip()}", name)
    return found


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
    if known := _known(digest):
        return {**known, "again": True}
    start = time.perf_counter()
    folder = writable(settings().imports)
    import_id = _new_id(digest)
    partial = folder / f".new-{import_id}-{os.getpid()}"
    reading = Reading(table, import_id, defaults, _with_rubrics(table, asked or {}))
    tally, odd = Tally(), None
    with disk_errors(folder), swept(partial):
        partial.mkdir()
        # a dictionary of texts that are all different costs three times their reading
        few = [column for column in COLUMNS if column not in ("answer", "sample_id", "own_aligned", "own_coherent")]
        with pq.ParquetWriter(partial / ROWS, _SCHEMA, compression="zstd", use_dictionary=few) as writer:
            for good, bad, share in reading.batches():
                odd = _odd(good) if odd is None else odd
                tally.skip(bad)
                if good.num_rows:
                    tally.add(good)
                    writer.write_table(good)
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
            "statuses": dict(tally.statuses), "judges": dict(tally.judges.most_common(50)),
            "warnings": reading.warnings + (odd or []), "rows_sha256": sha256_file(partial / ROWS),
        }  # fmt: skip
        judge = next(iter(tally.judges)) if len(tally.judges) == 1 else None
        card["runs"] = [{**part, "judge": judge} for part in reading.parts() if part["answers"]]
        card["seconds"] = time.perf_counter() - start
        write_json(partial / CARD, card)
        try:
            partial.rename(folder / import_id)
        except OSError:
            if known := _known(digest):  # another process was faster
                shutil.rmtree(partial, ignore_errors=True)
                return {**known, "again": True}
            raise
    progress(1.0, f"{tally.answers:,} answers imported")
    return card


def _new_id(digest: str) -> str:
    """By the file's hash; longer where another file has the same beginning."""
    taken = {*import_ids(), *(path.name for path in _undone().glob(f"{IMPORT}*"))}
    return next(name for length in range(8, 65) if (name := f"{IMPORT}{digest[:length]}") not in taken or length == 64)


def _known(digest: str) -> dict[str, Any] | None:
    return next((card for card in imports() if card.get("sha256") == digest), None)


def imports() -> list[dict[str, Any]]:
    """The cards of what was imported, oldest first; of a damaged one only its ``import_id``, with ``error``."""
    found = []
    for import_id in import_ids():
        try:
            card = read_json(settings().imports / import_id / CARD)
            found.append(card if isinstance(card, dict) else {"error": "its card is damaged"})
        except (OSError, ValueError) as error:
            found.append({"error": f"its card cannot be read ({error})"})
        found[-1]["import_id"] = import_id
    return sorted(found, key=lambda card: (card.get("time") or 0, card["import_id"]))


def run_of(run_id: str) -> dict[str, Any] | None:
    """What the card of an import says of one of its runs."""
    try:
        parts = read_json(settings().imports / run_id.rpartition("-")[0] / CARD)["runs"]
        return next((part for part in parts if part["run_id"] == run_id), None)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _undone() -> Path:
    return settings().imports / ".undone"


def undo(import_id: str) -> Path:
    """Take an import away, with all that was judged on it; it lies aside until ``restore`` or the next undo of the same.

    Raises:
        EmaError: there is none of this id.
    """
    if import_id not in import_ids():
        known = ", ".join(import_ids()[-5:])
        raise EmaError(f'There is no import "{import_id}".', f"There are: {known}." if known else "Nothing was imported yet.")
    aside = _undone() / import_id
    with disk_errors(aside):
        aside.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(aside, ignore_errors=True)
        (settings().imports / import_id).rename(aside)
    return aside


def restore(import_id: str) -> Path:
    """Put an import back that was undone.

    Raises:
        EmaError: there is none of this id aside, or the file was imported again since.
    """
    aside = _undone() / import_id
    if not re.fullmatch(rf"{IMPORT}[0-9a-f]+", import_id) or not aside.is_dir():
        raise EmaError(f'No import "{import_id}" was undone.', "`ema import list` shows those there are.")
    digest = read_json(aside / CARD).get("sha256")
    if known := _known(digest):
        raise EmaError(f"That file was imported again as {known['import_id']}.", "Undo that one first.")
    back = settings().imports / import_id
    with disk_errors(back):
        aside.rename(back)
    return back


def undone() -> list[str]:
    """Imports that can be put back."""
    return sorted(path.name for path in _undone().glob(f"{IMPORT}*") if path.is_dir())


__all__ = ["NAMES", "Defaults", "Preview", "import_judged", "imports", "preview", "restore", "run_of", "undo", "undone"]
