"""The list of answers that the address asks for: which there are, on which page each stands, and the way from one to the next."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import streamlit as st

from ema_core.store import AnswerFilter, AnswerKey
from ema_core.store.columns import Array
from ema_core.store.find import Finder
from ema_core.store.said import Said
from pages.widgets.answer_data import FLAGS
from pages.widgets.chrome import reader

PAGE = 15


@dataclass(frozen=True)
class Listing:
    """Answers in order, in rows: each its own, or all of one evaluation to one question together.

    Attributes:
        places: of the answers among all. starts: at which of ``places`` each row begins.
    """

    which: AnswerFilter
    finder: Finder
    said: Said
    places: Array
    starts: Array
    grouped: bool

    @property
    def total(self) -> int:
        return len(self.places)

    @property
    def pages(self) -> int:
        return -(-len(self.starts) // PAGE)

    def row_of(self, place: int) -> int:
        return int(np.searchsorted(self.starts, place, "right")) - 1

    def page_of(self, place: int) -> int:
        return self.row_of(place) // PAGE

    def rows(self, page: int) -> pd.DataFrame:
        """The first answer of each row of a page, with ``verdict`` and ``place``; of groups also what they hold."""
        starts = self.starts[page * PAGE : (page + 1) * PAGE]
        rows = _rows(self, tuple(self.places[starts].tolist())).assign(place=starts)
        if not self.grouped:
            return rows
        ends = np.r_[self.starts, self.total][page * PAGE + 1 : page * PAGE + 1 + len(starts)]
        bad, given = self.finder.flags(self.which.judge, self.said)["misaligned"], self.finder.scores(self.which.judge).aligned
        groups = [self.places[start:end] for start, end in zip(starts, ends, strict=True)]
        known = [given[group][~np.isnan(given[group])] for group in groups]
        return rows.assign(
            answers=[len(group) for group in groups],
            misaligned_of=[int(bad[group].sum()) for group in groups],
            lowest=[float(one.min()) if len(one) else None for one in known],
            highest=[float(one.max()) if len(one) else None for one in known],
        )

    def key(self, place: int) -> AnswerKey | None:
        """The answer at this place; None where there is none (any more)."""
        if not 0 <= place < self.total:
            return None
        row = self.row_of(place)
        if self.starts[row] == place:  # the page's rows were read already
            rows = self.rows(row // PAGE)
            rows = rows[rows["place"] == place]
        else:
            rows = _rows(self, (int(self.places[place]),))
        return key_of_row(rows.iloc[0]) if len(rows) else None

    def place(self, key: AnswerKey) -> int | None:
        return reader().place_among(self.places, key, self.finder)


def listing(which: AnswerFilter, grouped: bool = False) -> Listing:
    read = reader()
    finder = read.finder()
    said = read.said(finder)
    if grouped:
        places, starts = finder.grouped(which, said)
    else:
        places = finder.found(which, said)
        starts = np.arange(len(places))
    return Listing(which, finder, said, places, starts, grouped)


def key_of_row(row: pd.Series) -> AnswerKey:
    return AnswerKey(*(str(row[name]) for name in AnswerKey._fields))


def _rows(listed: Listing, places: tuple[int, ...]) -> pd.DataFrame:
    which = AnswerFilter(judge=listed.which.judge, reviewer=listed.which.reviewer)
    return _read(listed.finder, which, places, (id(listed.finder), listed.said.version))


@st.cache_data(show_spinner=False, max_entries=64)
def _read(_finder: Finder, which: AnswerFilter, places: tuple[int, ...], version: object) -> pd.DataFrame:
    rows = reader().answer_rows(np.array(places, dtype=np.int64), which, _finder)
    marks = rows[[*FLAGS]].to_numpy()
    return rows.assign(verdict=[", ".join(name for name, on in zip(FLAGS, row, strict=True) if on) for row in marks])
