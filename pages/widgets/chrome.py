"""What every page shares: errors in plain words, escaped text, notices of callbacks, times and sizes in words."""

from __future__ import annotations

import re
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, Literal, ParamSpec

import streamlit as st
from streamlit.runtime.scriptrunner import get_script_run_ctx
from streamlit.runtime.scriptrunner_utils.script_run_context import ThreadState

from ema_core.errors import EmaError
from ema_core.runs import Status
from ema_core.settings import settings, writable
from ema_core.shared import enabled
from ema_core.store import Reader

Color = Literal["red", "orange", "blue", "green", "gray"]
P = ParamSpec("P")
INSIDE = "person-inside"
"""Of a session that came in by ``person.gate``."""
STATUS_COLORS: dict[Status, Color] = {
    Status.QUEUED: "gray",
    Status.RUNNING: "blue",
    Status.PAUSED: "orange",
    Status.STOPPED: "orange",
    Status.DONE: "green",
    Status.FAILED: "red",
    Status.INTERRUPTED: "red",
}


def header(title: str, lead: str = "", help: str | None = None) -> bool:
    """The page's title, one sentence below it (with ``help`` for a word in it), and what the last action has to say. True where one came from
    another page just now."""
    only_inside()
    arrived = st.session_state.get("page-shown") != title
    st.session_state["page-shown"] = title
    st.title(title, anchor=False)
    if lead:
        st.markdown(lead, help=help)
    notices()
    return arrived


def only_inside() -> None:
    """A page that was reached without app.py, where the way into a shared room stands, shows nothing."""
    if enabled() and not st.session_state.get(INSIDE):
        st.error("This room is entered by its first page.", icon=":material/lock:")
        st.stop()


def plain(text: object) -> str:
    """``text`` for a place that Streamlit reads as Markdown: shown as it is, nothing in it is rendered."""
    line = re.sub(r"([\\`*_{}\[\]#|~<>$:&@])", r"\\\1", re.sub(r"\s+", " ", str(text)).strip())
    return re.sub(r"^([-+])", r"\\\1", re.sub(r"^(\d+)([.)])", r"\1\\\2", line)).replace("www.", "www\\.")


@contextmanager
def errors() -> Iterator[None]:
    """An error inside is shown here in plain words, and what comes after the block still runs."""
    try:
        yield
    except Exception as error:
        show_error(*in_words(error))


def in_words(error: Exception) -> tuple[str, str]:
    """What happened and what to do. Anything but an ``EmaError`` goes to the log with its traceback."""
    if isinstance(error, EmaError):
        return error.message, error.hint
    try:
        log = writable(settings().logs) / "app.log"
        with open(log, "a", encoding="utf-8") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')}\n{''.join(traceback.format_exception(error))}\n")
    except (EmaError, OSError):
        return f"Something went wrong here: {type(error).__name__}.", "The log cannot be written; `ema doctor` says why."
    return f"Something went wrong here: {type(error).__name__}.", f"Nothing that was saved is lost. Details are in {log}."


def show_error(message: str, hint: str = "") -> None:
    st.error(plain(message) + (f"  \n{plain(hint)}" if hint else ""), icon=":material/error:")


def by_user(function: Callable[P, None]) -> Callable[P, None]:
    """A callback of a widget that the page, too, may set; it does not run where nobody touched the widget. The tick of another fragment
    brings the states of all widgets as the browser has them: one sent before the browser had what the page just set looks as if the user
    had set it back, in the words of before."""

    @wraps(function)
    def called(*args: P.args, **kwargs: P.kwargs) -> None:
        now = get_script_run_ctx(suppress_warning=True)
        if not now or not now.fragment_ids_this_run or ThreadState.get().fragment_id in now.fragment_ids_this_run:
            function(*args, **kwargs)

    return called


@by_user
def act(function: Callable[..., Any], *args: Any, slot: str = "page", rerun: bool = False, done: str = "") -> None:
    """A callback: ``on_click=act, args=(launch.resume, run)``. Its error, or ``done``, is shown at ``notices(slot)``.

    ``rerun`` reruns the whole page where the widget stands in a fragment.
    """
    key = f"notice-{slot}"
    try:
        function(*args)
        if done:
            st.session_state[key] = ("done", done, "")
    except Exception as error:
        st.session_state[key] = ("error", *in_words(error))
    if rerun:
        st.rerun()


def notices(slot: str = "page") -> None:
    """Show once what the last callback of this slot left."""
    kind, message, hint = st.session_state.pop(f"notice-{slot}", ("", "", ""))
    if kind == "error":
        show_error(message, hint)
    elif kind == "done":
        st.success(plain(message), icon=":material/check:")


@st.cache_resource(show_spinner=False)
def reader() -> Reader:
    """The index, opened once for all sessions (it opens anew when the file changes)."""
    return Reader()


def status_badge(status: Status, help: str | None = None) -> None:
    st.badge(str(status), color=STATUS_COLORS[status], help=help)


def duration(seconds: float) -> str:
    """``45 s``, ``3 min``, ``2 h 10 min``."""
    if seconds < 90:
        return f"{max(0, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def ago(when: float) -> str:
    seconds = time.time() - when
    if not when:
        return "at an unknown time"
    if seconds < 10:
        return "just now"
    return f"{duration(seconds)} ago" if seconds < 86_400 else time.strftime("%Y-%m-%d", time.localtime(when))


def size(count: float) -> str:
    """Bytes in words."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"
