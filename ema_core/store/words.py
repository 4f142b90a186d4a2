"""Which answers have a word, from the words themselves: for each one the answers that have it, in memory.

A search for part of a word looks for it in the list of all words (some hundred thousand instead of all texts), then takes the answers of
those that have it: the same answers as a scan finds. It is made in the background and holds as long as no answer changes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ema_core.store.columns import Array, Columns
from ema_core.store.queries import queries

WORTH = 30_000
"""From so many answers on; fewer are scanned in some milliseconds."""
_SPACE = re.compile(r"[ \t\n\r\f\v]")  # what ascii_split_whitespace splits at


@dataclass(frozen=True)
class Words:
    """``places[starts[n]:starts[n + 1]]`` have word ``n`` of ``vocabulary`` in their answer; ``questions`` are the texts asked."""

    vocabulary: pa.Array
    starts: Array
    places: Array
    questions: pa.Array
    asked: Array

    @staticmethod
    def knows(term: str) -> bool:
        """A phrase is no part of any word."""
        return not _SPACE.search(term)

    @property
    def bytes(self) -> int:
        return int(self.vocabulary.nbytes + self.starts.nbytes + self.places.nbytes + self.questions.nbytes)

    def having(self, term: str) -> Array:
        """Which answers, in the columns' order, have ``term`` (in small letters, without spaces) in themselves or their question."""
        found = _has(self.questions, term)[self.asked]
        hit = _has(self.vocabulary, term)
        numbers = np.flatnonzero(hit)
        if len(numbers) < 2000:
            for number in numbers:
                found[self.places[self.starts[number] : self.starts[number + 1]]] = True
        else:
            found[self.places[np.repeat(hit, np.diff(self.starts))]] = True
        return found


def read_words(cursor: duckdb.DuckDBPyConnection, columns: Columns) -> Words:
    """From the texts of the index, some ten thousand at a time."""
    chunks, places, lengths = [], [], []
    for batch in cursor.execute(queries()["answer_texts"]).to_arrow_reader(50_000):
        at = columns.places(batch.column("key").to_numpy(zero_copy_only=False))
        texts = batch.column("said").filter(pa.array(at >= 0))
        parts = pc.ascii_split_whitespace(texts)
        chunks.append(parts.flatten().dictionary_encode())
        places.append(at[at >= 0].astype(np.int32))
        lengths.append(np.diff(parts.offsets.to_numpy()))
    if not chunks:
        chunks, places, lengths = [pa.array([], pa.string()).dictionary_encode()], [np.zeros(0, np.int32)], [np.zeros(0, np.int32)]
    together = pa.chunked_array(chunks).unify_dictionaries()
    del chunks
    vocabulary = together.chunk(0).dictionary
    codes = np.concatenate([chunk.indices.to_numpy() for chunk in together.chunks])
    starts, having = _turned(codes, np.concatenate(lengths), np.concatenate(places), len(vocabulary))
    asked = cursor.execute(queries()["question_texts"]).to_arrow_table()
    order = np.searchsorted(columns.questions["number"].to_numpy(), asked.column("number").to_numpy())
    texts = np.full(len(columns.questions), "", object)
    texts[order] = asked.column("said").to_pylist()
    return Words(vocabulary, starts, having, pa.array(texts.tolist(), pa.string()), columns.question)


def _turned(codes: Array, lengths: Array, places: Array, size: int) -> tuple[Array, Array]:
    """From the words of each answer to the answers of each word."""
    from scipy.sparse import csr_matrix

    rows = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=rows[1:])
    turned = csr_matrix((np.ones(len(codes), np.int8), codes, rows), (len(lengths), size)).tocsc()
    return turned.indptr, places[turned.indices]


def _has(texts: pa.Array, term: str) -> Array:
    return np.asarray(pc.fill_null(pc.match_substring(texts, term), False).to_numpy(zero_copy_only=False), bool)
