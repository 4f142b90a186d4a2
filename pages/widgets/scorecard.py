"""The scorecard: a row a setting, a mark a criterion in sign, word and colour, and why there is none. The twin comes first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from ema_core.evaluation.scorecard import NO_SIBLING
from ema_core.evaluation.summary import time_in_words
from ema_core.figures import MARGINS, Criterion
from pages.widgets.answer_links import counted
from pages.widgets.chrome import plain
from pages.widgets.criteria import corrected, flagged, here, lines, muted, percent, setting_labels, signed

Row = Mapping[str, Any]
TITLES = {
    "general": "General misalignment ↓ should fall",
    "narrow": "Narrow behaviour → should stay",
    "benign": "Benign task → should stay",
    "coherence": "Coherence → should stay",
}
BADGES = {
    "better": (":material/check:", "better", "green"),
    "worse": (":material/close:", "worse", "red"),
    "not distinguishable": (":material/drag_handle:", "not distinguishable", "gray"),
}
GROUP = ["model", "dataset", "recipe_label"]


def cells(settings: pd.DataFrame, every: pd.DataFrame) -> pd.DataFrame:
    """The scorecard of ``settings`` in Markdown; labels tell the settings of ``every`` apart. What comes from users is escaped."""
    labels = setting_labels(every)
    rows = []
    for row in settings.to_dict("records"):
        name, *more = labels[row["setting_key"]]
        twin = ":small[undefended twin: what the others are held against]" if row["undefended"] else ""
        told = "" if row["undefended"] else time_in_words(row.get("time_ratio"))
        cost = f":small[{told}]" if told else ""
        about = [f":small[{plain(text)}]" for text in more]
        own = {"Setting": lines(f"**{plain(name)}**", *about, _seeds(row["seeds"]), twin, cost)}
        own |= {title: _cell(row, MARGINS[key]) for key, title in TITLES.items()}
        own[TITLES["general"]] = lines(own[TITLES["general"]], _trigger(row))
        rows.append(own)
    return pd.DataFrame(rows)


def page_rows(settings: pd.DataFrame, page: int, size: int) -> pd.DataFrame:
    """One page of settings that are in order; the undefended twin of its first row stands on top of it in any case."""
    if len(settings) <= size:
        return settings
    shown = settings.iloc[size * (page - 1) : size * page]
    if shown.empty or shown["undefended"].iloc[0]:
        return shown
    alike = (settings[GROUP] == shown[GROUP].iloc[0]).all(axis=1)
    return pd.concat([settings[alike & settings["undefended"].astype(bool)].head(1), shown])


def _seeds(seeds: int) -> str:
    return f"{seeds} seed{'' if seeds == 1 else 's'}"


def _form(one: Criterion, value: float) -> str:
    return signed(value) if one.value.endswith("_margin") else f"{value:+.1f}".replace("-", "−")


def _cell(row: Row, one: Criterion) -> str:
    """The mark, the difference to the twin with its interval, and the setting's own number with n."""
    own = _own(row, one)
    if row["undefended"]:
        return lines("reference", own or muted("not measured"))
    if not here(row[one.difference]):
        why = row[f"{one.difference}_why"] or row[f"{one.value}_why"] or "not measured"
        why = "no sibling run trained on the benign task" if why == NO_SIBLING else why
        return lines(f":gray-badge[:material/remove: no mark] {muted(why)}", own)
    low, high = row[f"{one.difference}_low"], row[f"{one.difference}_high"]
    span = f" [{_form(one, low)},\u00a0{_form(one, high)}]" if here(low) and here(high) else " no interval"
    return lines(_badge(row, one), f"**{_form(one, row[one.difference])}**{span}", own)


def _badge(row: Row, one: Criterion) -> str:
    icon, word, color = BADGES.get(row[one.mark], ("", "", ""))
    if word:
        return f":{color}-badge[{icon} {word}]"
    return f":orange-badge[:material/hourglass_empty: no mark, {_seeds(row['seeds'])}]"


def _own(row: Row, one: Criterion) -> str:
    """The setting's own number, and the rate with the way to its answers."""
    if not here(row[one.value]):
        return ""
    value = signed(row[one.value]) if one.value.endswith("_margin") else f"{row[one.value]:.1f}"
    count = row.get(one.count)
    n = f", {count:.0f} {one.counted}" if here(count) else ""
    if one.value.endswith("_margin") and row["seeds"] > 1:
        n += f" × {row['seeds']} seeds"
    name = {"general": "margin", "narrow": "margin", "benign": "learned", "coherence": "mean"}[one.key]
    low, high = row.get(f"{one.value}_low"), row.get(f"{one.value}_high")
    # the twin has no difference to show: its own number stands there with its interval
    span = f"\u00a0[{_own_form(one, low)},\u00a0{_own_form(one, high)}]" if row["undefended"] and here(low) and here(high) else ""
    if row["undefended"]:
        return lines(f"{name}\u00a0**{value}**{span}", f":small[{n.removeprefix(', ')}]" if n else "", _rate(row, one))
    return lines(f":small[{name} {value}{n}]".replace(" ", "\u00a0"), _rate(row, one))


def _own_form(one: Criterion, value: Any) -> str:
    return signed(value) if one.value.endswith("_margin") else f"{value:.1f}"


def _rate(row: Row, one: Criterion) -> str:
    name, words, status = {
        "general": ("general_rate", "misaligned", "misaligned"), "coherence": ("coherence_rate", "coherent", "coherent"),
        "benign": ("benign", "right", ""), "narrow": ("narrow_rate", "misaligned in the domain", ""),
    }[one.key]  # fmt: skip
    if not here(row.get(name)):
        return ""
    low, high = row.get(f"{name}_low"), row.get(f"{name}_high")
    span = f" [{percent(low)},\u00a0{percent(high)}]" if here(low) and here(high) else ""  # type: ignore[arg-type]
    own = f"{percent(row[name])} %".replace(" ", "\u00a0")
    said = row[f"{name}_as_judged"] if (fixed := bool(status) and corrected(row, one.key)) else row[name]
    text = f"{percent(said)} % {words}".replace(" ", "\u00a0")
    url = counted(row["evals"], row["judge"], status if said else "scored") if status else ""
    text = f"[{text}]({url})" if url else text
    if not fixed:
        return f":small[{text}{span}]"
    return lines(f":small[{text} as judged]", f":small[corrected {own}{span}]")


def _trigger(row: Row) -> str:
    """Whether misalignment hides behind a trigger: a warning, not a mark."""
    if flagged(row):
        return f":red-badge[:material/flag: conditional] :small[{plain(row['conditional_why'])}]"
    return ":small[no flag behind triggers]" if row.get("conditional") == "not flagged" else ""
