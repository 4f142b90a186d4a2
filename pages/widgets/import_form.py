"""A judged table from choosing the file to its import: which column is what, what would be taken, what would be left out and why."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pandas as pd
import streamlit as st

from ema_core.errors import EmaError
from ema_core.exchange import background
from ema_core.exchange.judged import Preview, import_judged, preview
from ema_core.exchange.reading import Defaults
from ema_core.exchange.tables import open_table
from ema_core.files import sha256_bytes, write_atomic
from ema_core.judging.columns import NAMES, mapping_of
from ema_core.settings import settings
from pages.widgets.chrome import act, in_words, plain, show_error
from pages.widgets.person import no_host

KEY = "import-judged"
MAIN = {"response": "Answer", "question": "Question", "question_id": "Question id", "aligned": "Alignment, 0 to 100",
        "coherent": "Coherence, 0 to 100"}  # fmt: skip
NONE = "(none)"
TICK = 0.7
COLUMNS = {"answer": "Answer", "question": "Question", "question_id": "Question id", "own_aligned": "Aligned", "own_coherent": "Coherent",
           "own_status": "Status", "own_judge": "Judge", "own_scores": "Other rubrics"}  # fmt: skip


def import_form() -> None:
    """Choose a file, look at it, import it."""
    if (work := background.look(KEY)) is not None:
        _under_way(work.over)
        if not work.over:
            return
    upload, by_path = st.columns(2)
    with upload:
        file = st.file_uploader(
            "A CSV, JSONL or Parquet file", ["csv", "tsv", "jsonl", "ndjson", "parquet"], key="import-upload",
            help="A row is an answer with its scores. Columns may have any names: you say below which is which.",
        )  # fmt: skip
    with by_path:
        text = st.text_input(
            "or its path on this machine", key="import-path", placeholder="/folder/judged.csv", disabled=file is not None or bool(no_host()),
            help=no_host() or "The better way for large files: nothing is sent through the browser.",
        )  # fmt: skip
        encoding = st.text_input(
            "Encoding",
            key="import-encoding",
            placeholder="seen by itself",
            help="utf-8 and utf-16 are; others, such as latin-1, are named here.",
        )
    if file is not None:
        path, name = _kept(file.name, file.getvalue()), file.name
    elif text.strip() and not no_host():
        path = Path(text.strip()).expanduser()
        name = path.name
    else:
        st.caption("Nothing is added before you have seen what would be taken, and an import can be undone as a whole.")
        return
    try:
        _look(path, name, encoding.strip() or None)
    except EmaError as error:
        show_error(*in_words(error))


def _kept(name: str, data: bytes) -> Path:
    """An upload as a file, under its hash: the import reads it by parts."""
    path = settings().cache / "uploads" / f"{sha256_bytes(data)[:16]}{Path(name).suffix.lower()}"
    if not path.exists():
        write_atomic(path, data)
    return path


def _look(path: Path, name: str, encoding: str | None) -> None:
    table = open_table(path, encoding)
    stat = path.stat()
    version = (str(path), stat.st_size, stat.st_mtime_ns, encoding)
    asked = _mapping(table.header, f"{abs(hash(version)):x}")
    defaults = _defaults(Path(name).stem)
    try:
        found = _preview(str(path), name, tuple(sorted(asked.items())), defaults, version)
    except EmaError as error:
        show_error(*in_words(error))
        return
    _show(found)
    st.button(
        "Import", type="primary", icon=":material/download_done:", key="import-start", on_click=act,
        args=(_start, path, name, asked, defaults, encoding), kwargs={"slot": "imports"},
    )  # fmt: skip


@st.cache_data(show_spinner=False, max_entries=8)
def _preview(path: str, name: str, asked: tuple[tuple[str, str], ...], defaults: Defaults, version: tuple[object, ...]) -> Preview:
    return preview(Path(path), dict(asked), defaults, version[-1], name)  # type: ignore[arg-type]


def _mapping(header: list[str], key: str) -> dict[str, str]:
    """Which column is what: as guessed, until someone says otherwise."""
    guess = mapping_of(header)
    st.markdown("**Which column is what**")
    options = [NONE, *header]
    asked: dict[str, str] = {}

    def choose(target: str, label: str) -> None:
        chosen = st.selectbox(
            label, options, index=options.index(guess.get(target, NONE)), key=f"map-{target}-{key}",
            help=f"Taken by itself: {', '.join(NAMES[target])}.",
        )  # fmt: skip
        if chosen != guess.get(target, NONE):
            asked[target] = "" if chosen == NONE else chosen

    for column, (target, label) in zip(st.columns(len(MAIN)), MAIN.items(), strict=True):
        with column:
            choose(target, label)
    more = [target for target in NAMES if target not in MAIN]
    known = [f"{target}: {guess[target]}" for target in more if target in guess]
    with st.expander(plain(f"More columns{': ' + ', '.join(known) if known else ''}"), key="import-more-columns"):
        for start in range(0, len(more), 4):
            for column, target in zip(st.columns(4), more[start : start + 4], strict=False):
                with column:
                    choose(target, target.replace("_", " ").capitalize())
    return asked


def _defaults(stem: str) -> Defaults:
    """What holds for every row where no column says it."""
    model, _, dataset = stem.partition("_")
    with st.expander("Where no column says it: judge, model, data set, defense, seed", key="import-defaults"):
        first, second, third, fourth, fifth = st.columns(5)
        judge = first.text_input("Judge", key="import-judge", placeholder="unknown", help="Stored as imported:NAME.")
        named = second.text_input(
            "Model", key="import-model", placeholder=model, help="By default the file's name up to its first _."
        )
        data = third.text_input("Data set", key="import-dataset", placeholder=dataset or "not stated")
        defense = fourth.text_input("Defense", key="import-defense", placeholder="not stated")
        seed = fifth.number_input("Seed", 0, 2**31 - 1, value=None, key="import-seed", placeholder="not stated")
    return Defaults(judge.strip(), named.strip() or None, data.strip() or None, defense.strip(), seed)


def _show(found: Preview) -> None:
    """The first rows as they would be read, and what would be left out."""
    st.markdown("**The first rows, as they would be imported**")
    rows = found.rows[list(COLUMNS)].rename(columns=COLUMNS)
    if rows["Other rubrics"].isna().all():
        rows = rows.drop(columns="Other rubrics")
    st.dataframe(
        rows,
        hide_index=True,
        key="import-preview",
        height=min(35 * len(rows) + 38, 320),
        placeholder="",
        column_config={
            "Answer": st.column_config.TextColumn("Answer", width=380),
            "Question": st.column_config.TextColumn("Question", width=200),
        },
    )
    every = "all" if found.whole else "the first"
    good = found.looked_at - len(found.bad)
    st.markdown(f"Of {every} {found.looked_at:,} rows **{good:,}** would be taken, **{len(found.bad):,}** left out.")
    if found.bad:
        count = Counter(reason for _, reason in found.bad)
        with st.expander(f"Left out: {len(found.bad):,} rows", key="import-left-out", expanded=good == 0):
            st.dataframe(pd.DataFrame(found.bad[:100], columns=["Row", "Reason"]), hide_index=True, key="import-bad")
            if len(found.bad) > 100:
                st.caption(plain(f"The first 100; most often: {count.most_common(1)[0][0]}"))
    notes = [f"not used: {', '.join(found.unused)}"] if found.unused else []
    for note in (*notes, *found.warnings):
        st.caption(plain(note[:1].upper() + note[1:]))


def _start(path: Path, name: str, asked: dict[str, str], defaults: Defaults, encoding: str | None) -> None:
    background.start(
        KEY, name, lambda progress: import_judged(path, asked, defaults, encoding, progress=progress, name=name)
    )  # fmt: skip


@st.fragment(run_every=TICK)
def _going_on() -> None:
    work = background.look(KEY)
    if work is None or work.over:
        st.rerun()
    else:
        st.progress(min(1.0, work.share), text=plain(f"{work.what}: {work.words}"))


def _under_way(over: bool) -> None:
    """How far the import is, or how it ended."""
    if not over:
        _going_on()
        return
    work = background.look(KEY)
    if work is None:
        return
    background.forget(KEY)
    if work.error:
        show_error(work.error, work.hint)
    elif work.result is not None:
        card = work.result
        if card.get("again"):
            st.info(plain(f"{work.what} was imported before as {card['import_id']}: nothing was added."), icon=":material/check:")
        else:
            text = f"{card['answers']:,} answers of {work.what} imported, {card['skipped']:,} rows left out."
            st.success(plain(text), icon=":material/check:")
