"""Room: who is here, whose turn it is, and what the instructor does for all. Only in shared mode."""

from __future__ import annotations

import streamlit as st

from ema_core.errors import EmaError
from ema_core.shared import Person, codes, current, people
from pages.widgets.chrome import act, errors, header, notices
from pages.widgets.person import PERSON, place
from pages.widgets.room_panel import address, hidden_runs, limits_form, queue_panel, say, who_is_here, whose_code

LEAD = "One machine, many browsers. Runs, chats and verdicts stand under the name of whoever made them, and the queue turns from person to person."


def page() -> None:
    header("Room", LEAD)
    me = current()
    leads = me is None or me.role == "instructor"
    if leads:
        with errors():
            address()
        with errors():
            say()
    with errors():
        who_is_here(leads)
    if leads:
        whose_code()
    with errors():
        queue_panel(leads)
    with errors():
        limits_form(leads)
    if leads:
        with errors():
            hidden_runs()
    elif me is not None and me.role == "participant":
        take_over(me)


def take_over(me: Person) -> None:
    """For who knows the instructor's code, which `ema app --shared` printed."""
    with st.expander("I lead this room", key="room-lead"), st.form("room-lead-form"):
        st.text_input("The instructor's code", key="room-lead-code", type="password", max_chars=40, help="`ema app --shared` printed it at its start; `ema room codes` says it again.")  # fmt: skip
        st.form_submit_button("Lead", key="room-lead-go", on_click=act, args=(_lead, me), kwargs={"slot": "lead"})
    notices("lead")


def _lead(me: Person) -> None:
    if not codes.right("instructor", st.session_state["room-lead-code"], place()):
        raise EmaError("This is not the instructor's code.", "`ema room codes` says it on the machine.")
    st.session_state[PERSON] = people.lead(me.name)


if __name__ == "__main__":
    page()
