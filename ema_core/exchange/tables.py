"""Rows of a CSV, JSONL or Parquet file in batches, with the row and the reason where one cannot be read. Memory stays bounded."""

from __future__ import annotations

import codecs
import csv
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from ema_core.errors import EmaError

BATCH_ROWS = 20_000
BATCH_CHARACTERS = 32_000_000
MAX_CHARACTERS = 1_000_000
"""Of a row. An answer is some hundred words; beyond this a row is no answer but an accident."""
_MAX_CELL = 16_000_000  # where the reader gives a cell up, so that a quotation mark that is never closed does not eat the memory
_AT_ONCE = 64  # rows of a CSV file that are taken without a look at each
_LOOK = 1000  # lines of a JSONL file that are looked at for its columns
_BOMS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32",
         codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}  # fmt: skip

Bad = tuple[int, str]
"""A row's number and why it is left out."""


@dataclass
class Batch:
    """Some rows: their numbers, a list of texts (or None) a column, and the rows among them that could not be read.

    Rows count from 1, after a CSV's header; in a JSONL file they are its lines.
    """

    rows: list[int]
    columns: dict[str, list[str | None]]
    bad: list[Bad] = field(default_factory=list)
    share: float = 0.0
    """Of the file that has been read."""


@dataclass(frozen=True)
class Table:
    """A file whose header is known. ``batches(columns)`` reads it from its beginning, only these columns."""

    path: Path
    header: list[str]
    encoding: str
    batches: Callable[[list[str]], Iterator[Batch]]


def open_table(path: Path, encoding: str | None = None) -> Table:
    """Look at the beginning of a file.

    Raises:
        EmaError: it is missing, empty, or of no kind that is read here.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(65536)
    except FileNotFoundError:
        raise EmaError(f"There is no file {path}.", "Name a CSV, JSONL or Parquet file of judged answers.") from None
    except OSError as error:
        raise EmaError(f"{path} cannot be read ({error.strerror}).", "Name a file that can be.") from None
    if not start.strip(b" \t\r\n\x00\xef\xbb\xbf\xff\xfe"):
        raise EmaError(f"{path} is empty.", "Name a file with a header and at least one row.")
    if start.startswith(b"PAR1"):
        return _parquet(path)
    encoding = _encoding(start, encoding)
    text = codecs.getincrementaldecoder(encoding)("surrogateescape" if encoding.startswith("utf-8") else "replace").decode(start)
    if path.suffix.lower() in (".jsonl", ".ndjson", ".json") or (path.suffix.lower() != ".csv" and text.lstrip().startswith("{")):
        if text.lstrip().startswith("["):
            raise EmaError(f"{path} is one JSON array.", "Write one JSON object a line (JSONL), or a CSV file.")
        return _jsonl(path, encoding)
    if start.startswith((b"PK\x03\x04", b"\x1f\x8b", b"%PDF")):
        raise EmaError(f"{path} is packed, not a table of text.", "Unpack it, or save it as CSV.")
    return _csv(path, encoding, text)


def _encoding(start: bytes, asked: str | None) -> str:
    if asked:
        try:
            return codecs.lookup(asked).name
        except LookupError:
            raise EmaError(f'There is no encoding "{asked}".', "Try utf-8, latin-1, cp1252 or utf-16.") from None
    for mark, name in _BOMS.items():
        if start.startswith(mark):
            return name
    for name, zeros in (("utf-16-le", start[1::2]), ("utf-16-be", start[::2])):  # without a mark: every other byte of English is 0
        if len(zeros) > 8 and zeros.count(0) > 0.4 * len(zeros):
            return name
    return "utf-8"


class _Text:
    """The file as text; what is not of its encoding can be told row by row (``surrogateescape``)."""

    def __init__(self, path: Path, encoding: str) -> None:
        self.raw: BinaryIO = open(path, "rb", buffering=1 << 20)  # noqa: SIM115
        errors = "surrogateescape" if encoding.startswith("utf-8") else "replace"
        self.text = io.TextIOWrapper(self.raw, encoding, errors, newline="")
        self.size = max(1, path.stat().st_size)

    def __enter__(self) -> _Text:
        return self

    def __exit__(self, *error: object) -> None:
        self.text.close()

    @property
    def share(self) -> float:
        return min(1.0, self.raw.tell() / self.size)


def _csv(path: Path, encoding: str, start: str) -> Table:
    first = start.lstrip("\ufeff").split("\n", 1)[0]
    delimiter = max(",;\t", key=lambda each: len(next(csv.reader([first], delimiter=each), [])))

    def reader(text: io.TextIOWrapper) -> Iterator[list[str]]:
        csv.field_size_limit(_MAX_CELL)
        return csv.reader(text, delimiter=delimiter)

    with _Text(path, encoding) as opened:
        try:
            names = next(row for row in reader(opened.text) if row)
        except (StopIteration, csv.Error):
            raise EmaError(f"{path} has no header.", "Its first line names the columns.") from None
    header = [name.strip().lstrip("\ufeff") for name in names]
    if any(not name.isprintable() for name in header):
        raise EmaError(f"{path} does not begin with a line of column names.", "Save it as CSV in UTF-8, or name its --encoding.")

    def batches(columns: list[str]) -> Iterator[Batch]:
        places = [header.index(name) for name in columns]
        width, batch, characters = len(header), Batch([], {}), 0
        found: list[list[str]] = []

        def full() -> Batch:
            turned = list(zip(*found, strict=True)) if found else [()] * width
            batch.columns = {name: list(turned[place]) for name, place in zip(columns, places, strict=True)}
            batch.share = opened.share
            return batch

        with _Text(path, encoding) as opened:
            rows = reader(opened.text)
            while not next(rows):
                pass  # empty lines before the header
            last, ended = 0, False
            while not ended:
                some: list[list[str]] = []
                broken = ""
                try:
                    some.extend(islice(rows, _AT_ONCE))
                    ended = len(some) < _AT_ONCE
                except csv.Error as error:  # what came before it is there
                    cell = "a cell is too long; a quotation mark before it may not be closed"
                    broken = cell if "limit" in str(error) else f"not readable as CSV ({error})"
                numbers = range(last + 1, last + len(some) + 1)
                size = sum(map(len, chain.from_iterable(some)))
                if size > MAX_CHARACTERS or set(map(len, some)) - {width}:
                    kept = [
                        (number, row) for number, row in zip(numbers, some, strict=True) if not _odd(row, width, number, batch.bad)
                    ]
                    found += [row for _, row in kept]
                    batch.rows += [number for number, _ in kept]
                    size = sum(len(cell) for _, row in kept for cell in row)
                else:
                    found += some
                    batch.rows += numbers
                last += len(some)
                if broken:
                    last += 1
                    batch.bad.append((last, broken))
                characters += size
                if len(found) >= BATCH_ROWS or characters >= BATCH_CHARACTERS:
                    yield full()
                    found, batch, characters = [], Batch([], {}), 0
            yield full()

    return Table(path, header, encoding, batches)


def _odd(row: list[str], width: int, number: int, bad: list[Bad]) -> bool:
    """Whether a row cannot be used; the reason goes to ``bad``, but for an empty line."""
    if len(row) != width:
        if row:
            bad.append((number, _ragged(row, width)))
        return True
    if (size := sum(map(len, row))) > MAX_CHARACTERS:
        bad.append((number, _too_long(size)))
        return True
    return False


def _ragged(row: list[str], width: int) -> str:
    quote = "; a quotation mark may not be closed" if any("\n" in cell for cell in row) else ""
    return f"{len(row)} cells where the header has {width}{quote}"


def _too_long(size: int) -> str:
    return f"{size:,} characters; {MAX_CHARACTERS:,} are the most"


def _jsonl(path: Path, encoding: str) -> Table:
    with _Text(path, encoding) as opened:
        header: dict[str, None] = {}
        for line in islice(opened.text, _LOOK):
            try:
                value = json.loads(line) if len(line) <= MAX_CHARACTERS else None
            except ValueError:
                continue
            header |= dict.fromkeys(value) if isinstance(value, dict) else {}
    if not header:
        raise EmaError(f"{path} holds no JSON object a line.", "Write one JSON object a line, or a CSV file with a header.")

    def batches(columns: list[str]) -> Iterator[Batch]:
        batch, characters = Batch([], {name: [] for name in columns}), 0
        with _Text(path, encoding) as opened:
            for number, line in enumerate(opened.text, 1):
                if len(line) > MAX_CHARACTERS:
                    batch.bad.append((number, _too_long(len(line))))
                    continue
                if not line.strip():
                    continue
                try:
                    value = json.loads(line)
                except (ValueError, RecursionError) as error:
                    batch.bad.append((number, f"not JSON ({getattr(error, 'msg', error)})"))
                    continue
                if not isinstance(value, dict):
                    batch.bad.append((number, "not a JSON object"))
                    continue
                for name in columns:
                    cell = value.get(name)
                    batch.columns[name].append(cell if cell is None or type(cell) is str else _told(cell))
                batch.rows.append(number)
                characters += len(line)
                if len(batch.rows) >= BATCH_ROWS or characters >= BATCH_CHARACTERS:
                    batch.share = opened.share
                    yield batch
                    batch, characters = Batch([], {name: [] for name in columns}), 0
            batch.share = 1.0
            yield batch

    return Table(path, list(header), encoding, batches)


def _told(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list | bool) else str(value)


def _parquet(path: Path) -> Table:
    hint = "Write it again, or save it as CSV."
    try:
        header = pq.read_schema(path).names
    except (OSError, pa.ArrowException) as error:
        raise EmaError(f"{path} cannot be read as Parquet ({error}).", hint) from None

    def batches(columns: list[str]) -> Iterator[Batch]:
        try:
            with pq.ParquetFile(path) as file:
                total, done = max(1, file.metadata.num_rows), 0
                for part in file.iter_batches(BATCH_ROWS // 4, columns=columns):
                    values = {name: part.column(name).to_pylist() for name in columns}
                    rows = range(done + 1, done + part.num_rows + 1)
                    done += part.num_rows
                    texts = {
                        name: [v if v is None or type(v) is str else _told(v) for v in column] for name, column in values.items()
                    }
                    sizes = [sum(len(cell or "") for cell in row) for row in zip(*texts.values(), strict=True)]
                    long = [index for index, size in enumerate(sizes) if size > MAX_CHARACTERS]
                    bad = [(rows[index], _too_long(sizes[index])) for index in long]
                    keep = [index for index in range(len(sizes)) if sizes[index] <= MAX_CHARACTERS]
                    if long:
                        texts = {name: [column[index] for index in keep] for name, column in texts.items()}
                    yield Batch([rows[index] for index in keep], texts, bad, done / total)
        except (OSError, pa.ArrowException) as error:
            raise EmaError(f"{path} cannot be read as Parquet ({error}).", hint) from None

    return Table(path, header, "parquet", batches)
