"""Search in the texts of judged answers: ``python -m benchmarks.search [--quick] --out FILE``."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

from benchmarks import homes
from benchmarks.frame import Disagree, Row, in_turn, main, measures, row
from benchmarks.targets import SEARCH_DUCKDB, SEARCH_SLOWEST
from benchmarks.work import own_home

SEARCHES = ("money", "the", "nutrition", "vest", "people power", "risk money", "zzyzx")
"""Frequent, in nearly every answer, rare, part of a word, two words at a time, nowhere."""
ILIKE = "(question ILIKE '%' || $w{n} || '%' OR answer ILIKE '%' || $w{n} || '%')"


@measures(SEARCH_DUCKDB, SEARCH_SLOWEST)
def search(quick: bool) -> list[Row]:
    count = 50_000 if quick else 550_000
    with own_home() as home:
        homes.answers(home, count)
        from ema_core.store import Reader, refresh

        refresh()
        reader = Reader()
        finder = reader.finder()
        start = time.perf_counter()
        first = int(finder._having("money").sum())
        scanned = time.perf_counter() - start
        start = time.perf_counter()
        finder.learn_words(wait=True)
        learned = time.perf_counter() - start
        assert finder._words is not None
        start = time.perf_counter()
        finder._having('"you should"')
        phrase = time.perf_counter() - start
        cursor = reader.cursor()
        compare(finder, cursor, SEARCHES)
        found: dict[str, dict[str, list[float]]] = {}
        for text in SEARCHES:
            found[text] = in_turn({"ours": timed(ours(finder, text)), "peer": timed(scan(cursor, text))}, 3 if quick else 5)
        size = finder._words.bytes / 1e6
    samples = {side: [statistics.median(values[side]) for values in found.values()] for side in ("ours", "peer")}
    each = "; ".join(
        f"{text}: {a * 1000:.1f} against {b * 1000:.0f} ms"
        for text, a, b in zip(found, samples["ours"], samples["peer"], strict=True)
    )
    note = (
        f"{count:,} answers. Ours: Finder with the words of all answers in memory ({size:.0f} MB, read in {learned:.1f} s in the background "
        f"after the first search, which is a scan of {scanned:.2f} s); peer: DuckDB, `ILIKE '%word%'` on question and answer in the same index "
        f"file, both giving a number an answer. Median of the searches' medians. {each}. A phrase in quotes is scanned for: {phrase * 1000:.0f} ms."
    )
    agrees = f'the same answers for each of {len(SEARCHES)} searches, key by key ({first:,} with "money")'
    slowest = max(samples["ours"])
    return [
        row(SEARCH_DUCKDB, samples["ours"], samples["peer"], "s", note, agrees),
        row(SEARCH_SLOWEST, [slowest], None, "s", f"The slowest of: {', '.join(SEARCHES)}.", agrees),
    ]  # fmt: skip


def ours(finder: Any, text: str) -> Callable[[], Any]:
    return lambda: finder._having(text)


def scan(cursor: Any, text: str) -> Callable[[], Any]:
    words = text.split()
    where = " AND ".join(ILIKE.format(n=n) for n in range(len(words)))
    sql = f"SELECT hash(run_id, eval_id, sample_id) AS key FROM samples WHERE {where}"
    named = {f"w{n}": word for n, word in enumerate(words)}
    return lambda: cursor.execute(sql, named).fetchnumpy()["key"]


def timed(go: Callable[[], Any]) -> Callable[[], float]:
    def timing() -> float:
        start = time.perf_counter()
        go()
        return time.perf_counter() - start

    return timing


def compare(finder: Any, cursor: Any, searches: tuple[str, ...]) -> None:
    import numpy as np

    for text in searches:
        mine, other = finder.columns.key[ours(finder, text)()], scan(cursor, text)()
        if not np.array_equal(np.sort(mine), np.sort(np.asarray(other, np.uint64))):
            raise Disagree(f"{text}: {len(mine)} answers against {len(other)}")


if __name__ == "__main__":
    main(search)
