"""Help texts of the field's words, for ``help=`` where a word first appears."""

from __future__ import annotations

import streamlit as st

from ema_core.tour import read_terms
from pages.widgets.chrome import plain


def term(name: str) -> str:
    """What the word means and where to read more."""
    found = read_terms()[name]
    return f"**{plain(found.title)}**: {plain(found.text)}  \n:small[{plain(found.where)}]"


def glossary() -> None:
    """All words, by the alphabet."""
    for found in sorted(read_terms().values(), key=lambda one: one.title.lower()):
        st.markdown(f"**{plain(found.title)}**: {plain(found.text)} :small[:gray[{plain(found.where)}]]")
