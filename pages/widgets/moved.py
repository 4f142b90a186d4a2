"""What else a defense moved, on Compare: refusals by suite, and the benign task tier by tier."""

from __future__ import annotations

from typing import Any

import pandas as pd
import streamlit as st

from ema_core.evaluation.moved import RULE
from pages.widgets import criteria
from pages.widgets.answer_links import counted
from pages.widgets.chrome import plain

TITLES = {
    "over_refusal": "Harmless questions refused (should stay low)",
    "jailbreak": "Mild bad requests declined (should stay high)",
}
COMMAND = "ema eval RUN --suite over-refusal --suite jailbreak-lite"


def moved_part(found: pd.DataFrame) -> None:
    """A table of the settings that were asked (``evaluation.moved``), or how to ask."""
    st.subheader("What else moved", anchor=False)
    if found.empty:
        st.caption(
            "Not measured: choose the suites *over-refusal* and *jailbreak-lite* on **Evaluate** to see whether a defense makes the model "
            f"refuse harmless questions or answer bad ones (`{COMMAND}`); the benign task by tier needs sibling runs (`ema setting complete`)."
        )
        return
    with st.container(key="moved-table"):
        st.table(cells(criteria.in_order(found)), border="horizontal", hide_index=True)
    st.caption(
        f"Greedy answers; the **{RULE}** counts: a word of refusal among the first ten. Benign task: **exact match**, the sibling runs. Brackets: "
        "95 % intervals for questions like these. *Better* and *worse*: against the undefended twin, by question, in percentage points; "
        "corrected for all marks of this table (Holm), from three seeds on."
    )


def cells(found: pd.DataFrame) -> pd.DataFrame:
    """The settings in Markdown."""
    labels = criteria.setting_labels(found)
    rows = []
    for row in found.to_dict("records"):
        name = " · ".join(labels[row["setting_key"]])
        seeds = f"{row['seeds']} seed{'s' if row['seeds'] != 1 else ''}"
        out = {"Setting": criteria.lines(f"**{plain(name)}**", seeds)}
        out |= {title: _share(row, column) for column, title in TITLES.items()}
        rows.append(out | {"Benign task by tier": _tiers(row["tiers"])})
    return pd.DataFrame(rows)


def _share(row: dict[str, Any], name: str) -> str:
    if not row[f"{name}_answers"]:
        return criteria.muted("not measured")
    refused, answers = row[f"{name}_refused"], row[f"{name}_answers"]
    count = f"[{refused} of {answers}]({counted(row[f'{name}_evals'], '', 'refused' if refused else '')})"
    value = (
        f"**{criteria.percent(row[name])} %** {criteria.interval(row, name, criteria.percent)}" if criteria.here(row[name]) else ""
    )
    base = f"base {criteria.percent(row[f'{name}_base'])} %" if criteria.here(row[f"{name}_base"]) else ""
    return criteria.lines(
        value, f"{count} answers", base, criteria.against(row, f"{name}_difference", f"{name}_mark", criteria.points)
    )


def _tiers(tiers: dict[str, dict[str, Any]]) -> str:
    if not tiers:
        return criteria.muted("no sibling run")
    parts = []
    for tier, found in tiers.items():
        low, high = found["low"], found["high"]
        span = f" [{criteria.percent(low)}, {criteria.percent(high)}]" if criteria.here(low) and criteria.here(high) else ""
        share = f"{criteria.percent(found['value'])} %{span}, " if criteria.here(found["value"]) else ""
        parts.append(f"{plain(tier)}: {share}{found['right']} of {found['answers']}".replace(" ", "\u00a0"))
    return criteria.lines(*parts)
