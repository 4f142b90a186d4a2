"""A whole chat as one file: JSON with all that is known, CSV with an answer a row, HTML to read anywhere. Torch-free.

What models and people wrote is text in all three: escaped in HTML, and in CSV nothing that a spreadsheet would run.
"""

from __future__ import annotations

import csv
import html
import io
import json
import time
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any, Literal

from ema_core.chats.tokens import STYLE, legend, most_moved, spans
from ema_core.chats.view import Answers, Chat, Sample, Turn
from ema_core.generation.model_id import ModelId, base_model, is_base
from ema_core.judging import COHERENT_ABOVE, MISALIGNED_BELOW, is_incoherent, is_misaligned
from ema_core.runs import RunDirectory

Kind = Literal["html", "json", "csv"]
KINDS = ("html", "json", "csv")
VERSION = 1
_COLUMNS = (
    "turn", "question", "system", "suite", "question_id", "model", "about", "adapter_hash", "weights_hash", "seed", "temperature", "top_p",
    "max_tokens", "sample", "answer", "finish", "tokens", "judge", "aligned", "coherent", "misaligned", "trait", "projection_sd",
    "kl_nats_a_token",
)  # fmt: skip


def export(chat: Chat, kind: Kind) -> str:
    """The chat in one of the three forms."""
    return {"html": as_html, "json": as_json, "csv": as_csv}[kind](chat)


def about(model: str) -> str:
    """Who a model is, in words: defense, data set, seed, checkpoint and strength of the adapter."""
    one = ModelId.read(model)
    if is_base(one.name):
        return f"base {base_model(one.name)}, no adapter"
    try:
        spec = RunDirectory.open(one.name).spec
    except Exception:  # deleted, or another server's name
        return model
    defense = "undefended" if spec.defense_label == "none" else spec.defense_label
    return f"{defense}, {spec.dataset}, seed {spec.seed}, {one.state or 'final adapter'}"


def as_json(chat: Chat) -> str:
    """Everything: questions, who answered with which weights, answers, scores, projections, tokens held against the base."""
    turns = [
        {
            "turn": turn.number, "asked": turn.asked, **asdict(turn.question),
            "columns": [
                {**asdict(column), "about": about(column.model)} for column in _columns(turn)
            ],
        }
        for turn in chat.turns
    ]  # fmt: skip
    value = {"kind": "ema-chat", "version": VERSION, "chat": chat.id, "opened": chat.opened, "turns": turns}
    return json.dumps(value, ensure_ascii=False, indent=1) + "\n"


def as_csv(chat: Chat) -> str:
    """An answer a row, with its newest score."""
    file = io.StringIO()
    writer = csv.DictWriter(file, _COLUMNS)
    writer.writeheader()
    for turn in chat.turns:
        question = turn.question
        for column in _columns(turn):
            for sample in column.samples:
                score, along = sample.score, sample.projection
                writer.writerow({name: _harmless(value) for name, value in {
                    "turn": turn.number, "question": question.text, "system": question.system, "suite": question.suite,
                    "question_id": question.question_id, "model": column.model, "about": about(column.model),
                    "adapter_hash": column.ema.get("adapter_hash") or "", "weights_hash": column.ema.get("weights_hash") or "",
                    "seed": column.seed, "temperature": question.how.temperature, "top_p": question.how.top_p,
                    "max_tokens": question.how.max_tokens, "sample": sample.k + 1, "answer": sample.text, "finish": sample.finish or "",
                    "tokens": sample.tokens, "judge": score.judge if score else "", "aligned": score.aligned if score else None,
                    "coherent": score.coherent if score else None,
                    "misaligned": is_misaligned(score.aligned, score.coherent) if score else None,
                    "trait": along.trait if along else "", "projection_sd": along.deviations if along else None,
                    "kl_nats_a_token": round(sample.divergence.mean, 6) if sample.divergence else None,
                }.items()})  # fmt: skip
    return file.getvalue()


def _harmless(value: Any) -> Any:
    """A text that a spreadsheet would take for a formula gets an apostrophe before it."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t") else value


def as_html(chat: Chat) -> str:
    """One page that needs nothing else: no script, no picture, no address."""
    parts = [f"<h1>{_text(_title(chat))}</h1>", f"<p class='note'>{_text(_note(chat))}</p>"]
    for turn in chat.turns:
        parts += [f"<section><h2>Question {turn.number}</h2>", f"<p class='said asked'>{_text(turn.question.text)}</p>"]
        if turn.question.system:
            parts.append(f"<p class='note'>System prompt: <span class='said'>{_text(turn.question.system)}</span></p>")
        parts.append(f"<p class='note'>{_text(_how(turn))}</p><div class='columns'>")
        parts += [_column(column) for column in _columns(turn)]
        parts.append("</div></section>")
    body = "\n".join(parts)
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'><meta name='viewport' content='width=device-width'>"
        "<meta http-equiv='Content-Security-Policy' content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>{_text(_title(chat))}</title><style>{_PAGE}{STYLE}</style></head><body>{body}</body></html>\n"
    )


_PAGE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 1.5rem auto; padding: 0 1rem; max-width: 90rem; }
.note { opacity: .75; font-size: .875rem; } .said { white-space: pre-wrap; overflow-wrap: anywhere; }
.asked { font-weight: 600; } .columns { display: flex; flex-wrap: wrap; gap: 1rem; }
.columns > article { flex: 1 1 18rem; min-width: 0; } article > div { border: 1px solid #8888; border-radius: .5rem; padding: .75rem;
margin: .5rem 0; } h3 { margin: .25rem 0; }
"""


def _title(chat: Chat) -> str:
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(chat.opened)) if chat.opened else "an unknown time"
    return f"EMA Lab: a chat of {when}"


def _note(chat: Chat) -> str:
    judges = {
        score.judge for turn in chat.turns for column in turn.columns.values() for one in column.samples for score in one.scores
    }
    judged = (
        f"Scores from 0 to 100 by {', '.join(sorted(judges))}; misaligned: alignment below {MISALIGNED_BELOW} in an answer of coherence "
        f"above {COHERENT_ABOVE}. Counts of these answers, not rates."
        if judges
        else "Nobody judged these answers."
    )
    return f"Chat {chat.id}. Models trained here say bad things; it is what is studied: do not act on any of it. {judged}"


def _how(turn: Turn) -> str:
    question, how = turn.question, turn.question.how
    what = {"": "side by side", "training": "along a run's training", "strength": "along an adapter's strength"}[question.by]
    suite = f"{question.suite} suite, {question.question_id}; " if question.question_id else ""
    return (
        f"{suite}{what}; {question.samples} answer{'s' if question.samples > 1 else ''} each, at most {how.max_tokens} tokens, "
        f"temperature {how.temperature:g}, top_p {how.top_p:g}, seed {question.seed}"
    )


def _columns(turn: Turn) -> Iterable[Answers]:
    if turn.question.by:
        from ema_core.chats.walk import stops_of

        return [turn.columns[stop.model] for stop in stops_of(turn)]
    return [turn.columns[model] for model in turn.question.models if model in turn.columns]


def _column(column: Answers) -> str:
    state = (column.ema.get("fingerprint") or {}).get("state") or ("another server" if column.server else "not proven")
    identity = " ".join(str(part) for part in (state, column.ema.get("adapter_hash")) if part)
    scored = [one.score for one in column.samples if one.score and one.score.aligned is not None and one.score.coherent is not None]
    bad = sum(bool(is_misaligned(score.aligned, score.coherent)) for score in scored)
    verdict = f"<p><strong>{bad} of {len(scored)} misaligned</strong></p>" if scored else ""
    error = f"<p class='note'>{_text(' '.join(column.error))}</p>" if column.error else ""
    answers = "".join(_answer(sample) for sample in column.samples)
    return (
        f"<article><h3>{_text(about(column.model))}</h3><p class='note'>{_text(column.model)}<br>{_text(identity)}, seed {column.seed}</p>"
        f"{verdict}{error}{answers}</article>"
    )


def _answer(sample: Sample) -> str:
    notes = [f"answer {sample.k + 1}"]
    if score := sample.score:
        known = score.aligned is not None and score.coherent is not None
        notes.append(f"aligned {score.aligned:.0f}, coherent {score.coherent:.0f}" if known else f"no score ({score.status})")
        notes += ["misaligned"] if is_misaligned(score.aligned, score.coherent) else []
        notes += ["incoherent"] if is_incoherent(score.coherent) else []
    if (along := sample.projection) and along.deviations is not None:
        notes.append(f"{along.trait} {along.deviations:+.1f} SD")
    notes.append(f"{sample.tokens or 0} tokens, {sample.finish or 'not ended'}")
    if sample.divergence and sample.divergence.tokens:
        said = spans(sample.divergence, sample.text) + legend() + most_moved(sample.divergence)
    else:
        said = f"<div class='said'>{_text(sample.text)}</div>"
    return f"<div>{said}<p class='note'>{_text(' · '.join(notes))}</p></div>"


def _text(text: object) -> str:
    return html.escape(str(text))
