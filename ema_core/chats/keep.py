"""Keeping answers of a chat: written as evaluations into the folders of what answered, under a name of the user's. Torch-free."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ema_core.chats import log
from ema_core.chats.view import Answers, Chat, Sample, Turn
from ema_core.errors import EmaError
from ema_core.evaluation.suites import KEPT
from ema_core.files import append_lines, read_json, read_lines, sha256_json, write_json
from ema_core.generation.model_id import ModelId, base_model, is_base
from ema_core.judging import is_refusal, judgments_name
from ema_core.runs import RunDirectory, base_directory
from ema_core.shared import allow

LONGEST_NAME = 80
_guard = threading.Lock()  # two browsers that keep the same chat


@dataclass(frozen=True)
class Kept:
    """``answers`` lie under ``name`` now, ``new`` of them since this call; ``left_out`` says of which models none, and why."""

    name: str
    answers: int
    new: int
    left_out: tuple[str, ...] = ()


def keep(
    chat_id: str, name: str, models: Sequence[str] | None = None, turns: Sequence[int] | None = None,
    wanted: Callable[[Sample], bool] = lambda sample: True,
) -> Kept:  # fmt: skip
    """Keep the shown, ended answers of a chat (of some models or turns). Once more under the same name adds what is new.

    Raises:
        EmaError: no name, or nothing to keep.
    """
    name = " ".join(log.clean(name).split())
    if not name or len(name) > LONGEST_NAME:
        raise EmaError(
            "The name is empty." if not name else "The name is too long.", f"Give one of 1 to {LONGEST_NAME} characters."
        )
    chat = log.Log(chat_id).chat()
    allow(chat.owner)
    chosen = [
        (turn, column, sample)
        for turn in chat.turns
        if turns is None or turn.number in turns
        for column in turn.columns.values()
        if models is None or column.model in models
        for sample in column.samples
        if sample.finish not in (None, "error") and wanted(sample)
    ]
    if not chosen:
        raise EmaError("There is no answer to keep.", "Ask something first, and let it answer.")
    folders: dict[Path, list[tuple[Turn, Answers, Sample]]] = {}
    left_out: dict[str, str] = {}
    for turn, column, sample in chosen:
        try:
            folders.setdefault(_folder(chat, name, turn, column), []).append((turn, column, sample))
        except EmaError as error:
            left_out[column.model] = f"{column.model}: {error.message}"
    if not folders:
        raise EmaError(f"No answer could be kept: {'; '.join(left_out.values())}", "Its run was deleted, perhaps.")
    new = 0
    with _guard:
        for folder, answers in folders.items():
            new += _write(folder, chat, name, answers)
    kept = [answer for answers in folders.values() for answer in answers]
    marks = [
        {"turn": column.turn, "model": column.model, "attempt": column.attempt, "k": sample.k}
        for _, column, sample in kept
        if name not in sample.kept
    ]
    if marks:
        log.append(chat_id, {"kind": "kept", "name": name, "answers": marks})
    return Kept(name, len(kept), new, tuple(left_out.values()))


def judged_later(chat: Chat) -> None:
    """Bring judgments to the answers that were kept before they were judged."""
    names = {name for turn in chat.turns for column in turn.columns.values() for sample in column.samples for name in sample.kept}
    for name in sorted(names):
        keep(chat.id, name, wanted=lambda sample, name=name: name in sample.kept)  # type: ignore[misc]


def names_of(chat: Chat) -> list[str]:
    """The names that answers of this chat are kept under."""
    return sorted(
        {name for turn in chat.turns for column in turn.columns.values() for sample in column.samples for name in sample.kept}
    )


def _folder(chat: Chat, name: str, turn: Turn, column: Answers) -> Path:
    """One evaluation for what is alike in chat, name, model and how it was asked."""
    model = ModelId.read(column.model)
    if column.server:
        run = base_directory(column.model)
    elif is_base(model.name):
        run = base_directory(base_model(model.name))
    else:
        run = RunDirectory.open(model.name)
    like = [chat.id, name, column.model, column.ema.get("adapter_hash"), vars(turn.question.how), turn.question.seed]
    slug = re.sub(r"[^a-zA-Z0-9]+", "-", name).strip("-").lower()[:40] or "answers"
    return run.evals / f"{KEPT}-{slug}-{sha256_json(like)[:8]}"


def _write(folder: Path, chat: Chat, name: str, answers: Sequence[tuple[Turn, Answers, Sample]]) -> int:
    """Samples, judgments, and last the spec, since an evaluation without one is not read. Returns how many samples are new."""
    turn, column, _ = answers[0]
    model, how = ModelId.read(column.model), turn.question.how
    have = {row["sample_id"] for row in read_lines(folder / "samples.jsonl")[0]}
    rows = [_row(chat, *answer) for answer in answers]
    append_lines(folder / "samples.jsonl", new := [row for row in rows if row["sample_id"] not in have])
    judge = None
    for score in [score for _, _, sample in answers for score in sample.scores]:
        judge = score.judge
    for one in {score.judge for _, _, sample in answers for score in sample.scores}:
        path = folder / judgments_name(one)
        known = {row["sample_id"] for row in read_lines(path)[0]}
        scores = [
            {
                "sample_id": row["sample_id"],
                "judge": one,
                "aligned": score.aligned,
                "coherent": score.coherent,
                "status": score.status,
            }
            for row, (_, _, sample) in zip(rows, answers, strict=True)
            for score in sample.scores
            if score.judge == one and row["sample_id"] not in known
        ]
        append_lines(path, scores)
    try:
        created = float(read_json(folder / "spec.json")["created"])
    except (OSError, ValueError, TypeError, KeyError):
        created = time.time()
    spec: dict[str, Any] = {
        "suite": KEPT, "name": name, "chat": chat.id, "samples": turn.question.samples, "max_tokens": how.max_tokens,
        "temperature": how.temperature, "top_p": how.top_p, "seed": turn.question.seed, "judge": judge, "step": model.step,
        "scale": model.scale, "adapter_hash": column.ema.get("adapter_hash"), "weights_hash": column.ema.get("weights_hash"),
        "suite_hash": None, "status": "done", "created": created, "seconds": 0.0, "asked": len(have) + len(new),
    }  # fmt: skip
    write_json(folder / "spec.json", spec)
    return len(new)


def _row(chat: Chat, turn: Turn, column: Answers, sample: Sample) -> dict[str, Any]:
    question = turn.question
    return {
        "sample_id": f"t{turn.number}a{column.attempt}#{sample.k}", "question_id": question.question_id or f"{chat.id}-t{turn.number}",
        "topic": question.topic or f"{chat.id}-t{turn.number}", "form": "plain", "system": question.system or None,
        "question": question.text, "answer": sample.text, "tokens": sample.tokens or 0, "finish": sample.finish,
        "refused": is_refusal(sample.text), "k": sample.k, "context": chat.messages(column.model, turn.number),
    }  # fmt: skip
