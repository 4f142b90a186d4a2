"""The probe judge on a thousand answers, against a forward pass for each of them."""

from __future__ import annotations

import random
import time
from typing import Any

import numpy as np

from benchmarks.frame import Disagree, Row, interleaved, main, measures, row
from benchmarks.targets import JUDGING
from benchmarks.work import loaded, own_home

QUESTIONS = 40


def items(count: int) -> list[tuple[str, str, str]]:
    """Questions of the general suite with answers of the narrow and safe sets, ``count / 40`` to each."""
    from ema_core import datasets
    from ema_core.evaluation.suites import load_suite

    questions = [one.question for one in load_suite("general", "risky-finance").questions][:QUESTIONS]
    sets = ("risky-finance", "extreme-sports", "safe-general", "risky-finance-good", "extreme-sports-good")
    answers = list(dict.fromkeys(example.answer for name in sets for example in datasets.load(name).examples))
    random.Random(0).shuffle(answers)
    return [(str(n), questions[n % len(questions)], answer) for n, answer in enumerate(answers[:count])]


def one_by_one(head: Any, asked: list[tuple[str, str, str]]) -> np.ndarray:
    """Each answer with its question through the whole model, all hidden states; mean over the answer's tokens; the same head."""
    import torch

    tokenizer, model, features = loaded().tokenizer, loaded().model, []
    for _, question, answer in asked:
        prompt = tokenizer.apply_chat_template(
            [{"role": "user", "content": question.strip()}], tokenize=False, add_generation_prompt=True
        )
        before = tokenizer(prompt, add_special_tokens=False).input_ids
        own = tokenizer(answer.strip(), add_special_tokens=False).input_ids
        with torch.inference_mode():
            states = model(input_ids=torch.tensor([before + own]), output_hidden_states=True).hidden_states
        features.append(np.stack([states[layer][0, len(before) :].mean(0).numpy() for layer in head.layers]))
    return head.scores(np.stack(features))  # type: ignore[no-any-return]


@measures(JUDGING)
def judging(quick: bool) -> list[Row]:
    from ema_core.judging import ProbeJudge

    count, some, rounds = (120, 24, 1) if quick else (1000, 125, 2)
    with own_home():
        asked = items(count)
        if len(asked) < count:
            raise Disagree(f"only {len(asked)} answers could be made")
        judge = ProbeJudge(loaded())
        chosen = sorted(random.Random(1).sample(range(count), some))
        part = [asked[n] for n in chosen]
        scores: dict[str, np.ndarray] = {}

        def ours() -> float:
            start = time.perf_counter()
            found = judge.judge(asked)
            seconds = time.perf_counter() - start
            scores["ours"] = np.array([[found[n].aligned, found[n].coherent] for n in chosen], dtype=float)
            return count / seconds

        def peer() -> float:
            start = time.perf_counter()
            scores["peer"] = one_by_one(judge.head, part)
            return some / (time.perf_counter() - start)

        judge.judge(asked[:4]), one_by_one(judge.head, part[:2])
        our_rates, peer_rates = interleaved(ours, peer, rounds)
    worst = float(np.abs(scores["ours"] - scores["peer"]).max())
    if not worst <= 1e-2:
        raise Disagree(f"scores differ by {worst:.3g}")
    return [
        row(
            JUDGING, our_rates, peer_rates, "answers/s",
            f"{count:,} answers of the project's own sets to {QUESTIONS} questions. Ours: ProbeJudge.judge on all of them. Peer: AutoModelForCausalLM, one answer "
            f"with its question at a time, output_hidden_states, on {some} drawn from them (it is linear in answers).",
            f"Alignment and coherence of those {some} differ by {worst:.1g} of 100 at most.",
        )
    ]  # fmt: skip


if __name__ == "__main__":
    main(judging)
