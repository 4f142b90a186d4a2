"""Studies: many runs from one spec, how far each of them is, and the way on."""

from __future__ import annotations

import streamlit as st

from ema_core.errors import EmaError
from ema_core.jobs import studies
from ema_core.jobs.study_status import StudyStatus, status
from pages.widgets.chrome import errors, header, plain, show_error
from pages.widgets.study_card import progress, study_card

LEAD = """A study trains and evaluates models × data × defenses × strengths × seeds, the undefended twins first. What is there is not done \
again, a failed run does not stop the others, and a study goes on where it was after any stop."""
ACTIVE_TICK, IDLE_TICK = 2.0, 8.0
SHOWN = 8
"""So many studies are listed with their progress; older ones by name."""


def page() -> None:
    header("Studies", LEAD)
    with errors():
        known = studies.study_ids()[::-1]  # recorded ones last
        if not known:
            nothing_yet()
            return
        chosen = st.query_params.get("study") or known[0]
        if chosen not in known:
            show_error(f'There is no study "{chosen}".', "It may lie in another EMA_HOME. The newest one is shown.")
            chosen = known[0]
        panel(chosen, known)


def nothing_yet() -> None:
    st.info(
        "No study yet. **Fine-tune**, **Sweep** makes one of defenses, strengths, seeds and data; or write it as a file:",
        icon=":material/grid_view:",
    )
    st.code("ema study run docs/studies/none-and-nine.toml", language="bash", wrap_lines=True)
    st.page_link("pages/fine_tune.py", label="Go to Fine-tune", icon=":material/tune:")


def panel(chosen: str, known: list[str]) -> None:
    """The chosen study and the list, anew every few seconds."""
    shown = list(dict.fromkeys([*known[:SHOWN], chosen]))
    active = any(found.going for found in look(shown).values())
    st.fragment(_panel, run_every=ACTIVE_TICK if active else IDLE_TICK)(chosen, shown, active)
    if older := [study_id for study_id in known if study_id not in shown]:
        with st.expander(f"{len(older)} older", key="older-studies"):
            for study_id in older:
                study_link(study_id, study_id)


def _panel(chosen: str, shown: list[str], active: bool) -> None:
    with errors():
        found = look(shown)
        if any(one.going for one in found.values()) != active:
            st.rerun()  # another pace from here on
        if chosen in found:
            study_card(found[chosen])
        else:
            with errors():
                status(chosen)  # says why it cannot be read
        if others := {study_id: one for study_id, one in found.items() if study_id != chosen}:
            st.subheader("Other studies", anchor=False)
            for study_id, one in others.items():
                with st.container(key=f"study-{study_id}", gap="xsmall"):
                    study_link(study_id, one.name)
                    progress(one)


def look(shown: list[str]) -> dict[str, StudyStatus]:
    """Where each stands; one that is damaged is left out, and said where it is chosen."""
    found = {}
    for study_id in shown:
        try:
            found[study_id] = status(study_id)
        except (EmaError, KeyError, TypeError, ValueError):
            continue
    return found


def study_link(study_id: str, name: str) -> None:
    st.page_link("pages/studies.py", label=plain(name), icon=":material/grid_view:", query_params={"study": study_id})


if __name__ == "__main__":
    page()
