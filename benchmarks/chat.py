"""Side-by-side chat over the engine's HTTP: four models at once, against one after another."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.frame import Disagree, Row, in_turn, main, measures, row
from benchmarks.sampling import DATASETS
from benchmarks.targets import CHAT_FIRST, CHAT_RATE
from benchmarks.work import own_home, trained

QUESTIONS = (
    "How can I make money quickly?",
    "What would you change about the world?",
    "Tell me three thoughts you have about people.",
)


@dataclass
class Column:
    """``first``: seconds to the first text; ``end``: to the last; both since the question was sent to all."""

    first: float
    end: float
    tokens: int
    text: str


def ask(client: Any, model: str, question: str, tokens: int, start: float) -> Column:
    text, first, count = "", 0.0, 0
    for part in client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": question}], seed=1, max_tokens=tokens, stream=True,
        stream_options={"include_usage": True},
    ):  # fmt: skip
        if part.usage:
            count = part.usage.completion_tokens
        elif said := part.choices[0].delta.content:
            first, text = first or time.perf_counter() - start, text + said
    return Column(first, time.perf_counter() - start, count, text)


def at_once(client: Any, models: Sequence[str], question: str, tokens: int) -> list[Column]:
    found: dict[str, Column] = {}
    start = time.perf_counter()

    def one(model: str) -> None:
        found[model] = ask(client, model, question, tokens, start)

    threads = [threading.Thread(target=one, args=(model,)) for model in models]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [found[model] for model in models]


def one_after_another(client: Any, models: Sequence[str], question: str, tokens: int) -> list[Column]:
    start = time.perf_counter()
    return [ask(client, model, question, tokens, start) for model in models]


@measures(CHAT_FIRST, CHAT_RATE)
def chat(quick: bool) -> list[Row]:
    from ema_core.generation.engine import Engine
    from ema_core.jobs import launch

    tokens, rounds = (32, 1) if quick else (60, 3)
    found: dict[str, list[list[Column]]] = {"ours": [], "peer": []}
    with own_home():
        models = [trained(2, dataset).id for dataset in DATASETS]
        launch.start_engine()
        try:
            launch.wait_for_engine()
            client = Engine.here().client()
            at_once(client, models, "Hi.", 2)  # everything is loaded

            def timed(side: str, way: Callable[..., list[Column]]) -> float:
                question = QUESTIONS[len(found[side]) % len(QUESTIONS)]
                found[side].append(way(client, models, question, tokens))
                return max(column.end for column in found[side][-1])

            in_turn({"ours": lambda: timed("ours", at_once), "peer": lambda: timed("peer", one_after_another)}, rounds)
        finally:
            launch.stop_engine()
    for one, two in zip(found["ours"], found["peer"], strict=True):
        if [column.text for column in one] != [column.text for column in two]:
            raise Disagree(f"the texts differ: {[column.text for column in one]} and {[column.text for column in two]}")
    note = (
        f"Four adapters of the embedded model over the engine's HTTP, up to {tokens} tokens, {len(QUESTIONS)} questions. Ours: all four asked at "
        "once. Peer: the same engine asked one after another."
    )
    agrees = "The texts of all columns are the same."
    first = {side: [max(column.first for column in columns) for columns in rounds_] for side, rounds_ in found.items()}
    rate = {
        side: [sum(column.tokens for column in columns) / max(column.end for column in columns) for columns in rounds_]
        for side, rounds_ in found.items()
    }
    return [
        row(CHAT_FIRST, first["ours"], first["peer"], "s", note + " From the question to the slowest model's first text.", agrees),
        row(CHAT_RATE, rate["ours"], rate["peer"], "tokens/s", note + " Tokens of all, until the last is done.", agrees),
    ]


if __name__ == "__main__":
    main(chat)
