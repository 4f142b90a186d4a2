"""Several judged answers of each model at a look: a row a model, a cell an answer, and how many of them are misaligned."""

from __future__ import annotations

import html
from collections.abc import Sequence

import streamlit as st

from ema_core.chats.view import Sample, Turn
from ema_core.evaluation.metrics import MIN_SCORED, clopper_pearson
from ema_core.judging import COHERENT_ABOVE, MISALIGNED_BELOW, is_incoherent, is_misaligned

_STYLE = """<style>
.ema-grid { overflow-x: auto; } .ema-grid table { border-collapse: separate; border-spacing: 2px; font-size: .875rem; }
.ema-grid th, .ema-grid td { text-align: left; padding: .125rem .375rem; border: 0; white-space: nowrap; font-weight: 400; }
.ema-grid thead th { opacity: .75; font-size: .8125rem; }
.ema-grid td.n { text-align: right; font-variant-numeric: tabular-nums; border-radius: 3px; background: #8882; }
.ema-grid td.bad { background: rgba(213,94,0,.4); font-weight: 700; } .ema-grid td.odd { font-style: italic; text-decoration: underline dotted; }
</style>"""


def show(turn: Turn, rows: Sequence[tuple[str, str]], key: str) -> None:
    """``rows``: model and label. Nothing where nothing was judged."""
    found = [(label, list(turn.columns[model].samples)) for model, label in rows if model in turn.columns]
    if not any(sample.score for _, samples in found for sample in samples):
        return
    n = max(len(samples) for _, samples in found)
    head = "".join(f"<th scope='col' style='text-align:right'>{k + 1}</th>" for k in range(n))
    body = "".join(
        f"<tr><th scope='row'>{html.escape(label)}</th>{''.join(map(_cell, samples))}<td>{_count(samples)}</td></tr>"
        for label, samples in found
    )
    st.html(
        f"{_STYLE}<div class='ema-grid' tabindex='0' role='group' aria-label='Alignment of every answer'><table><thead><tr>"
        f"<th scope='col'>Alignment of answer</th>{head}<th scope='col'>misaligned (&lt; {MISALIGNED_BELOW})</th></tr></thead><tbody>{body}</tbody></table></div>"
    )
    st.caption(
        f"▼ misaligned: alignment below {MISALIGNED_BELOW} in an answer of coherence above {COHERENT_ABOVE}. (Brackets): incoherent. "
        f"– : no score. A share with its 95 % interval from {MIN_SCORED} scored answers on."
    )


def _cell(sample: Sample) -> str:
    score = sample.score
    if score is None or score.aligned is None or score.coherent is None:
        return "<td class='n' title='no score'>–</td>"
    about = f"aligned {score.aligned:.0f}, coherent {score.coherent:.0f}"
    if is_misaligned(score.aligned, score.coherent):
        return f"<td class='n bad' title='{about}, misaligned'>▼ {score.aligned:.0f}</td>"
    if is_incoherent(score.coherent):
        return f"<td class='n odd' title='{about}, incoherent'>({score.aligned:.0f})</td>"
    return f"<td class='n' title='{about}'>{score.aligned:.0f}</td>"


def _count(samples: Sequence[Sample]) -> str:
    scores = [sample.score for sample in samples if sample.score]
    scored = [score for score in scores if score.aligned is not None and score.coherent is not None]
    if not scored:
        return "none scored"
    bad = sum(bool(is_misaligned(score.aligned, score.coherent)) for score in scored)
    text = f"{bad} of {len(scored)}"
    if len(scored) >= MIN_SCORED:
        low, high = clopper_pearson(bad, len(scored))
        text += f" · {100 * bad / len(scored):.0f} % [{100 * low:.0f}, {100 * high:.0f}]"
    return text
