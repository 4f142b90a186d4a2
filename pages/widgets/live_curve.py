"""Curves that keep the zoom a user set while new points come in: plotly, drawn by a component of our own.

Streamlit's own chart loses the zoom when a figure is sent again. Plotly's script comes from the installed Python package,
served by this app (no network), once a page view; a tick sends the traces only.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import plotly
import streamlit as st
from streamlit.components.v1 import declare_component

_HTML = """<div class="ema-curve" data-testid="live-curve" role="group" aria-label="Chart">
<button type="button" class="ema-reset" hidden>Reset zoom</button><div class="ema-plot"></div></div>"""
_CSS = """
.ema-curve { position: relative; width: 100%; min-width: 0; }
.ema-plot { min-height: 320px; }
.ema-reset { position: absolute; right: 4px; bottom: 44px; z-index: 2; padding: 2px 8px; cursor: pointer; font: inherit; font-size: 0.8rem;
  color: var(--st-text-color); background: var(--st-secondary-background-color); border: 1px solid var(--st-border-color);
  border-radius: var(--st-base-radius); }
.ema-reset[hidden] { display: none; }
"""
_component = st.components.v2.component(
    "ema_live_curve",
    html=_HTML,
    css=_CSS,
    js=Path(__file__).with_name("live_curve.js").read_text(encoding="utf-8"),
    isolate_styles=False,
)


@cache
def plotly_url() -> str:
    """Where this app serves plotly's own script from: the folder of an otherwise unused component."""
    files = declare_component("plotly_files", path=Path(plotly.__file__).parent / "package_data")
    base = str(st.get_option("server.baseUrlPath") or "").strip("/")
    return f"{'/' + base if base else ''}/component/{files.name}/plotly.min.js?v={plotly.__version__}"


def live_curve(
    traces: Sequence[dict[str, Any]],
    *,
    key: str,
    view: str,
    y_title: str,
    x_title: str = "step",
    log: bool = False,
    height: int = 320,
    raw: bool = True,
    marker: float | None = None,
) -> None:
    """Draw ``traces`` (dicts with ``id, name, x, y, y_smooth, color, dash``); ``raw`` adds the values behind the smoothed line.

    ``marker``: an upright line at this x. A trace may have ``low`` and ``high`` (a band) and ``markers`` (true: few points, each marked).

    The zoom is kept under ``key``; the vertical one also under ``view``, what the chart shows. The element with the test id
    ``live-curve`` says in its data attributes what is drawn: ``points`` (JSON, a trace), ``total``, ``last-x``, ``x-range``,
    ``y-range``, ``zoomed``, ``view``.
    """
    _component(
        key=key, height="content",
        data={
            "key": key, "view": view, "traces": list(traces), "script": plotly_url(), "height": height, "log": log, "raw": raw,
            "marker": marker,
            "x_title": x_title, "y_title": y_title,
        },
    )  # fmt: skip
