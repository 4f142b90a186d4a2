"""DuckDB as an index of the run directories: made from files, read by pages, deleted without loss."""

from ema_core.store.answers import CUT, ORDERS, STATUSES, AnswerFilter, AnswerKey, evaluation_key
from ema_core.store.export import export_csv, export_parquet
from ema_core.store.ingest import IndexReport, build_index, refresh
from ema_core.store.reader import Reader

__all__ = [
    "CUT",
    "ORDERS",
    "STATUSES",
    "AnswerFilter",
    "AnswerKey",
    "IndexReport",
    "Reader",
    "build_index",
    "evaluation_key",
    "export_csv",
    "export_parquet",
    "refresh",
]
