"""Gap scores on a page: score a pool, see every candidate, read the ones that would be chosen. The scores are in the address."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from ema_core import datasets, gap
from ema_core.defenses.base import Asset
from ema_core.defenses.interleaving_plus import scores_asset
from ema_core.defenses.registry import missing
from ema_core.figures import gap_scatter
from ema_core.jobs import launch
from ema_core.jobs.status import worker_status
from ema_core.models import CATALOG, EMBEDDED
from ema_core.training.estimate import asset_seconds
from pages.widgets.asset_jobs import chosen, progress
from pages.widgets.chrome import act, ago, duration, errors, notices, plain

LEAD = """Interleaving+ chooses the safe examples that models made misaligned on purpose find **least likely**, compared with the \
aligned model: score = (mean loss of the ensemble − loss of the aligned model) / (loss of the aligned model + 1 nat). The ensemble \
leaves the domain out that will be trained on, and each member is shown to be misaligned first. Interleaving++ drops refusals."""
DEFAULT_CHOSEN = 12
"""What 5 % of the demo recipe's 248 narrow examples come to."""


def gap_panel() -> None:
    """The whole part: what there is, the form for more, and the chosen scores' card, figure and table."""
    st.markdown(LEAD)
    known = {card.id: card for card in gap.cards()}
    if not known:
        st.info("No gap scores yet. Choose what will be trained on, and score a pool for it.", icon=":material/info:")
    with st.expander("Score a pool", expanded=not known, icon=":material/calculate:"), errors():
        _form()
    progress("gap", lambda job: f"{job.payload['pool']} for {job.payload['domain']}", "Scoring failed")
    if known:
        with errors():
            _scores(known)


def _form() -> None:
    entries = datasets.catalog().values()
    domains = list(dict.fromkeys(gap.domain_of(entry.name) for entry in entries if entry.kind != "safe"))
    with st.container(horizontal=True, key="gap-form"):
        pool = st.selectbox("Safe pool", [entry.name for entry in entries if entry.kind == "safe"], key="gap-pool", width=240)
        domain = st.selectbox(
            "For training on", domains, key="gap-domain", width=240, help="A domain; sets of it are left out of the ensemble."
        )
        model = st.selectbox("Model", list(CATALOG), list(CATALOG).index(EMBEDDED), key="gap-model", width=240)
    left, used = gap.left_out(domain), [entry.name for entry in gap.others(domain)]
    st.caption(
        f"Left out: {plain(', '.join(left)) or 'nothing, as no set of ours belongs to this domain'}. "
        f"Ensemble: {plain(', '.join(used)) or 'none'}."
    )
    todo = missing([scores_asset(model, pool, domain)])
    why = _why_not(todo)
    if why:
        st.caption(plain(why))
    for asset in todo:
        if asset.job:
            st.caption(f"{plain(asset.title)}: about {duration(asset_seconds(asset))}")
    if not worker_status().alive:
        st.caption("The worker is not running: the job would wait in the queue until it is there.")
    notices("gap")
    st.button(
        "Score the pool", key="gap-score", type="primary", disabled=bool(why), help=why or "Queues what is named above.",
        on_click=act, args=(launch.queue_assets, todo), kwargs={"slot": "gap", "done": "It is in the queue; progress stands below."},
    )  # fmt: skip


def _why_not(todo: list[Asset]) -> str:
    if not todo:
        return "These scores are there already; they can be chosen below."
    return next((f"{asset.title} cannot be made. {asset.hint}" for asset in todo if asset.job is None), "")


def _scores(known: dict[str, gap.Card]) -> None:
    one = chosen("Scores", known, "scores", "gap-scores", lambda one: known[one].label, "There are no gap scores")
    card = known[one]
    _card(card)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        count = st.number_input(
            "Safe examples chosen", 0, card.candidates, min(DEFAULT_CHOSEN, card.candidates), key="gap-count", width=200,
            help="Strength times the narrow examples of a run: 5 % of the demo's 248 are 12.",
        )  # fmt: skip
        without = st.toggle("Leave out refusals (Interleaving++)", key="gap-without-refusals")
    rows = _table(card, int(count or 0), without)
    st.plotly_chart(gap_scatter(rows), theme="streamlit", key="gap-figure", height=460, config={"displaylogo": False})
    st.caption(
        f"{card.candidates} candidates, {card.refusals} of them refusals, {int(rows['chosen'].sum())} chosen. Loss: mean negative "
        "log-likelihood of the answer's tokens given the question, in nats a token; no judge, no sampling."
    )
    _read(rows, card)


def _card(card: gap.Card) -> None:
    left = plain(", ".join(card.left_out)) or "nothing, as no other set belonged to this domain"
    st.markdown(
        f"Model **{plain(card.model)}** (weights {plain(card.weights_hash)}), pool **{plain(card.pool)}**, for training on "
        f"**{plain(card.domain)}**. Left out of the ensemble: {left}. Made {ago(card.created)} in {duration(card.seconds)}."
    )
    members = [(member, "shown misaligned") for member in card.members] + [(one, "left out: not shown") for one in card.refused]
    st.dataframe(
        pd.DataFrame(
            [
                {
                    "Member": member.run, "Data set": member.dataset, "Adapter": member.adapter_hash, "General margin": member.margin,
                    "95 % low": member.low, "95 % high": member.high, "Pairs": member.pairs, "Verdict": verdict,
                }
                for member, verdict in members
            ]
        ),
        hide_index=True, key="gap-members",
        column_config={
            name: st.column_config.NumberColumn(name, format="%+.3f") for name in ("General margin", "95 % low", "95 % high")
        },
    )  # fmt: skip


def _table(card: gap.Card, count: int, without_refusals: bool) -> pd.DataFrame:
    scores = gap.read_scores(card)
    chosen = set(gap.highest([s.score for s in scores], count, [not (without_refusals and s.refusal) for s in scores]))
    return pd.DataFrame([{**score.model_dump(), **score.by_member, "chosen": score.index in chosen} for score in scores])


def _read(rows: pd.DataFrame, card: gap.Card) -> None:
    numbers = {"score": "Score", "aligned": "Aligned", "misaligned": "Misaligned"}
    members = {member.run: member.dataset for member in card.members}
    view = rows.sort_values("score", ascending=False, kind="stable")
    columns = ["chosen", "refusal", *numbers, "question", "answer", *members]
    st.dataframe(
        view[columns],
        hide_index=True, key="gap-table", height=420,
        column_config={
            "chosen": st.column_config.CheckboxColumn("Chosen", width=70),
            "refusal": st.column_config.CheckboxColumn("Refusal", width=70),
            **{key: st.column_config.NumberColumn(label, format="%.4f", width=90) for key, label in numbers.items()},
            "question": st.column_config.TextColumn("Question", width=280),
            "answer": st.column_config.TextColumn("Answer", width=380),
            **{key: st.column_config.NumberColumn(f"Under {label}", format="%.4f") for key, label in members.items()},
        },
    )  # fmt: skip
