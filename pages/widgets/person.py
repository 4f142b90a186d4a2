"""Who is at this browser, in a shared room: the way in, what the sidebar says of them, and why something is not theirs to do.

Whoever acts is asked for in ``ema_core`` again, where it is done; what stands here keeps buttons from promising what is refused. Without
shared mode every function does nothing and allows all.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import streamlit as st
from streamlit.runtime.scriptrunner import get_script_run_ctx

from ema_core.errors import EmaError
from ema_core.jobs import fair, launch, queue
from ema_core.runs import RunSpec
from ema_core.shared import Person, codes, current, enabled, identify_by, people, room, said_owner, why_not
from ema_core.shared.limits import own_words
from pages.widgets.chrome import INSIDE, Color, act, duration, errors, in_words, notices, plain, show_error
from pages.widgets.identity import providers, sign_in, sign_out, signed_in

PERSON, CODE, LOOKING, IN, FORGET = "person", "person-code", "person-looking", "person-in-room", "person-forget"
ANSWER_SECONDS = 5.0
LOCAL = {"localhost", "127.0.0.1", "::1"}
LEAD = "This machine is shared: runs, chats and verdicts stand under your name, and the queue turns from person to person."
PRIVACY = "A first name or a pseudonym: everybody in the room reads it."
_keeper = st.components.v2.component(
    "ema_person_keeper", html="<span hidden></span>", js=Path(__file__).with_name("person_keeper.js").read_text(encoding="utf-8"), isolate_styles=False
)  # fmt: skip


def _who() -> Person | None:
    """Who acts in this thread. One that belongs to no browser (answers that stream, imports) goes on for whoever began it."""
    if not enabled() or get_script_run_ctx(suppress_warning=True) is None:
        return None
    person: Person | None = st.session_state.get(PERSON)
    if person is None or st.session_state.get(LOOKING):
        return Person(person.name if person else "", "viewer")
    return person


identify_by(_who)


# The way in


def known() -> bool:
    """Is it known already that this browser may see the pages? First thing in every run of the app; it draws nothing."""
    if not enabled():
        return True
    state = st.session_state
    if "view" in st.query_params:
        state[LOOKING] = st.query_params["view"] not in ("", "0")
    if code := st.query_params.get("room"):
        _try(_enter, code)
        if state.get(IN):
            del st.query_params["room"]  # an address that is shared or shown says it no more
    return _inside()


def gate(inside: bool) -> bool:
    """May this browser see the pages? If not, the way in stands here. After ``st.navigation``: the browser answers at once, and an answer
    that overtook the page's name would lead to Home."""
    if not enabled():
        return True
    if not inside and not providers():
        _ask_browser()
        if _inside():
            st.rerun()
    st.session_state[INSIDE] = inside
    if inside:
        _remember()
        _word()
        return True
    _way_in()
    return False


def _inside() -> bool:
    state = st.session_state
    if (known := state.get(PERSON)) is not None:  # may lead by now, no longer, or was taken out
        state[PERSON] = found.person if (found := people.find(known.name)) else None
    if providers():
        if state.get(PERSON) is None and (identity := signed_in()):
            state[PERSON] = people.signed_in(*identity)
        return state.get(PERSON) is not None
    return bool(state.get(IN) or not _needs_code()) and (state.get(PERSON) is not None or bool(state.get(LOOKING)))


def _needs_code() -> bool:
    """Only an app that nobody but this machine reaches asks for none."""
    reached = {str(st.get_option("server.address") or "*"), *(st.get_option("server.allowedHosts") or ["*"])}
    return not reached <= LOCAL


def place() -> str:
    """From where codes are typed, for counting wrong ones."""
    return str(st.context.ip_address or "here")


def _enter(code: str) -> None:
    if not codes.right("room", code, place()):
        raise EmaError("This is not the room's code.", "The instructor shows it; it has ten letters and digits.")
    st.session_state[IN] = True


def _try(function: Callable[..., Any], *args: Any) -> None:
    act(function, *args, slot="way-in")


def _ask_browser() -> None:
    """What this browser kept of an earlier visit. Asked once a session, and followed without a word where it still holds."""
    state = st.session_state
    ask = state.setdefault("person-ask", secrets.token_hex(8))
    answer = _keeper(key="person-keeper", data={"ask": ask}, on_kept_change=lambda: None)
    kept = getattr(answer, "kept", None)
    if not isinstance(kept, dict) or state.get("person-heard") or kept.get("ask") != ask:
        return
    state["person-heard"] = state["person-asked"] = True
    try:
        if kept.get("room") and not state.get(IN):
            _enter(str(kept["room"]))
        if kept.get("name") and (state.get(IN) or not _needs_code()):
            state[PERSON] = people.come_back(str(kept["name"]), str(kept["code"]), place())
            state[CODE] = str(kept["code"])
    except EmaError:
        pass  # the room has other codes by now, or forgot the name: asked anew


def _remember() -> None:
    """Let the browser keep what brings it back after a reload."""
    if providers():
        return
    person, code = st.session_state.get(PERSON), st.session_state.get(CODE)
    keep = {
        "room": codes.codes()["room"] if st.session_state.get(IN) else "",
        "name": person.name if person and code else "",
        "code": code or "",
    }
    data = {"forget": True} if st.session_state.get(FORGET) else {"keep": keep}
    _keeper(key="person-keeper-in", data=data, on_kept_change=lambda: None)


def _way_in() -> None:
    st.title("EMA Lab", anchor=False)
    st.markdown(LEAD)
    notices("way-in")
    with st.container(key="way-in", width=480):
        if names := providers():
            with errors():
                sign_in(names)
        elif not st.session_state.get("person-asked"):
            _waits_for_browser()
        elif _needs_code() and not st.session_state.get(IN):
            _room_form()
        else:
            _name_form()


@st.fragment(run_every=3)
def _waits_for_browser() -> None:
    """Where a browser does not answer (it keeps nothing, or its scripts come late), people are asked; a later answer still counts."""
    st.caption("Looking whether this browser was here before …")
    since = st.session_state.setdefault("person-since", time.monotonic())
    if time.monotonic() - since > ANSWER_SECONDS:
        st.session_state["person-asked"] = True
        st.rerun()


def _room_form() -> None:
    with st.form("room-form"):
        st.text_input("The room's code", key="room-code", max_chars=40, placeholder="xxxxx-xxxxx", help="The instructor shows it.")
        st.form_submit_button(
            "Enter", key="room-enter", type="primary", on_click=lambda: _try(_enter, st.session_state["room-code"])
        )


def _name_form() -> None:
    taken = st.session_state.get("name-taken")
    with st.form("name-form"):
        st.text_input("Your name", key="name", max_chars=people.LONGEST, placeholder="Ann")
        st.caption(PRIVACY)
        st.form_submit_button("Join", key="name-join", type="primary", on_click=lambda: _try(_join, st.session_state["name"]))
    if taken:
        name, free = taken
        with st.form("same-form"):
            st.text_input(
                f"The personal code of {plain(name)}", key="name-code", max_chars=40, placeholder="xxxxx-xxxxx",
                help="It was shown when the name was taken, and stands in that browser's sidebar. The instructor can give out a new one.",
            )  # fmt: skip
            with st.container(horizontal=True):
                st.form_submit_button(
                    f"I am {plain(name)}", key="name-same", on_click=lambda: _try(_come_back, name, st.session_state["name-code"])
                )
                st.form_submit_button(f"Join as {plain(free)}", key="name-free", on_click=lambda: _try(_join, free))
    st.button("Only look", key="name-look", type="tertiary", icon=":material/visibility:", on_click=_look, help="Everything can be read; nothing is started.")  # fmt: skip


def _join(name: str) -> None:
    try:
        person, code = people.join(name)
    except people.Taken as taken:
        st.session_state["name-taken"] = (taken.name, taken.free)
        raise
    _is(person, code)
    st.session_state["person-new"] = True


def _come_back(name: str, code: str) -> None:
    _is(people.come_back(name, code, place()), code)


def _is(person: Person, code: str) -> None:
    state = st.session_state
    state[PERSON], state[CODE], state[LOOKING] = person, code, False
    for name in ("name-taken", FORGET, "reviewer"):
        state.pop(name, None)
    st.query_params.pop("view", None)


def _look() -> None:
    st.session_state[LOOKING] = True


# On every page


@st.fragment(run_every=5)
def _word() -> None:
    """What the instructor tells all, the pause of the queue, and once the new personal code."""
    with errors():
        now = room.room()
        if message := now.get("message"):
            st.info(plain(message), icon=":material/campaign:")
        if now.get("paused") is True:
            st.warning("The instructor has paused the queue: what waits stays where it is.", icon=":material/pause_circle:")
        if st.session_state.get("person-new") and (me := current()):
            with st.container(border=True, key="person-welcome", horizontal=True, vertical_alignment="center"):
                st.markdown(
                    f"You are **{plain(me.name)}**. Your personal code, by which you are the same in another browser:",
                    width="content",
                )
                st.code(st.session_state[CODE], language=None, width="content")
                st.button("Got it", key="person-got-it", on_click=lambda: st.session_state.pop("person-new", None))


_AT_ONCE = threading.BoundedSemaphore(3)


def in_turn() -> AbstractContextManager[object]:
    """Inside, a page is drawn. Where a whole room opens one in the same moment, three at a time: threads that take turns at every line would
    all end last. The ticks of what is open go on meanwhile."""
    return _AT_ONCE if enabled() else nullcontext()


def here(page: str) -> None:
    """This person's browser draws this page."""
    if enabled() and (me := st.session_state.get(PERSON)):
        people.saw(me.name, page)


def sidebar() -> None:
    """Who I am, whose turn it is; above the worker's lines."""
    if enabled():
        _me()
        _turn()


def _me() -> None:
    me = current()
    if me is None:
        return
    role: tuple[str, Color] = {
        "viewer": ("looking on", "gray"),
        "instructor": ("instructor", "orange"),
        "participant": ("participant", "green"),
    }[me.role]  # type: ignore[assignment]
    with st.container(horizontal=True, vertical_alignment="center", gap="xsmall", key="person-me"):
        st.markdown(f"**{plain(me.name or 'Guest')}**", width="content")
        st.badge(role[0], color=role[1])
        with st.popover("You", icon=":material/person:", key="person-you"):
            _you(me)
    notices("person")


def _you(me: Person) -> None:
    if me.role == "viewer":
        st.caption("Everything can be looked at from here; nothing is started or changed.")
        st.button("Take part", key="person-take-part", type="primary", on_click=_take_part)
    else:
        if code := st.session_state.get(CODE):
            st.caption("Your personal code: with it you are the same in another browser. Tell nobody.")
            st.code(code, language=None)
        if me.role == "participant":
            st.caption("What one person may ask for in this room:")
            st.text("\n".join(own_words()))
        st.button("Only look", key="person-look", icon=":material/visibility:", on_click=_look, help="Until you take part again.")
    if me.name:
        st.button(
            "Sign out" if providers() else "Leave this browser", key="person-leave", icon=":material/logout:", on_click=_leave,
            help=None if providers() else "It forgets you; with your personal code you come back from any.",
        )  # fmt: skip


def _take_part() -> None:
    st.session_state[LOOKING] = False
    st.query_params.pop("view", None)


def _leave() -> None:
    if providers():
        sign_out()
        return
    for name in (PERSON, CODE, "person-new", "reviewer"):
        st.session_state.pop(name, None)
    st.session_state[LOOKING] = False
    st.session_state[FORGET] = st.session_state["person-asked"] = st.session_state["person-heard"] = True


@st.fragment(run_every=3)
def _turn() -> None:
    """``You are third in the queue; about 6 min.``"""
    with errors():
        me = current()
        if me is None or not me.name:
            return
        people.saw(me.name, "")
        if line := turn(me.name):
            st.caption(plain(line))


def turn(name: str) -> str:
    """Where the next job of this person stands, in words; "" where none waits or runs."""
    jobs = queue.jobs()
    if any(job.status == "running" and job.owner == name for job in jobs):
        return "Your job is at work."
    place = next((place for place in fair.in_order(jobs) if place.job.owner == name), None)
    if place is None:
        return ""
    if room.paused():
        return f"You are {ordinal(place.before)} in the queue, which is paused."
    when = f"; about {duration(place.seconds)}" if place.seconds else ""
    return f"You are {ordinal(place.before)} in the queue{when}."


def ordinal(before: int) -> str:
    """0 is the next one."""
    words = ("next", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")
    return words[before] if before < len(words) else f"number {before + 1}"


# Where something is done


def read_only(owner: str) -> bool:
    """Whether the acting person may only look at what ``owner`` has; says so in its place."""
    why = why_not(owner)
    if why:
        st.caption(plain(f"{why} You can look, compare and chat." if current() and current().role != "viewer" else why))  # type: ignore[union-attr]
    return bool(why)


def no_start() -> str:
    """Why nothing can be started from here, for a button's ``help``; "" where it can."""
    return why_not()


def no_run(spec: RunSpec | None, runs: int = 1) -> str:
    """Why this run cannot be launched by the acting person, who is told the limits; "" where it can."""
    me = current()
    if me is None or spec is None:
        return ""
    try:
        launch.within_limits(spec)
        queue.allow_more(runs)
    except EmaError as error:
        show_error(*in_words(error))
        return error.message
    if me.role == "participant":
        st.caption(
            plain(f"Within this room's limits ({'; '.join(own_words()[:3])}); all of them stand under your name in the sidebar.")
        )
    return ""


def no_host() -> str:
    """Why files of the machine cannot be named here."""
    me = current()
    return "" if me is None or me.role == "instructor" else "In a shared room only the instructor names files of the machine."


def whose(owner: str) -> str:
    """``Ann's · `` before somebody else's; "" before one's own, and where the room is not shared."""
    me = current()
    return f"{said_owner(owner)} · " if me is not None and owner and owner != me.name else ""
