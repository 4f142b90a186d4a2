"""Addresses of answers: a number anywhere leads to the list it counted. What a parameter means is said in one place."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import urlencode

import streamlit as st

from ema_core.store import evaluation_key

FILTERS = (
    "q", "run", "suite", "status", "judge", "order", "setting", "model", "dataset", "defense", "method", "strength", "origin", "name", "question",
    "eval", "aligned", "coherent", "annotated", "verdict", "tag", "against", "apart", "differ", "sample", "seed",
)  # fmt: skip
PARAMETERS = (*FILTERS, "view", "page", "answer")
"""What an address of Samples may say of its list; lists are repeated. Beside them ``reviewer``, ``veil`` and ``blind``."""


def address(path: str, **query: object) -> str:
    """A page's address with the app's own root before it, for links in tables; empty parts are left out."""
    base = str(st.get_option("server.baseUrlPath") or "").strip("/")
    root = f"/{base}" if base else ""
    said = urlencode({name: value for name, value in query.items() if value}, doseq=True)
    return f"{root}/{path}" + (f"?{said}" if said else "")


def counted(evals: Iterable[tuple[str, str]], judge: str, status: str = "", order: str = "") -> str:
    """The answers that a number of Compare counted: of these evaluations, by this judge's scores. Empty where there are none."""
    keys = [evaluation_key(*found) for found in evals]
    return address("samples", eval=keys, judge=judge, status=status, order=order) if keys else ""
