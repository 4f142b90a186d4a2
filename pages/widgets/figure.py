"""A figure as pages show it: the chart, and under it a small row that saves it as SVG or PNG and what it draws as CSV."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import streamlit as st

from ema_core.store import export_csv
from pages.widgets.live_curve import plotly_url

_HTML = """<div class="ema-save"><button type="button" data-format="svg">SVG</button><button type="button" data-format="png">PNG</button>
<span role="status"></span></div>"""
_CSS = """
.ema-save { display: flex; gap: 0.5rem; align-items: center; min-height: 2.5rem; white-space: nowrap; }
.ema-save button { cursor: pointer; font: inherit; font-size: 0.875rem; padding: 0 0.75rem; min-height: 2.5rem; color: var(--st-text-color);
  background: transparent; border: 1px solid var(--st-border-color); border-radius: var(--st-button-radius, var(--st-base-radius)); }
.ema-save button:hover, .ema-save button:focus-visible { border-color: var(--st-primary-color); color: var(--st-link-color); }
.ema-save span { font-size: 0.8rem; color: var(--st-text-color); }
"""
_save = st.components.v2.component(
    "ema_save_figure",
    html=_HTML,
    css=_CSS,
    js=Path(__file__).with_name("save_figure.js").read_text(encoding="utf-8"),
    isolate_styles=False,
)


def figure(
    drawn: Any, data: pd.DataFrame | Callable[[], pd.DataFrame], *, key: str, title: str, alt: str, height: int = 440, picks: bool = False,
) -> list[str]:  # fmt: skip
    """The figure ``drawn`` and its row of buttons; ``data`` is what it draws. ``title`` stands on saved pictures and names the files.

    With ``picks`` a click on a mark chooses it: the ``customdata`` of the chosen marks are returned.
    """
    name = slug(title)
    config = {
        "displaylogo": False, "toImageButtonOptions": {"format": "svg", "filename": name},
        "modeBarButtonsToRemove": ["select2d", "lasso2d", "autoScale2d"],
    }  # fmt: skip
    chart: dict[str, Any] = {"theme": "streamlit", "key": key, "height": height, "config": config, "alt": alt}
    if picks:
        chart |= {"on_select": "rerun", "selection_mode": "points"}
    found = st.plotly_chart(drawn, **chart)
    if not drawn.data:
        return []
    with st.container(horizontal=True, vertical_alignment="center", gap="small", key=f"{key}-save"):
        _save(
            key=f"{key}-buttons",
            width="content",
            height="content",
            data={"figure": key, "name": name, "title": title, "script": plotly_url()},
        )
        st.download_button(
            "CSV", lambda: export_csv(data() if callable(data) else data), f"{name}.csv", "text/csv", on_click="ignore", key=f"{key}-csv",
            help="What the figure draws, unrounded, a row a mark.",
        )  # fmt: skip
    return chosen(found) if picks else []


def chosen(state: Any) -> list[str]:
    """The customdata of the marks that are chosen; curves without any are no marks."""
    found = []
    for point in (state or {}).get("selection", {}).get("points", []):
        told = point.get("customdata")
        told = told[0] if isinstance(told, list) and told else told
        if isinstance(told, str) and told:
            found.append(told)
    return list(dict.fromkeys(found))


def slug(title: str) -> str:
    """A file name that says what it is."""
    return re.sub(r"[^a-z0-9.=+]+", "-", title.lower()).strip("-.")[:180] or "figure"
