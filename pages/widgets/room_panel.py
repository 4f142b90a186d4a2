"""The parts of Room."""

from __future__ import annotations

import os
from dataclasses import asdict
from urllib.parse import quote, urlsplit

import pandas as pd
import streamlit as st

from ema_core.jobs import fair, queue
from ema_core.jobs.attendance import attendance
from ema_core.runs import RunDirectory, run_ids
from ema_core.shared import HOST, codes, people, room
from ema_core.shared.limits import MOST, WORDS, limits, set_limit, variable
from pages.widgets.chrome import act, ago, duration, errors, notices, plain
from pages.widgets.identity import providers
from pages.widgets.queue_list import cancel_job, title_of
from pages.widgets.run_picker import run_info

ROLES = {"instructor": "instructor", "participant": "", "viewer": "looks on"}
SHOWN = 12


def address() -> None:
    """What participants type: the machine's addresses, with the room's code."""
    st.subheader("The way in", anchor=False)
    known = [str(one) for one in room.room().get("addresses", [])]
    parts = urlsplit(str(st.context.url or ""))
    if not known and parts.netloc:
        known = [f"{parts.scheme}://{parts.netloc}"]
    code = "" if providers() else codes.codes()["room"]
    for one in known[:3]:
        st.code(f"{one}/?room={quote(code)}" if code else one, language=None, wrap_lines=True)
    if code:
        st.markdown(f"or one of these without the end, and the code **{plain(code)}**. Who adds **&view=1** only looks on.")
    st.caption("Letters and digits that look alike (i, l, 1, o, 0) are in no code.")


def say() -> None:
    """A line on every page."""
    st.session_state.setdefault("room-message", str(room.room().get("message") or ""))
    with st.form("room-say", border=False):
        st.text_input("A line for everybody, on every page", key="room-message", max_chars=room.LONGEST_MESSAGE, placeholder="Break until 11:00")  # fmt: skip
        with st.container(horizontal=True):
            st.form_submit_button("Tell all", key="room-tell", icon=":material/campaign:", on_click=act, args=(_say,), kwargs={"slot": "say", "done": "It stands on every page within five seconds."})  # fmt: skip
            st.form_submit_button("Take it away", key="room-untell", on_click=act, args=(_unsay,), kwargs={"slot": "say"})
    notices("say")


def _say() -> None:
    room.tell(st.session_state["room-message"])


def _unsay() -> None:
    room.tell("")
    st.session_state["room-message"] = ""


@st.fragment(run_every=4)
def who_is_here(leads: bool) -> None:
    """Everybody, where they are and what is theirs."""
    with errors():
        rows = attendance()
        here = sum(row["here"] for row in rows)
        st.subheader("People", anchor=False)
        if not rows:
            st.info(
                "Nobody has joined yet. Show the address above." if leads else "Nobody has joined yet.", icon=":material/group:"
            )
            return
        st.caption(f"{here} of {len(rows)} are here (seen in the last {duration(people.HERE_SECONDS)}).")
        table = pd.DataFrame(
            [
                {
                    "Name": row["name"], "Role": ROLES[row["role"]], "Last seen": "here" if row["here"] else ago(row["seen"]), "Page": row["page"],
                    "Runs": row["runs"], "Waiting": row["waiting"], "Worker": "at work" if row["at_work"] else "",
                    "Worker, last hour": duration(row["seconds"]) if row["seconds"] else "",
                }
                for row in rows
            ]
        )  # fmt: skip
        if not leads:
            table = table.drop(columns=["Page"])
        st.dataframe(table, hide_index=True, key="room-people", height=min(35 * len(table) + 38, 460))


def whose_code() -> None:
    """For who lost their personal code, leads, or is gone."""
    names = [known.name for known in people.everybody()]
    if not names:
        return
    with st.expander("A new personal code, another instructor, take a name out", key="room-person"):
        name = st.selectbox("Person", names, key="room-person-name", width=360)
        if name is None:
            return
        with st.container(horizontal=True):
            if not providers():
                st.button("New personal code", key="room-new-code", on_click=act, args=(_new_code, name), kwargs={"slot": "whose"}, help="For who lost theirs; the old one no longer holds.")  # fmt: skip
            st.button("Let them lead, too", key="room-let-lead", on_click=act, args=(people.lead, name), kwargs={"slot": "whose", "done": f"{name} leads from their next click on."})  # fmt: skip
            st.button("Take out of the room", key="room-remove", on_click=act, args=(people.remove, name), kwargs={"slot": "whose", "done": f"{name} is free again; runs keep the name."}, help="For a name that was taken by mistake.")  # fmt: skip
    notices("whose")


def _new_code(name: str) -> None:
    st.session_state["notice-whose"] = ("done", f"The personal code of {name} is now {people.new_code_for(name)}.", "")


@st.fragment(run_every=3)
def queue_panel(leads: bool) -> None:
    """Whose turn it is; with the instructor's buttons."""
    with errors():
        st.subheader("Queue", anchor=False)
        notices("room-queue")
        paused = room.paused()
        if leads:
            st.button(
                "Go on" if paused else "Pause the queue", key="room-pause", icon=":material/play_arrow:" if paused else ":material/pause:",
                on_click=act, args=(room.pause, not paused), kwargs={"slot": "room-queue"}, help="What runs goes on to its end." if not paused else None,
            )  # fmt: skip
        if paused:
            st.caption("Paused: no job is begun.")
        jobs = queue.jobs()
        running, places = [job for job in jobs if job.status == "running"], fair.in_order(jobs)
        if not running and not places:
            st.caption("The queue is empty.")
        for job in running:
            st.progress(min(1.0, max(0.0, job.share)), text=plain(f"{_who(job)} · {title_of(job)} · {job.activity or 'starting'}"))
            _buttons(job, leads, first=True)
        for place in places[:SHOWN]:
            with st.container(horizontal=True, vertical_alignment="center", key=f"room-job-{place.job.id}"):
                begins = "next" if not place.before else f"begins in about {duration(place.seconds)}"
                st.markdown(
                    f"{place.before + 1}. **{plain(_who(place.job))}** · {plain(title_of(place.job))} · {begins}", width="stretch"
                )
                _buttons(place.job, leads, first=not place.before)
        if len(places) > SHOWN:
            st.caption(f"{len(places) - SHOWN} more wait; the last begins in about {duration(places[-1].seconds)}.")


def _who(job: queue.Job) -> str:
    return job.owner or "the room"


def _buttons(job: queue.Job, leads: bool, first: bool) -> None:
    if not leads:
        return
    kwargs = {"slot": "room-queue"}
    st.button("Cancel", key=f"room-cancel-{job.id}", type="tertiary", disabled=job.cancel, on_click=act, args=(cancel_job, job), kwargs=kwargs)  # fmt: skip
    if job.status == "queued" and not first:
        st.button(
            "Run next", key=f"room-front-{job.id}", type="tertiary", on_click=act, args=(queue.to_front, job.id), kwargs=kwargs
        )


def limits_form(leads: bool) -> None:
    """What one participant may ask for; changed for all at once."""
    st.subheader("Limits of one person", anchor=False)
    now = asdict(limits())
    if not leads:
        st.dataframe(
            pd.DataFrame([{"Limit": WORDS[name][0], "At most": f"{value:,g}", "Means": WORDS[name][1]} for name, value in now.items()]),
            hide_index=True, key="room-limits",
        )  # fmt: skip
        return
    st.caption("They hold where work is queued, for everybody but instructors, from the next launch on.")
    columns = st.columns(3)
    for number, (name, (label, meaning)) in enumerate(WORDS.items()):
        fixed = bool(os.environ.get(variable(name)))
        key = f"room-limit-{name}"
        st.session_state[key] = float(now[name]) if name == "usd" else int(now[name])
        with columns[number % 3]:
            st.number_input(
                label, 0.0 if name == "usd" else 0, float(MOST) if name == "usd" else MOST, key=key, step=1.0 if name == "usd" else 1,
                disabled=fixed, help=f"{variable(name)} sets it." if fixed else meaning, on_change=act, args=(_limit, name), kwargs={"slot": "limits"},
            )  # fmt: skip
    notices("limits")


def _limit(name: str) -> None:
    set_limit(name, st.session_state[f"room-limit-{name}"])


def hidden_runs() -> None:
    """Take a run out of every list and figure, and bring it back."""
    st.subheader("Hide a run", anchor=False)
    st.caption("It is in no list, figure or search then; nothing of it is lost.")
    ids = run_ids()[::-1]
    marked = room.hidden_ids()
    hidden = [run_id for run_id in ids if run_id in marked]
    shown = [run_id for run_id in ids if run_id not in hidden]
    with st.container(horizontal=True, vertical_alignment="bottom"):
        chosen = st.selectbox(
            "Run", shown, index=None, key="room-hide-run", format_func=_label, placeholder="Choose one", width=640
        )
        st.button(
            "Hide it", key="room-hide", disabled=chosen is None, on_click=act, args=(room.hide, chosen), kwargs={"slot": "hide"}
        )
    notices("hide")
    for run_id in hidden:
        with st.container(horizontal=True, vertical_alignment="center", key=f"room-hidden-{run_id}"):
            st.markdown(plain(_label(run_id)), width="content")
            st.button("Show it again", key=f"room-show-{run_id}", type="tertiary", on_click=act, args=(room.hide, run_id, False), kwargs={"slot": "hide"})  # fmt: skip


def _label(run_id: str) -> str:
    owner = RunDirectory.open(run_id).state().owner or HOST
    info = run_info(run_id)
    return " · ".join(filter(None, (owner, info.name, run_id)))
