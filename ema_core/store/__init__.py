"""DuckDB as an index of the run directories: made from files, read by pages, deleted without loss."""

from ema_core.store.annotations import HUMAN, Annotation, annotate, reviewer_name, tag_name, undo
from ema_core.store.answers import ANNOTATED, CUT, ORDERS, PEOPLE, STATUSES, VERDICTS, AnswerFilter, AnswerKey, evaluation_key
from ema_core.store.export import export_csv, export_parquet
from ema_core.store.ingest import IndexReport, build_index, refresh
from ema_core.store.reader import Reader
from ema_core.store.reviews import BlindReview

__all__ = [
    "ANNOTATED",
    "CUT",
    "HUMAN",
    "ORDERS",
    "PEOPLE",
    "STATUSES",
    "VERDICTS",
    "Annotation",
    "AnswerFilter",
    "AnswerKey",
    "BlindReview",
    "IndexReport",
    "Reader",
    "annotate",
    "build_index",
    "evaluation_key",
    "export_csv",
    "export_parquet",
    "refresh",
    "reviewer_name",
    "tag_name",
    "undo",
]
