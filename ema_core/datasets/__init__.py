"""Formats, validation, the catalog of data sets, chat encoding. Importing this package does not import torch."""

from ema_core.datasets.catalog import BUILT_IN, DatasetEntry, add, catalog, check, find, load
from ema_core.datasets.formats import Dataset, Example, Message, Problem, read_examples

__all__ = [
    "BUILT_IN",
    "Dataset",
    "DatasetEntry",
    "Example",
    "Message",
    "Problem",
    "add",
    "catalog",
    "check",
    "find",
    "load",
    "read_examples",
]
