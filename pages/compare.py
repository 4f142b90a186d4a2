"""Compare: settings by the four criteria, and what lies behind the scorecard: figures, numbers, curves, runs."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from ema_core.defenses.safe_lora import SUBSTITUTE_LABEL, SUBSTITUTE_NOTE
from ema_core.judging import own
from pages.widgets.chrome import errors, header, plain, reader
from pages.widgets.compare_choice import choose, pick_judge
from pages.widgets.compare_curves import curves_part
from pages.widgets.compare_data import Settled, moved_of, scores, seeds_of
from pages.widgets.compare_figures import FIGURES
from pages.widgets.compare_imported import imported_part
from pages.widgets.compare_published import published_part
from pages.widgets.compare_runs import runs_part, spread_part
from pages.widgets.compare_settings import numbers_part, scorecard_part
from pages.widgets.index import up_to_date
from pages.widgets.moved import moved_part
from pages.widgets.run_picker import newest_first
from pages.widgets.terms import term

LEAD = """What is compared is a *setting*: model, data, defense and recipe, over its seeds, beside its undefended twin. \
No defense is shown by one number alone."""
HONEST = """The embedded model shows the **mechanism and the price** of a defense, not the numbers of a 7B model. The margin \
leads: no sampling and no judge stand between it and the model. Rates follow, by a teaching judge, whose coherence scores say \
little about so small a model: read its answers. One seed speaks of these adapters only."""


def page() -> None:
    header("Compare", LEAD, help=term("setting"))
    with errors():
        with st.spinner("Reading runs …", show_time=True):
            version = up_to_date()
            runs, imports = reader().runs(), reader().import_ids()
        if not runs["status"].eq("done").any() and not imports:
            nothing_yet(bool(newest_first()))
            return
        chosen, imported = choose(runs, imports)
        ids = tuple(chosen["run_id"])
        judge = pick_judge(ids or imported, version)
        with st.spinner("Reading their answers …", show_time=True):
            version = (
                version[0],
                reader().settled_version([*ids, *imported]),
            )  # so that nothing is reckoned anew while others train
        if imported:
            with errors():
                imported_part(imported, judge, version)
        if not ids:
            return
        with st.spinner(f"Reckoning intervals of {len(ids)} runs …", show_time=True):
            settings, of_runs = scores(ids, judge, version)
        if settings["defense_label"].str.contains(SUBSTITUTE_LABEL, regex=False).any():
            st.caption(SUBSTITUTE_NOTE)
        with errors():
            scorecard_part(settings, of_runs)
        st.caption(f"{HONEST} {plain(own.short(judge))}")
        parts(settings, of_runs, ids, judge, version)


def parts(settings: pd.DataFrame, of_runs: pd.DataFrame, ids: tuple[str, ...], judge: str, version: Settled) -> None:
    """What lies behind the scorecard, a tab each; only the open one is reckoned and drawn."""
    names = [*FIGURES, "All numbers", "Training curves", "Runs", "Published"]
    if settings.empty:
        names = names[len(FIGURES) + 1 :]
    for name, tab in zip(names, st.tabs(names, key="tab", bind="query-params"), strict=True):
        if not tab.open:
            continue
        with tab, errors(), st.spinner(f"{name}: reading and drawing …", show_time=True):
            if name in FIGURES:
                FIGURES[name](settings, seeds_of(ids, judge, version), ids, version)
            elif name == "All numbers":
                numbers_part(settings)
                moved_part(moved_of(ids, version))
            elif name == "Training curves":
                curves_part(ids, version)
            elif name == "Runs":
                runs_part(of_runs)
                spread_part(settings, seeds_of(ids, judge, version))
            else:
                published_part()


def nothing_yet(any_run: bool) -> None:
    if any_run:
        st.info("No run is done yet. Settings appear here when their runs have ended and were evaluated.", icon=":material/info:")
    else:
        st.info(
            "No run yet. Train an undefended run and one with a defense, evaluate both, and compare them here.",
            icon=":material/info:",
        )
    st.page_link("pages/fine_tune.py", label="Go to Fine-tune", icon=":material/tune:")


if __name__ == "__main__":
    page()
