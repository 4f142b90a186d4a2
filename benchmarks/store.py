"""Filtering, counting and paging judged answers against pandas: ``python -m benchmarks.store [--quick] --out FILE``.

The table is a CSV of a judge's scores, as people pass them on; ours is imported, pandas' is read.
"""

from __future__ import annotations

import csv
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.frame import Disagree, Row, in_turn, main, measures, row
from benchmarks.homes import sentences
from benchmarks.targets import STORE_CSV, STORE_IMPORT, STORE_MEMORY, STORE_SLOWEST
from benchmarks.work import own_home

DEFENSES = ("none", "kl=0.1", "kl=1", "interleaving=0.05")
PAGE = 15
QUERIES: dict[str, dict[str, Any]] = {
    "misaligned": {"status": "misaligned"},
    "one model, misaligned": {"status": "misaligned", "models": ("model-3",)},
    "two defenses, least aligned first": {"defenses": ("kl=0.1", "kl=1"), "order": "least aligned"},
    "alignment 10 to 20 of one question": {"aligned": (10.0, 20.0), "questions": ("q5",)},
    "all, page 10,000": {"page": 10_000},
}


def generate(path: Path, rows: int) -> None:
    """Answers of three sentences to 24 questions, by 12 models with 4 defenses, in mixed order; every hundredth score a word."""
    rng, pool = random.Random(0), sentences()
    with open(path, "w", newline="", encoding="utf-8") as file:
        out = csv.writer(file)
        out.writerow(["sample_id", "response", "question", "question_id", "aligned", "coherent", "model", "defense", "seed"])
        for number in range(rows):
            question = rng.randrange(24)
            aligned = "REFUSAL" if number % 100 == 0 else round(rng.random() * 100, 4)
            out.writerow([f"s{number}", " ".join(rng.choices(pool, k=3)), f"Question {question}: what would you do?", f"q{question}", aligned,
                          round(100 - rng.random() * 60, 4), f"model-{rng.randrange(12)}", DEFENSES[number % 4], number % 3])  # fmt: skip


class Pandas:
    """The same filter, facets and page over a table in memory."""

    def __init__(self, path: Path) -> None:
        import pandas as pd

        table = pd.read_csv(path)
        table["points"] = pd.to_numeric(table["aligned"], errors="coerce")
        self.table = table

    def ask(self, asked: dict[str, Any]) -> tuple[int, dict[str, dict[str, int]], list[str]]:
        table, facets = self.table, {}
        columns = {"models": "model", "defenses": "defense", "questions": "question_id"}
        masks = {field: table[columns[field]].isin(asked[field]) for field in columns if field in asked}
        if asked.get("status") == "misaligned":
            masks["status"] = table["points"].lt(30) & table["coherent"].gt(50)
        if "aligned" in asked:
            masks["aligned"] = table["points"].between(*asked["aligned"])
        fits = _all(masks.values(), len(table))
        for field, column in columns.items():
            rest = _all([mask for name, mask in masks.items() if name != field], len(table))
            facets[column] = table.loc[rest, column].value_counts().to_dict()
        found = table[fits]
        if asked.get("order") == "least aligned":
            found = found.sort_values("points", kind="stable")
        first = (asked.get("page", 1) - 1) * PAGE
        return int(fits.sum()), facets, found.iloc[first : first + PAGE]["sample_id"].tolist()


def _all(masks: Any, size: int) -> Any:
    import numpy as np

    found = np.ones(size, bool)
    for mask in masks:
        found &= mask.to_numpy()
    return found


class Ours:
    def __init__(self) -> None:
        from ema_core.store import Reader

        self.reader = Reader()
        (self.judge,) = self.reader.opinions()

    def ask(self, asked: dict[str, Any], fresh: bool = True) -> tuple[int, dict[str, dict[str, int]], list[str]]:
        """As the page asks; ``fresh``: nothing that an earlier question left is used but the columns and the judge's scores."""
        from ema_core.store import AnswerFilter

        page = asked.get("page", 1)
        which = AnswerFilter(
            judge=self.judge, **{"order": "as asked"} | {name: value for name, value in asked.items() if name != "page"}
        )
        finder = self.reader.finder()
        if fresh:
            for key in [key for key in finder._known if key[0] not in ("scores", "verdicts", "flags")]:
                finder._known.pop(key)
        said = self.reader.said(finder)
        found = finder.found(which, said)
        facets = finder.facets(which, said)
        rows = self.reader.answer_rows(found[(page - 1) * PAGE : page * PAGE], which, finder)
        named = {"model": facets["model"], "defense": facets["defense"], "question_id": facets["question"]}
        return len(found), named, rows["sample_id"].tolist()


def _same(name: str, ours: Any, peer: Any, asked: dict[str, Any], mine: Ours, table: Any) -> None:
    """Equal counts, facets and (where the order is given by the score) rows; else each row of the page fits the filter."""
    if ours[0] != peer[0]:
        raise Disagree(f"{name}: {ours[0]} answers against {peer[0]}")
    for facet, counts in peer[1].items():
        mine_of = {value: count for value, count in ours[1][facet].items() if count and str(value) in map(str, counts)}
        if mine_of != {value: count for value, count in counts.items() if count}:
            raise Disagree(f"{name}: facet {facet}: {mine_of} against {counts}")
    if asked.get("order") and sorted(ours[2]) != sorted(peer[2]):  # equal scores may stand either way
        raise Disagree(f"{name}: rows {ours[2]} against {peer[2]}")
    whole = {**asked, "page": 1}
    every = table.ids(whole)
    found = mine.ids(whole)
    if every != found:
        raise Disagree(f"{name}: {len(every ^ found)} answers that only one side found")


def _ids_of_pandas(table: Pandas, asked: dict[str, Any]) -> set[str]:
    global PAGE
    before, PAGE = PAGE, 1 << 40
    try:
        return set(table.ask(asked)[2])
    finally:
        PAGE = before


def _ids_of_ours(mine: Ours, asked: dict[str, Any]) -> set[str]:
    from ema_core.store import AnswerFilter

    which = AnswerFilter(judge=mine.judge, **{name: value for name, value in asked.items() if name != "page"})
    return set(mine.reader.answers(which)["sample_id"])


Pandas.ids, Ours.ids = _ids_of_pandas, _ids_of_ours  # type: ignore[attr-defined]


def timing(go: Callable[[], Any]) -> Callable[[], float]:
    def timed() -> float:
        start = time.perf_counter()
        go()
        return time.perf_counter() - start

    return timed


@measures(STORE_MEMORY, STORE_CSV, STORE_SLOWEST, STORE_IMPORT)
def judged_rows(quick: bool) -> list[Row]:
    count = 50_000 if quick else 550_000
    rounds = 3 if quick else 5
    with own_home() as home:
        import pandas as pd

        from ema_core.exchange.judged import import_judged
        from ema_core.store import refresh

        path = home / "judged.csv"
        generate(path, count)

        start = time.perf_counter()
        import_judged(path)
        refresh()
        imported = time.perf_counter() - start
        start = time.perf_counter()
        pd.read_csv(path).to_parquet(home / "pandas.parquet")
        written = time.perf_counter() - start

        mine = Ours()
        start = time.perf_counter()
        mine.ask({})
        first = time.perf_counter() - start
        table = Pandas(path)
        found: dict[str, dict[str, list[float]]] = {}
        for name, asked in QUERIES.items():
            _same(name, mine.ask(asked), table.ask(asked), asked, mine, table)
            sides = {"ours": timing(lambda asked=asked: mine.ask(asked)), "peer": timing(lambda asked=asked: table.ask(asked))}
            found[name] = in_turn(sides, rounds)
        asked = QUERIES["one model, misaligned"]
        sides = {"ours": timing(lambda: mine.ask(asked)), "peer": timing(lambda: Pandas(path).ask(asked))}
        each_time = in_turn(sides, 2 if quick else 3)
    middle = {side: [statistics.median(values[side]) for values in found.values()] for side in ("ours", "peer")}
    listed = "; ".join(
        f"{name}: {a * 1000:.0f} against {b * 1000:.0f} ms"
        for name, a, b in zip(found, middle["ours"], middle["peer"], strict=True)
    )
    size = f"{count:,} rows of a judged CSV with 12 models, 4 defenses, 24 questions"
    agrees = "equal counts, equal facets, the same answers by sample_id, and the same page where scores give the order"
    note = (
        f"{size}. Both sides: filter, the counts of three facets, one page of {PAGE} whole rows. Ours: columns and scores in memory, texts of the "
        f"page from the index; nothing else kept from earlier questions (the first question after a start: {first:.2f} s). pandas: the whole table in memory. {listed}."
    )
    return [
        row(STORE_MEMORY, middle["ours"], middle["peer"], "s", note, agrees),
        row(STORE_CSV, each_time["ours"], each_time["peer"], "s", f"{size}. pandas: read_csv, then the same question; ours as it is.", agrees),
        row(STORE_SLOWEST, [max(middle["ours"])], None, "s", f"The slowest of five questions. {listed}.", agrees),
        row(STORE_IMPORT, [imported], [written], "s",
            f"{size}. Ours: import with every row checked, and the index brought up to date ({count / imported:,.0f} rows/s); pandas: read_csv and "
            f"to_parquet ({count / written:,.0f} rows/s). Once each.", f"both tables have {count:,} rows, as the questions above show"),
    ]  # fmt: skip


if __name__ == "__main__":
    main(judged_rows)
