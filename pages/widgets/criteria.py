"""The four criteria in words: each number with its interval and n, and why one is missing. Nothing is drawn here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd

from ema_core.evaluation.labels import in_order, one_line, setting_labels
from ema_core.evaluation.meanings import MEANINGS
from ema_core.evaluation.measured import COUNTS, Frames, Study, recorded_as
from ema_core.evaluation.recommend import Recommendation
from ema_core.evaluation.scorecard import NO_SIBLING, criteria_of
from ema_core.evaluation.summary import NO_RATIO, time_in_words
from pages.widgets.answer_links import counted
from pages.widgets.chrome import duration, plain, size

__all__ = ["MEANINGS", "in_order", "one_line", "setting_labels"]  # what the pages know by this module's name

Row = Mapping[str, Any]
Form = Callable[[float], str]
GENERAL, NARROW, BENIGN, COHERENCE = "General margin (should fall)", "Narrow margin (should stay)", "Benign task", "Coherence"
RATE, ANSWERS = "General answers", "Counts"
MARKS = {"better": "green", "worse": "red", "not distinguishable": "gray", "these adapters only": "orange"}
_STATUS_OF = {"answered": ""}
"""Where a count's name is not the status of its answers."""
FEW_SEEDS = "these adapters only"


def signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−")


def percent(value: float) -> str:
    return f"{100 * value:.1f}"


def points(value: float) -> str:
    """A difference of shares, in points of a hundred."""
    return f"{100 * value:+.1f}".replace("-", "−")


def score(value: float) -> str:
    return f"{value:.1f}"


def here(value: Any) -> bool:
    return value is not None and not pd.isna(value)


def interval(row: Row, name: str, form: Form = signed) -> str:
    low, high = row.get(f"{name}_low"), row.get(f"{name}_high")
    return f"[{form(low)},\u00a0{form(high)}]" if here(low) and here(high) else "no interval"  # type: ignore[arg-type]


def setting_cells(settings: pd.DataFrame) -> pd.DataFrame:
    """The settings in Markdown, a column a criterion; what comes from users is escaped."""
    labels = setting_labels(settings)
    rows = []
    for row in settings.to_dict("records"):
        seeds = row["seeds"]
        few = f":orange-badge[{FEW_SEEDS}]" if 0 < seeds < 3 else ""
        flag = f":red-badge[:material/flag: conditional] :gray[{plain(row['conditional_why'])}]" if flagged(row) else ""
        name, *more = labels[row["setting_key"]]
        prefer = f"{_prefer(row)} prefer misaligned" if row["pairs_general"] else ""
        rows.append(
            {
                "Setting": lines(
                    f"**{plain(name)}**",
                    *(f":small[{plain(text)}]" for text in more),
                    _plural(seeds, "seed"),
                    few,
                    flag,
                    _cost(row),
                ),
                GENERAL: lines(
                    _value(row, "general_margin", "", signed, _pairs(row, "general")),
                    prefer,
                    against(row, "margin_difference", "mark"),
                    _stopping(row),
                    *_behind(row),
                ),
                NARROW: lines(
                    _value(row, "narrow_margin", "", signed, _pairs(row, "narrow")),
                    against(row, "narrow_difference", "narrow_mark"),
                ),
                RATE: lines(
                    rate(row, "general", "misaligned", "misaligned", _scored(row)),
                    muted(row["none_found"]) if row.get("none_found") else "",
                    _value(row, "general_mean", " mean alignment", score, status="scored"),
                ),
                COHERENCE: lines(
                    rate(row, "coherence", "coherent", "coherent", _scored(row)),
                    _value(row, "coherence_mean", " mean coherence", score, status="scored", order="least coherent"),
                ),
                BENIGN: _benign(row),
                ANSWERS: _counts(row),
            }
        )
    return pd.DataFrame(rows)


def _value(row: Row, name: str, what: str, form: Form, tail: str = "", status: str = "", order: str = "") -> str:
    """A number with interval and n; in its place the reason where there is none, after it what was left out. With ``status`` it
    leads to those answers, and where no answer is such, to those that were scored."""
    why = row.get(f"{name}_why")
    reason = muted(why) if isinstance(why, str) and why else ""
    if not here(row[name]):
        return reason or muted("not measured")
    value = f"**{form(row[name])}**{what}".replace(" ", "\u00a0")
    if status:
        value = _link(row, value, status if row[name] else "scored", order)
    return lines(f"{value} {interval(row, name, form)}", tail.replace(" ", "\u00a0"), reason)


def corrected(row: Row, criterion: str) -> bool:
    """Whether the rate of ``general`` or ``coherence`` is the judge's one, corrected with labelled answers."""
    method = row.get("rate_method" if criterion == "general" else "coherence_method")
    return str(method or "").startswith("prediction-powered") and here(row.get(f"{criterion}_rate_as_judged"))


def rate(row: Row, criterion: str, words: str, status: str, tail: str = "") -> str:
    """A rate with its interval; where it is corrected, first what the judge said: that is what the linked answers count."""
    name = f"{criterion}_rate"
    if not here(row[name]) or not corrected(row, criterion):
        return _value(row, name, f" % {words}", percent, tail, status)
    raw = row[f"{name}_as_judged"]
    link = _link(row, f"**{percent(raw)}** % {words}".replace(" ", "\u00a0"), status if raw else "scored")
    own = f"corrected\u00a0**{percent(row[name])}\u00a0%** {interval(row, name, percent)}"
    why = row.get(f"{name}_why")
    return lines(f"{link} as judged", tail.replace(" ", "\u00a0"), own, muted(why) if isinstance(why, str) and why else "")


def against(row: Row, name: str, mark: str, form: Form = signed) -> str:
    """The difference to the undefended twin, with its mark."""
    if row["undefended"]:
        return ""
    if not here(row[name]):
        return _value(row, name, "", form)
    badge = f":{MARKS.get(row[mark], 'gray')}-badge[{row[mark] or 'no mark'}] "
    return f"{badge}{form(row[name])} {interval(row, name, form)}"


def flagged(row: Row) -> bool:
    return bool(row.get("conditional") == "flagged")


def _stopping(row: Row) -> str:
    """Against the undefended run that stopped earlier, or was scaled down, to learn as much."""
    if row["undefended"] or not here(row["stopping_difference"]):
        return ""
    kind = {"checkpoint": "stopping earlier", "scale": "scaling down"}.get(row["stopping_against"], "stopping earlier")
    return against(row, "stopping_difference", "stopping_mark").replace("-badge[", f"-badge[than {kind}: ", 1)


def _benign(row: Row) -> str:
    if not here(row["benign_margin"]) and not here(row["benign"]):
        return muted("no sibling run" if row["benign_why"] == NO_SIBLING else row["benign_why"])
    right = _value(row, "benign", " % right", percent) if here(row["benign"]) else ""
    learned = _value(row, "benign_margin", " learned", signed) if here(row["benign_margin"]) else ""
    return lines(right, learned, against(row, "benign_difference", "benign_mark"))


def _behind(row: Row) -> list[str]:
    """The general margin behind each trigger of the suite conditional, where it was measured."""
    words = {"dressed": "dressed like the domain", "prompt": "with the prompt put back"}
    return [
        _value(row, f"conditional_{name}_margin", f" {word}", signed)
        for name, word in words.items()
        if here(row[f"conditional_{name}_margin"])
    ]


def _cost(row: Row) -> str:
    ratio, memory = row.get("time_ratio"), row.get("memory")
    told = time_in_words(ratio)
    time = (
        told
        if told == NO_RATIO
        else f"{told} of the undefended"
        if told
        else f"{duration(row['seconds'])} a run"
        if here(row["seconds"])
        else ""
    )
    ram = f"about {size(memory)} of memory (estimate)" if here(memory) else ""
    return f":small[{', '.join(filter(None, (time, ram)))}]" if time or ram else ""


def muted(text: str) -> str:
    return f":gray[{plain(text)}]"


def lines(*parts: str) -> str:
    """Each once, a line each: two numbers that are missing for one reason give it once."""
    return "  \n".join(dict.fromkeys(filter(None, parts)))


def _plural(count: int, word: str) -> str:
    return f"{count} {word}" + ("" if count == 1 else "s")


def _pairs(row: Row, name: str) -> str:
    seeds = row.get("seeds", 1)
    return f"{row[f'pairs_{name}']} pairs" + (f" × {seeds} seeds" if seeds > 1 else "")


def _scored(row: Row) -> str:
    return f"of {row['scored']} scored"


def _prefer(row: Row) -> str:
    own, base = (f"{row[f'{name}_general']:.1f}".removesuffix(".0") for name in ("prefer_misaligned", "base_prefer_misaligned"))
    return f"{own} of {row['pairs_general']} (base {base})"


def _link(row: Row, text: str, status: str = "", order: str = "") -> str:
    """The text as a way to the answers that this row counted."""
    url = counted(row["evals"], row["judge"], status, order)
    return f"[{text}]({url})" if url else text


def _counts(row: Row) -> str:
    """Asked, answered, scored and so on, in one line; each leads to its answers."""
    if not row.get("asked"):
        return "none sampled"
    words = {name: f"{int(row.get(name) or 0)}\u00a0{name}" for name in COUNTS}
    linked = {
        name: text if name == "asked" or not row.get(name) else _link(row, text, _STATUS_OF.get(name, name))
        for name, text in words.items()
    }
    return ", ".join(linked.values())


def recommendation(found: Recommendation) -> str:
    """Which strength to take, in words, with the numbers of the half of the pairs that did not choose."""
    head = f"**{plain(found.defense)}**, keeping {found.keep:.0%}: "
    if found.strength is None:
        return head + f":orange-badge[none] {plain(found.why)}."
    return head + plain(found.words) + "".join(f"  \n:orange[{plain(note)}]" for note in found.notes)


def candidate_cells(found: Recommendation) -> pd.DataFrame:
    """Every strength as the choosing half saw it."""

    def share(value: float | None) -> str:
        return "not measured" if value is None else f"{value:.0%}"

    return pd.DataFrame(
        {
            "Strength": f"{row['strength']:g}",
            "General margin (choosing half)": "not measured" if row["general"] is None else signed(row["general"]),
            "Narrow kept": share(row["narrow_kept"]),
            "Benign kept": share(row["benign_kept"]),
            "Keeps enough": "yes" if row["keeps"] else "no",
        }
        for row in found.candidates
    )


def criteria_of_runs(frames: Frames, judge: str) -> pd.DataFrame:
    """One row a run: what ``scorecard.run_criteria`` says of it, flat, for the table and the CSV."""
    study, rows = Study(frames, judge), []
    for run in frames["runs"].to_dict("records"):
        found = criteria_of(study, run["run_id"])
        general, coherence = found["general"], found["coherence"]
        row = {
            name: run[name]
            for name in (
                "run_id",
                "recorded",
                "setting_key",
                "name",
                "model",
                "dataset",
                "defense_label",
                "seed",
                "status",
                "created",
            )
        }
        row |= _margin("general", general["margin"]) | _margin("narrow", found["narrow"]["margin"])
        row |= {"general_rate": general["rate"], "general_rate_low": general["low"], "general_rate_high": general["high"]}
        row |= {"general_mean": general["mean"], "general_mean_low": general["mean_low"], "general_mean_high": general["mean_high"]}
        row |= {
            "coherence_rate": coherence["rate"],
            "coherence_rate_low": coherence["low"],
            "coherence_rate_high": coherence["high"],
        }
        row |= {name: general[name] for name in (*COUNTS, "misaligned", "evals")} | {"coherent": coherence["coherent"]}
        row |= {
            "general_rate_as_judged": general["rate_as_judged"],
            "rate_method": general["method"],
            "coherence_rate_as_judged": coherence["rate_as_judged"],
            "coherence_method": coherence["method"],
            "none_found": general["none_found"],
        }
        row |= {"general_why": general["why"] or "", "judge": judge, "estimand": general["estimand"]}
        rows.append(row)
    return pd.DataFrame(rows)


def _margin(name: str, found: Row | None) -> dict[str, Any]:
    known = found or {}
    return {
        f"{name}_margin": known.get("value"),
        f"{name}_margin_low": known.get("low"),
        f"{name}_margin_high": known.get("high"),
        f"pairs_{name}": known.get("pairs", 0),
        f"prefer_misaligned_{name}": known.get("prefer_misaligned", 0),
        f"base_prefer_misaligned_{name}": known.get("base_prefer_misaligned", 0),
        f"{name}_margin_why": (known.get("why") or "") if known else f"no {name} margin was measured yet",
    }


COUNT_LINKS = {
    "Misaligned, %": "misaligned",
    "Mean alignment": "scored",
    "Coherent, %": "coherent",
}
"""After which number of a run the count stands that it is made of; the others come at the end."""


def how_rated(row: Row) -> str:
    """How a run's rate came about, in a cell that shows no Markdown."""
    told = [
        f"{words} corrected; as judged {percent(row[f'{name}_rate_as_judged'])} %"
        for name, words in (("general", "misaligned"), ("coherence", "coherent"))
        if corrected(row, name) and here(row[f"{name}_rate"])
    ]
    return "; ".join(filter(None, (*told, row["none_found"])))


def run_cells(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs as numbers that can be sorted by, each with its interval and n beside it in words; counts are addresses of their
    answers, with the count after ``#``."""
    rows = []
    for row in runs.to_dict("records"):
        reasons = dict.fromkeys(filter(None, (row["general_margin_why"], row["narrow_margin_why"], row["general_why"])))
        cells = {"Run": _run_name(row), "Defense": row["defense_label"], "Seed": row["seed"], "State": row["status"]}
        for title, name, form, n, factor in (
            ("General margin", "general_margin", signed, _pairs(row, "general"), 1),
            ("Narrow margin", "narrow_margin", signed, _pairs(row, "narrow"), 1),
            ("Misaligned, %", "general_rate", percent, _scored(row), 100),
            ("Mean alignment", "general_mean", score, _scored(row), 1),
            ("Coherent, %", "coherence_rate", percent, _scored(row), 100),
        ):
            value = row[name]
            cells[title] = factor * value if here(value) else None
            cells[f"{title}: interval, n"] = f"{interval(row, name, form)} {n}" if here(value) else ""
            if name == "general_margin":
                cells["Prefer the misaligned answer"] = _prefer(row) if row["pairs_general"] else ""
            if name == "general_rate":
                cells["What the rates are"] = how_rated(row)
            if title in COUNT_LINKS:
                cells[_title_of(COUNT_LINKS[title])] = _count_link(row, COUNT_LINKS[title])
        cells["Asked"] = row["asked"]
        for status in ("answered", "refused", "unparsed", "incoherent", "cut"):
            cells[_title_of(status)] = _count_link(row, status)
        rows.append(cells | {"Why empty": "; ".join(reasons), "run_id": row["run_id"]})
    return pd.DataFrame(rows)


def _run_name(row: Row) -> str:
    return f"{row['name'] or row['run_id']}{' · recorded' if recorded_as(row) else ''}"


def _title_of(status: str) -> str:
    return f"{status.capitalize()}, n"


def _count_link(row: Row, status: str) -> str | None:
    url = counted(row["evals"], row["judge"], _STATUS_OF.get(status, status))
    return f"{url}#{int(row[status])}" if url else None
