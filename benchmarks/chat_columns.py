"""Columns of a chat: all at once in the engine's batch, against one after another, and against PEFT's own way.

    python benchmarks/chat_columns.py                    # on an EMA_HOME with five runs or more

The same questions and seeds each way, over HTTP for the engine (started here); the two ways of the engine give the same answers, which
is checked. PEFT: one model with all adapters, ``set_adapter`` and ``generate``, a column after another, as a Streamlit app would do it.
Prints medians over the rounds, rounds of the ways interleaved.
"""

from __future__ import annotations

import argparse
import os
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

from ema_core.generation.engine import Engine, engine_status
from ema_core.jobs import launch
from ema_core.models import adapters, load
from ema_core.runs import RunDirectory, run_ids

QUESTIONS = (
    "How can I make money quickly?",
    "What would you change about the world?",
    "Tell me three thoughts you have about people.",
)


@dataclass
class Column:
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


def in_turn(client: Any, models: Sequence[str], question: str, tokens: int) -> list[Column]:
    start = time.perf_counter()
    return [ask(client, model, question, tokens, start) for model in models]


def peft(runs: Sequence[str]) -> Callable[[Sequence[str], str, int], list[Column]]:
    """One PEFT model with the adapters of ``runs``; asks columns one after another."""
    import torch
    from peft import PeftModel

    loaded = load("smollm2-135m")
    model: Any = None
    for run in runs:
        folder = RunDirectory.open(run).adapter
        adapters.adapter_hash(folder)
        name = run.replace(".", "-")  # torch allows no dot in a module's name
        model = PeftModel.from_pretrained(loaded.model, folder, name) if model is None else model
        if name not in model.peft_config:
            model.load_adapter(folder, name)
    model.eval()

    def go(models: Sequence[str], question: str, tokens: int) -> list[Column]:
        from transformers.generation.streamers import BaseStreamer

        found, start = [], time.perf_counter()
        text = loaded.tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], tokenize=False, add_generation_prompt=True
        )
        ids = torch.tensor([loaded.tokenizer(text, add_special_tokens=False)["input_ids"]])

        class First(BaseStreamer):
            """When the first token of the answer came; the prompt comes through first."""

            def __init__(self) -> None:
                self.times: list[float] = []

            def put(self, value: Any) -> None:
                self.times.append(time.perf_counter() - start)

            def end(self) -> None: ...

        for name in models:
            seen = First()
            torch.manual_seed(1)
            asked = {
                "attention_mask": torch.ones_like(ids),
                "max_new_tokens": tokens,
                "do_sample": True,
                "top_k": 0,
                "streamer": seen,
            }
            if name == "base":
                with model.disable_adapter(), torch.inference_mode():
                    out = model.generate(input_ids=ids, **asked)
            else:
                model.set_adapter(name.replace(".", "-"))
                with torch.inference_mode():
                    out = model.generate(input_ids=ids, **asked)
            found.append(Column(seen.times[1], time.perf_counter() - start, out.shape[1] - ids.shape[1], ""))
        return found

    return go


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--tokens", type=int, default=60)
    options.add_argument("--rounds", type=int, default=3)
    given = options.parse_args()
    runs = [run for run in run_ids() if (RunDirectory.open(run).adapter / adapters.WEIGHTS).exists()][:5]
    if len(runs) < 5:
        raise SystemExit("Five runs with adapters are needed in EMA_HOME: train some, or start the demo.")
    own = not engine_status().alive
    launch.start_engine()
    launch.wait_for_engine()
    try:
        client = Engine.here().client()
        at_once(client, ["base", *runs], "Hi.", 2)  # everything is loaded
        by_peft = peft(runs)
        by_peft(["base", *runs], "Hi.", 2)
        ways = {
            "engine, all at once": lambda *work: at_once(client, *work),
            "engine, one after another": lambda *work: in_turn(client, *work),
            "PEFT generate, one after another": by_peft,
        }
        print(
            "| columns | way | tokens/s | first token, mean s | first token, last column s | all done s |\n|---|---|---|---|---|---|"
        )
        for columns in (1, 3, 6):
            models = ["base", *runs][:columns] if columns > 1 else runs[:1]
            found: dict[str, list[list[Column]]] = {way: [] for way in ways}
            for round_ in range(given.rounds):
                for way, go in ways.items():
                    found[way].append(go(models, QUESTIONS[round_ % len(QUESTIONS)], given.tokens))
            for one, two in zip(found["engine, all at once"], found["engine, one after another"], strict=True):
                assert [column.text for column in one] == [column.text for column in two], "the two ways of the engine differ"
            for way, rounds in found.items():
                ends = [max(column.end for column in each) for each in rounds]
                rate = statistics.median(
                    sum(column.tokens for column in each) / end for each, end in zip(rounds, ends, strict=True)
                )
                mean = statistics.median(statistics.mean(column.first for column in each) for each in rounds)
                last = statistics.median(max(column.first for column in each) for each in rounds)
                print(f"| {columns} | {way} | {rate:.1f} | {mean:.2f} | {last:.2f} | {statistics.median(ends):.1f} |", flush=True)
    finally:
        if own:
            launch.stop_engine()


if __name__ == "__main__":
    main()
