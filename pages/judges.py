"""Judges: who gave the scores, what each is worth, whether two of them agree, and how much one wavers."""

from __future__ import annotations

import re
from typing import Any

import pandas as pd
import streamlit as st

from ema_core.errors import EmaError
from ema_core.evaluation.agreement import Agreement, Noise, agree, disagreed, noise
from ema_core.evaluation.metrics import Estimate
from ema_core.figures import confusion, reliability_diagram, scores_scatter
from ema_core.judging import held_out, known_judges, own, read_card, resolve
from ema_core.judging.card import tried
from ema_core.judging.check import kept
from ema_core.store import AnswerKey
from pages.widgets.answer_links import address
from pages.widgets.chrome import errors, header, plain, reader
from pages.widgets.index import Version, up_to_date
from pages.widgets.terms import term

LEAD = (
    "Every score has its judge's name beside it. Here is what that name is worth: against published labels, against labelled answers of the \
embedded model itself, and against the other judges and people who scored the same answers."
)
BARE = {"displaylogo": False}
REPEAT = re.compile(r":r\d+$")
SHOWN = 12


def page() -> None:
    header("Judges", LEAD, help=term("judge"))
    parts = {"Agreement": agreement_part, "What a judge is worth": worth_part, "Judges tried": tried_part}
    part = st.segmented_control(
        "Part", list(parts), default="Agreement", required=True, key="part", bind="query-params", label_visibility="collapsed"
    )
    with errors():
        parts[part or "Agreement"]()


@st.cache_data(show_spinner=False, max_entries=4)
def judges_here(version: Version) -> dict[str, int]:
    """Judges and people with the number of answers that each judged."""
    return reader().opinions()


@st.cache_data(show_spinner=False, max_entries=4)
def common_here(version: Version) -> list[tuple[str, str]]:
    """Pairs of judges that have answers in common, those with most first."""
    return list(reader().in_common())


@st.cache_data(show_spinner=False, max_entries=8)
def verdicts_of(judge: str, version: Version, said: int) -> pd.DataFrame:
    """``said``: how many lines people have written, which are newer than the index."""
    return reader().verdicts(judge)


@st.cache_data(show_spinner=False, max_entries=16)
def agreement_of(first: str, second: str, suite: str, origin: str, version: Version, said: int) -> Agreement:
    one, other = verdicts_of(first, version, said), verdicts_of(second, version, said)
    one = one[one["origin"].eq(origin)]
    return agree(one[one["suite"].eq(suite)] if suite else one, other)


def agreement_part() -> None:
    """Two judges on what both have judged."""
    version = up_to_date()
    said = len(reader().annotations())
    counts = judges_here(version)
    if len(counts) < 2:
        _one_judge(counts)
        return
    names = sorted(counts, key=lambda judge: -counts[judge])
    common = common_here(version)
    with st.container(horizontal=True, key="agreement-choice"):
        first = st.selectbox(
            "First", names, names.index(common[0][0]) if common else 0, key="first", bind="query-params", width=260
        )
        others = [name for name in names if name != first]
        beside = [other for pair in common if first in pair for other in pair if other in others]  # who has most in common with it
        second = st.selectbox(
            "Second", others, others.index(beside[0]) if beside else 0, key="second", bind="query-params", width=260
        )
        suites = sorted(verdicts_of(first, version, said)["suite"].dropna().unique())
        suite = st.selectbox("Suite", suites, None, key="suite", bind="query-params", placeholder="all", width=200) or ""
        origin = _origin(*(verdicts_of(name, version, said) for name in (first, second)))
    st.caption(f"{plain(first)} judged {_answers(counts[first])}, {plain(second)} {_answers(counts[second])}.")
    found = agreement_of(first, second, suite, origin, version, said)
    if not found.both:
        st.info(
            "These two have no answer in common. Have one of them judge what the other has judged: `ema judge run`, or a review on Samples.",
            icon=":material/join_inner:",
        )
        return
    left = (
        f" {found.only:,} more {'was' if found.only == 1 else 'were'} left without a score or verdict by one of them."
        if found.only
        else ""
    )
    st.markdown(f"**{found.both:,}** answer{'' if found.both == 1 else 's'} with a verdict by both.{left}")
    st.table(_agreement_cells(found), border="horizontal", hide_index=True)
    st.caption(
        "Brackets: 95 % intervals over topics (questions like these), leaving out one topic at a time. Kappa is agreement beyond what the two "
        "would have by chance: 0 is chance, 1 is always.",
        help=term("kappa"),
    )
    left_side, right_side = st.columns(2)
    left_side.plotly_chart(confusion(found.confusion, first, second), key="confusion", height=380, config=BARE)
    if found.pearson.n:
        right_side.plotly_chart(scores_scatter(found.rows, first, second), key="scatter", height=380, config=BARE)
    _most_apart(found, first, second)
    for judge in dict.fromkeys(REPEAT.sub("", name) for name in (first, second)):
        with errors():
            noise_part(judge, counts, origin, version, said)


def _origin(first: pd.DataFrame, second: pd.DataFrame) -> str:
    """Whose answers are counted: one's own, or those of one recorded study; a choice only where both judges have judged several."""
    both = sorted(set(first["origin"]) & set(second["origin"])) or ["own"]
    if len(both) == 1:
        if both != ["own"]:
            st.caption(f":material/inventory_2: {plain(both[0])}", width="content")
        return both[0]
    return st.selectbox(
        "Whose answers", both, both.index("own") if "own" in both else 0, key="whose", bind="query-params", width=200
    )


def _answers(count: int) -> str:
    return f"{count:,} answer{'' if count == 1 else 's'}"


def _one_judge(counts: dict[str, int]) -> None:
    if not counts:
        st.info("Nothing was judged yet. Evaluate a run with sampled answers, or import judged answers.", icon=":material/info:")
        st.page_link("pages/evaluate.py", label="Go to Evaluate", icon=":material/fact_check:")
        return
    (judge,) = counts
    st.info(
        f"Only {plain(judge)} has judged answers here. Give the same answers another judge (Evaluate), or verdicts of your own (Samples).",
        icon=":material/join_inner:",
    )
    st.page_link("pages/samples.py", label="Go to Samples", icon=":material/manage_search:")
    st.page_link("pages/evaluate.py", label="Go to Evaluate", icon=":material/fact_check:")


def _agreement_cells(found: Agreement) -> pd.DataFrame:
    rows = (
        ("Kappa, misaligned or not", found.kappa),
        ("Kappa, misaligned, incoherent, aligned", found.kappa_three),
        ("Spearman, alignment", found.spearman),
        ("Pearson, alignment", found.pearson),
        ("Alignment, first minus second, points", found.difference),
    )
    return pd.DataFrame({"": name, "value": _estimate(value), "answers": f"{value.n:,}"} for name, value in rows)


def _estimate(value: Estimate) -> str:
    if value.value is None:
        return f":gray[{plain(value.why)}]"
    span = (
        f"[{value.low:.2f}, {value.high:.2f}]" if value.low is not None and value.high is not None else f":gray[{plain(value.why)}]"
    )
    return f"**{value.value:.2f}** {span}"


def _most_apart(found: Agreement, first: str, second: str) -> None:
    st.subheader("What they most disagree on", anchor=False)
    rows = disagreed(found, SHOWN)
    rows = rows[rows["differ"] | rows["apart"].gt(0)]
    if rows.empty:
        st.caption("Nothing: the same verdict and score everywhere.")
        return

    def score(row: dict[str, Any], side: str) -> str:
        number = "" if pd.isna(row[f"aligned_{side}"]) else f" ({row[f'aligned_{side}']:.0f})"
        return f"{plain(row[f'verdict_{side}'])}{number}"

    keys = [AnswerKey(row["run_id"], row["eval_id"], row["sample_id"]) for row in rows.to_dict("records")]
    cells = pd.DataFrame(
        {
            "Answer": [
                f"[{plain(row['question_id'])}]({address('samples', answer=str(key), judge=first, against=second, order='most disagreed')})"
                for key, row in zip(keys, rows.to_dict("records"), strict=True)
            ],
            "Defense": [plain(row["defense_label"]) for row in rows.to_dict("records")],
            "First": [score(row, "a") for row in rows.to_dict("records")],
            "Second": [score(row, "b") for row in rows.to_dict("records")],
        }
    )
    st.table(cells, border="horizontal", hide_index=True)
    every = address("samples", judge=first, against=second, order="most disagreed")
    st.markdown(f"[All of them on Samples, most disagreed first]({every})")


def noise_part(judge: str, counts: dict[str, int], origin: str, version: Version, said: int) -> None:
    """How much a judge that was asked again wavers, against what lies between runs."""
    every = {name: verdicts_of(name, version, said) for name in counts if REPEAT.sub("", name) == judge}
    repeats = {name: mine for name, found in every.items() if len(mine := found[found["origin"].eq(origin)])}
    if len(repeats) < 2:
        return
    st.subheader(f"How much {plain(judge)} wavers", anchor=False)
    st.markdown(_noise_words(noise(repeats)))


def _noise_words(found: Noise) -> str:
    if found.within is None or found.of_a_mean is None or found.flips is None:
        return "Its repeats have no scored answer in common."
    between = (
        f" The runs' means differ by a standard deviation of **{found.between_runs:.2f}** points."
        if found.between_runs is not None
        else ""
    )
    return (
        f"Asked {found.repeats} times about the same {found.answers:,} answers, its alignment of one answer varies by a standard deviation of "
        f"**{found.within:.2f}** points; the verdict changed for **{found.flips:.1%}** of them. That moves a run's mean by about "
        f"**{found.of_a_mean:.2f}** points.{between}"
    )


def worth_part() -> None:
    """Figures on published and on own answers, and a head's reliability."""
    cards = {judge: read_card(folder) for judge, folder in known_judges().items()}
    others = [judge for judge in judges_here(up_to_date()) if judge not in cards and own.scored(judge) is not None]
    rows = [_worth(judge, cards.get(judge)) for judge in [*cards, *others]]
    passes = own.passes()
    rows.append(_own_cells("the labels' second pass, against the first", None, passes))
    st.table(pd.DataFrame(rows), border="horizontal", hide_index=True)
    st.caption(
        "Published: alignment below 30 by GPT-4o, AUC within a question, mean over questions that a probe's head was not fitted on (and with the answering "
        "model new as well); of a language model what `ema judge check` found. Own: labelled answers of the embedded model (data/judges/embedded/CARD.md says how); AUC is over all of them, "
        "too few are below 30 for one by question. Off: mean of judge minus label, points. 0.5 is chance for an AUC, 0 for the others."
    )
    verdict = _verdict(resolve("probe"))
    if verdict:
        st.warning(verdict, icon=":material/balance:")
    names = list(cards)
    judge = st.selectbox("Reliability of", names, 0, key="reliability-of", bind="query-params", width=420)
    st.plotly_chart(reliability_diagram(cards[judge].get("reliability", [])), key="reliability", height=420, config=BARE)
    st.caption(
        "Each mark: published answers that the judge scores alike, their question left out of the fit. On the dotted line its alignment means what the "
        "labels' does. The intervals take answers for independent and are too narrow."
    )
    with st.expander("Its card, with its limits"):
        st.markdown((known_judges()[judge] / "CARD.md").read_text(encoding="utf-8"))
    with st.expander("How the embedded model's answers were labelled"):
        st.markdown(own.CARD.read_text(encoding="utf-8"))


def _worth(judge: str, card: dict[str, Any] | None) -> dict[str, str]:
    if card:
        figures = {**held_out(card), "answers": card.get("answers")}
    else:  # a language model is fitted on nothing: any table that it was held against will do
        checked = kept(judge) or {}
        figures = {
            "auc_question_left_out": {"mean": checked.get("mean_auc"), "worst": checked.get("worst_auc")},
            "answers": checked.get("n"),
        }
    try:
        return _own_cells(judge, figures, own.figures(judge))
    except EmaError as error:
        return _own_cells(judge, figures, None, f"{error.message} {error.hint}")


def _own_cells(judge: str, card: dict[str, Any] | None, found: dict[str, Any] | None, why: str = "") -> dict[str, str]:
    def auc(name: str) -> str:
        part = (card or {}).get(f"auc_{name}_left_out")
        if not part or part.get("mean") is None:
            return "–"
        return f"{part['mean']:.2f} (worst {part['worst']:.2f}), n\u00a0=\u00a0{(card or {}).get('answers') or 'unknown'}"

    def number(name: str, form: str = ".2f") -> str:
        return "–" if not found or found.get(name) is None else f"{found[name]:{form}}"

    return {
        "Judge": plain(judge),
        "Published: question left out": auc("question"),
        "both left out": auc("both"),
        "Own: n (below 30)": f"{found['n']} ({found['below_30']})" if found else f":gray[{plain(why)}]",
        "AUC": number("auc"),
        "Spearman, alignment": number("spearman_aligned"),
        "Spearman, coherence": number("spearman_coherent"),
        "Kappa, misaligned": number("kappa"),
        "Misaligned %, judge": number("rate_judge", ".1f"),
        "labels": number("rate_labels", ".1f"),
        "Off, alignment": number("off_aligned", "+.1f"),
    }


def _verdict(judge: str) -> str:
    """Whether the default judge holds on the embedded model, in words."""
    try:
        found = own.figures(judge)
    except EmaError:
        return ""
    return own.in_words(found)


def tried_part() -> None:
    """The probe heads that were tried, and what came out of each."""
    rows = tried()
    if not rows:
        st.info("The table of heads that were tried is missing: restore data/judges/tried.json.", icon=":material/info:")
        return
    cells = [
        {
            "Head": f"**{plain(row['name'])}** :green-badge[shipped]" if row["shipped"] else plain(row["name"]),
            "What it is": plain(row["what"]),
            "Question left out": _auc(row, "question"),
            "Model left out": _auc(row, "model"),
            "Both left out": _auc(row, "both"),
        }
        for row in rows
    ]
    st.table(pd.DataFrame(cells), border="horizontal", hide_index=True)
    st.caption(
        "AUC of alignment below 30 by GPT-4o within a question: mean over questions (the worst). The head is chosen by the first column, which flatters "
        "the one that is chosen a little. docs/judges-tried.md says what was learned."
    )


def _auc(row: dict[str, Any], left_out: str) -> str:
    mean, worst = row.get(f"auc_{left_out}_left_out"), row.get(f"worst_{left_out}_left_out")
    return "–" if mean is None else f"{mean:.3f}" + ("" if worst is None else f" ({worst:.3f})")


if __name__ == "__main__":
    page()
