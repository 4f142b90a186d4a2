"""Recorded studies on the pages: put there on first open, named wherever they are looked at, taken away with one click."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import streamlit as st

from ema_core import store
from ema_core.errors import EmaError
from ema_core.exchange import recorded
from ema_core.jobs import launch
from ema_core.settings import PROJECT, settings
from pages.widgets.chrome import act, errors, notices, plain

BARE = "It is here without its adapter: it can be read and compared, but not asked or evaluated again."


def unpack() -> None:
    """What comes with the project is put into this home, once a home and once a process."""
    with errors():
        _unpacked(str(settings().home), str(settings().recorded))


@st.cache_resource(show_spinner="Unpacking the recorded study …")
def _unpacked(home: str, folder: str) -> bool:
    if recorded.ensure():  # indexed while the first page is read
        threading.Thread(target=_index, daemon=True).start()
    return True


def _index() -> None:
    with suppress(EmaError, OSError):
        store.refresh()


def recorded_note(names: Sequence[str]) -> None:
    """A line that says whose runs these are; nothing where ``names`` is empty."""
    known = recorded.here()
    for name in names:
        about = known.get(name, {}).get("about", {})
        what = facts(about)
        text = f"**Recorded**: {plain(about.get('title') or name)}" + (f", {plain(what)}" if what else "")
        st.caption(f":material/inventory_2: {text}. Run elsewhere, without its adapters: to be read and compared, not to be asked.")


def facts(about: dict[str, Any]) -> str:
    """``20 runs, 10 settings × 2 seeds, 25 November 2026``; nothing of what is not known."""
    try:
        when = time.strftime("%d %B %Y", time.gmtime(about["to"])).lstrip("0")
        seeds = len(about["seeds"])
        return f"{about['runs']} runs, {about['settings']} settings × {seeds} seed{'s' if seeds != 1 else ''}, {when}"
    except (KeyError, TypeError, ValueError, OverflowError, OSError):
        return ""


def recorded_studies(first: bool) -> None:
    """On Home: each recorded study, what is in it and the ways into it; ``first``: there is nothing else to look at yet, so
    the first one says what a recorded study is."""
    here = recorded.here()
    for name, entry in here.items():
        with errors():
            _study(name, entry, first and name == next(iter(here)))
    for name, entry in recorded.entries().items():
        if entry["state"] == recorded.REMOVED and name in recorded.shipped():
            with st.container(horizontal=True, vertical_alignment="center", key=f"recorded-gone-{name}"):
                st.caption(f"The recorded study {plain(entry['about'].get('title') or name)} was removed.", width="content")
                st.button(
                    "Add it again", key=f"recorded-add-{name}", type="tertiary", on_click=act, args=(recorded.add, name),
                    kwargs={"slot": "recorded", "done": "It is here again."},
                )  # fmt: skip
        elif entry["state"] == recorded.LEFT_OUT:
            st.caption(plain(entry.get("why", "")))
    notices("recorded")


def _study(name: str, entry: dict[str, Any], first: bool) -> None:
    about = entry["about"]
    origin = f"recorded: {name}"
    with st.container(border=True, key=f"recorded-{name}"):
        with st.container(horizontal=True, vertical_alignment="center", gap="small"):
            st.badge("recorded", color="violet", icon=":material/inventory_2:")
            st.markdown(f"**{plain(about.get('title') or name)}**", width="content")
            st.caption(plain(facts(about)), width="content")
        if first:
            st.markdown(
                "These runs were trained, evaluated and judged elsewhere and came with EMA Lab, so that there is something to look at before you "
                "train: **no model is needed for them**. They hold no adapters, so nobody can chat with them; they never mix with runs of yours."
            )
        if said := _content(about):
            st.caption(plain(said))
        with st.container(horizontal=True, vertical_alignment="center", gap="medium", key=f"recorded-ways-{name}"):
            st.page_link(
                "pages/compare.py", label="Its scorecard", icon=":material/compare_arrows:", query_params={"origin": origin}
            )
            st.page_link(
                "pages/samples.py",
                label="Worst undefended answers",
                icon=":material/forum:",
                query_params={"origin": origin, "defense": "none"},
            )
            for study in entry["studies"]:
                st.page_link("pages/studies.py", label="Its runs", icon=":material/grid_view:", query_params={"study": study})
            if (PROJECT / "pages" / "learn.py").is_file():
                st.page_link("pages/learn.py", label="Take the tour", icon=":material/school:")
            with st.popover("Remove", icon=":material/delete:", key=f"recorded-remove-{name}", type="tertiary"):
                st.text(f"Take these {len(entry['runs'])} recorded runs away? Runs of your own stay.")
                st.button(
                    "Remove", key=f"recorded-really-{name}", type="primary", on_click=act, args=(launch.remove_recorded, name),
                    kwargs={"slot": "recorded"},
                )  # fmt: skip


def _content(about: dict[str, Any]) -> str:
    """What was run, and by whom it was judged."""
    try:
        judges = ", ".join(about["judges"]) or "nobody"
        defenses = [one for one in about["defenses"] if one != "none"]
        return (
            f"{', '.join(about['models'])} trained on {', '.join(about['datasets'])}, undefended and with {len(defenses)} defenses "
            f"({', '.join(defenses)}); {about['answers']:,} answers, judged by {judges}."
        )
    except (KeyError, TypeError, ValueError):
        return ""
