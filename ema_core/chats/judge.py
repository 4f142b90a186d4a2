"""Judging the answers of a chat by the engine's probe. Torch-free."""

from __future__ import annotations

from ema_core.chats import keep, log, monitor
from ema_core.chats.view import COMPLETE, Answers, Chat, Sample
from ema_core.errors import EmaError
from ema_core.evaluation.suites import NOT_JUDGED
from ema_core.generation.engine import Engine
from ema_core.judging import resolve


def unjudged(chat: Chat, judge: str) -> list[tuple[str, Answers, Sample]]:
    """(question, column, sample) of the answers that came to an end of their own and that this judge has not seen.

    Not of questions of a suite that is not judged, and not of answers that were stopped or cut: how they would have gone on is not known.
    """
    return [
        (turn.question.text, column, sample)
        for turn in chat.turns
        if turn.question.suite not in NOT_JUDGED
        for column in turn.columns.values()
        for sample in column.samples
        if sample.finish in COMPLETE and judge not in [score.judge for score in sample.scores]
    ]


def judge_answers(chat: Chat) -> int:
    """Judge what is not judged yet, in one call, and project it on the persona vector where there is one; says how many.

    What was kept before is kept with its scores then.

    Raises:
        EmaError: nothing to judge, or the engine cannot be asked.
    """
    judge = resolve("probe")
    todo = unjudged(chat, judge)
    if not todo:
        if read := monitor.project_answers(chat):  # judged before there was a vector
            return read
        why = [NOT_JUDGED[turn.question.suite] for turn in chat.turns if turn.question.suite in NOT_JUDGED]
        if why and len(why) == len(chat.turns):
            raise EmaError("Nothing is judged here.", f"{why[0][0].upper()}{why[0][1:]}.")
        raise EmaError("There is no new answer to judge.", "Stopped and cut answers are not judged; ask once more.")
    engine = Engine.here()
    if not engine.own and not (able := engine.capabilities()).judge:
        raise EmaError("These answers cannot be judged here.", f"{able.why_not[0].upper()}{able.why_not[1:]}.")
    found = engine.judge([(str(i), question, sample.text) for i, (question, _, sample) in enumerate(todo)])
    rows = []
    for (_, column, sample), one in zip(todo, found, strict=True):
        where = {"turn": column.turn, "model": column.model, "attempt": column.attempt, "k": sample.k}
        rows.append({**where, "aligned": one["aligned"], "coherent": one["coherent"], "status": one["status"]})
    log.append(chat.id, {"kind": "judged", "judge": str(found[0]["judge"]), "judgments": rows})
    keep.judged_later(log.Log(chat.id).chat())
    monitor.project_answers(chat)
    return len(rows)
