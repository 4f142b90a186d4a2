"""The index as a page reads it: brought up to date, and a name for the version that was read."""

from __future__ import annotations

import streamlit as st

from ema_core import store
from ema_core.settings import settings

Version = tuple[str, int, int]
"""A cache key: changes whenever the index does."""


@st.cache_data(ttl=2, show_spinner=False)
def _refreshed(home: str) -> bool:
    store.refresh()
    return True


def up_to_date() -> Version:
    """Index what changed on disk, at most every two seconds a process, and name what there is now.

    Raises:
        EmaError: the index can be neither read nor made.
    """
    index = settings().index
    if not index.exists():
        _refreshed.clear()
    _refreshed(str(index))
    stat = index.stat()
    return str(index), stat.st_ino, stat.st_mtime_ns
