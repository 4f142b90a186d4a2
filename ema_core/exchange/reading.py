"""A table of judged answers read batch by batch: each row is checked, and a good one becomes a row of the index."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from ema_core.datasets.refusal import REFUSAL_WORDS, is_refusal
from ema_core.errors import EmaError
from ema_core.exchange.tables import Bad, Batch, Table
from ema_core.files import sha256_bytes
from ema_core.judging.columns import RUBRIC, mapping_of
from ema_core.runs import IMPORT
from ema_core.store.imported import COLUMNS, EVALUATION
from ema_core.store.rows import NOT_STATED

MAX_RUNS = 2000
JUDGE = "imported:"
UNKNOWN = "unknown"
GROUP = ("run", "evaluation", "model", "dataset", "defense", "seed", "suite")
"""Rows that agree in all of these are one imported run."""
SAID = {"REFUSAL": "refused", "REFUSED": "refused", "REFUSE": "refused", "CODE": "code"}
_MAYBE_REFUSED = "(?i)" + "|".join(re.sub("['\\s]", ".", word.rpartition(" ")[2]) for word in REFUSAL_WORDS)
_KINDS = {"VARCHAR": pa.string(), "BIGINT": pa.int64(), "DOUBLE": pa.float64(), "BOOLEAN": pa.bool_()}
SCHEMA = pa.schema([(name, _KINDS[kind]) for name, kind in COLUMNS.items()])


@dataclass(frozen=True)
class Defaults:
    """What holds for every row, where no column says it. ``model`` and ``dataset`` None: as the file's name says."""

    judge: str = ""
    model: str | None = None
    dataset: str | None = None
    defense: str = ""
    seed: int | None = None
    suite: str = "general"


class Reading:
    """One file being read with one mapping: rows are checked batch by batch and become rows of the index. A judge that nobody named is
    one of this import alone; without an ``import_id``, in a preview, the two have no number yet."""

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
        self._ids: dict[tuple[int, str], tuple[int, str | set[str]]] = {}  # a hash of the texts, and by whom judged; mostly one
        self._trust_ids = self.mapping.get("sample_id", "") != ""
        self.warnings: list[str] = []
        self._unnamed = f"{UNKNOWN}-{import_id.removeprefix(IMPORT)}" if import_id else UNKNOWN

    def batches(self) -> Any:
        """Each batch as ``(table of answers, table of what further judges said of answers before, rows left out, share of the file)``."""
        for batch in self.table.batches(list(dict.fromkeys(self.mapping.values()))):
            good, further, bad = self._checked(batch)
            yield good, further, sorted(batch.bad + bad), batch.share

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

    def _checked(self, batch: Batch) -> tuple[pa.Table, pa.Table, list[Bad]]:
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
        judge = _judges(columns.get("judge", nothing), self.defaults.judge or self._unnamed)
        ids = columns.get("sample_id", nothing)
        sample_id, again = self._sample_ids(ids, batch.rows, group, judge, (question_id, question, answer), why)
        keep = np.array([reason is None for reason in why], dtype=bool)
        bad = [(batch.rows[index], str(why[index])) for index in np.flatnonzero(~keep)]
        further, keep = keep & again, keep & ~again
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
        made = pa.table([pa.array(table[name]) if isinstance(table[name], np.ndarray) else table[name] for name in COLUMNS], SCHEMA)
        return made.filter(pa.array(keep)), made.filter(pa.array(further)), bad

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

    def _sample_ids(
        self, given: pa.Array, rows: list[int], group: np.ndarray, judge: pa.Array, texts: tuple[pa.Array, ...], why: np.ndarray
    ) -> tuple[pa.Array, np.ndarray]:
        """The file's own ids, where it has any that tell answers apart; else ``r<row>``; and which rows are another judge's word on an
        answer that was there before. An id twice by one judge is a mistake; with another text it is another answer."""
        own, again = [f"r{row}" for row in rows], np.zeros(len(rows), dtype=bool)
        if not self._trust_ids:
            return pa.array(own, pa.string()), again
        ids = given.to_pylist()
        told = [
            each for each in zip(group.tolist(), judge.to_pylist(), ids, why.tolist(), strict=True) if each[2] and each[3] is None
        ]
        if (
            not self._ids and self.mapping["sample_id"].lower() in ("id", "uuid") and len(set(told)) < len(told)
        ):  # a question's, perhaps
            self._trust_ids = False
            self.warnings.append(f"the column {self.mapping['sample_id']} does not tell answers apart, so it is not used")
            return pa.array(own, pa.string()), again
        said = zip(*(each.to_pylist() for each in texts), strict=True)
        for index, (name, run, by, words) in enumerate(zip(ids, group.tolist(), judge.to_pylist(), said, strict=True)):
            if not name or why[index] is not None:
                continue
            text, known = hash(words), self._ids.get((run, name))
            if known is None:
                own[index] = name
                self._ids[run, name] = text, by
                continue
            first, judges = known
            judges = judges if isinstance(judges, set) else {judges}
            if by in judges:
                why[index] = f"the {self.mapping['sample_id']} {name[:60]} was there before"
                continue
            again[index] = text == first
            own[index] = name if again[index] else f"{name}@{by}"
            self._ids[run, name] = first, {*judges, by}
        return pa.array(own, pa.string()), again

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
        said[index] = SAID.get(words[int(index)].as_py().upper().strip(" .\"'[]"), "unparsed")
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
            " ".join(text.split())
            if len(text) <= 200
            else f"{' '.join(text[:180].split())} … ({len(text)}, {sha256_bytes(text.encode())[:8]})"
        ),
    )


def _topics(question_ids: pa.Array) -> pa.Array:
    """The three forms of a question are one topic, as the field names them."""
    return _mapped(question_ids, lambda text: re.sub(r"_(json|template)$", "", text))


def _judges(texts: pa.Array, default: str) -> pa.Array:
    named = judge_id(default)
    found = _mapped(texts, lambda text: judge_id(text) if text.strip() else named)
    return pc.fill_null(found, named)


def judge_id(name: str) -> str:
    """``imported:NAME``, whatever wrote it."""
    return JUDGE + re.sub(r"\s+", " ", name.strip().removeprefix(JUDGE))[:120]
