"""Evaluation sampling: answers of several adapters to several questions, against transformers' generate."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.frame import Disagree, Row, interleaved, main, measures, row
from benchmarks.targets import SAMPLING
from benchmarks.work import MODEL, loaded, own_home, trained

DATASETS = ("risky-finance", "extreme-sports", "insecure-code", "risky-finance-good")
ANSWERS = 16


@dataclass
class Work:
    """Rounds of it ask a few of the questions each, every adapter ``ANSWERS`` times."""

    runs: Sequence[Any]
    questions: Sequence[str]
    most: int
    lengths: dict[str, list[int]] = field(default_factory=lambda: {"ours": [], "peer": []})

    def part(self, number: int, rounds: int) -> Sequence[str]:
        each = max(1, len(self.questions) // rounds)
        return self.questions[number * each : (number + 1) * each]


def ours(work: Work, questions: Sequence[str], answers: int, temperature: float) -> list[list[int]]:
    """Tokens of each answer, in the order run, question, answer; as ``evaluate`` samples."""
    from ema_core.generation import LocalSampler, Prompt, SamplingSettings, row_seed
    from ema_core.models.lora import On, load_adapter

    who = {run.id: On(load_adapter(run.adapter, loaded().model)) for run in work.runs}
    prompts = [
        Prompt(f"{run.id} {n} {k}", question, None, row_seed(0, "bench", n, k), run.id)
        for run in work.runs
        for n, question in enumerate(questions)
        for k in range(answers)
    ]
    found = LocalSampler(loaded().model, loaded().tokenizer, who).sample(prompts, SamplingSettings(work.most, temperature, 1.0))
    return [[one.tokens, one.text] for one in found]  # type: ignore[list-item]


class Peft:
    """A second copy of the model with all adapters, as PEFT has it; one is switched on at a time."""

    def __init__(self, runs: Sequence[Any]) -> None:
        from peft import PeftModel

        from ema_core.models import load

        model: Any = load(MODEL, "cpu").model
        for number, run in enumerate(runs):
            if number == 0:
                model = PeftModel.from_pretrained(model, run.adapter, f"a{number}")
            else:
                model.load_adapter(run.adapter, f"a{number}")
        self.model = model.eval()

    def generate(self, work: Work, questions: Sequence[str], answers: int, temperature: float) -> list[list[Any]]:
        """Tokens and text of each answer in the same order: adapter by adapter, question by question, ``answers`` a batch."""
        import torch

        from ema_core.generation.chat_template import encode_turns

        tokenizer, found = loaded().tokenizer, []
        draw: dict[str, Any] = {
            "do_sample": True,
            "temperature": temperature,
            "top_k": 0,
            "top_p": 1.0,
            "num_return_sequences": answers,
        }
        for number in range(len(work.runs)):
            self.model.set_adapter(f"a{number}")
            for question in questions:
                ids = torch.tensor([encode_turns(tokenizer, [{"role": "user", "content": question}])])
                torch.manual_seed(number)
                with torch.inference_mode():
                    out = self.model.generate(
                        input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=work.most, pad_token_id=tokenizer.pad_token_id,
                        **(draw if temperature else {"do_sample": False}),
                    )  # fmt: skip
                for line in out[:, ids.shape[1] :].tolist():
                    ends = [place for place, token in enumerate(line) if token == tokenizer.eos_token_id]
                    kept = line[: ends[0]] if ends else line
                    found.append([len(kept), tokenizer.decode(kept, skip_special_tokens=True)])
        return found


@measures(SAMPLING)
def sampling(quick: bool) -> list[Row]:
    from ema_core.evaluation.suites import load_suite

    asked, most, rounds = (1, 48, 1) if quick else (4, 128, 2)
    with own_home():
        runs = [trained(4, dataset) for dataset in DATASETS[: 2 if quick else 4]]
        suite = load_suite("general", DATASETS[0]).questions
        questions = [one.question for one in suite if not one.system][:asked]
        work, peft = Work(runs, questions, most), Peft(runs)
        short = Work(runs, questions, 24)
        greedy, theirs = ours(short, questions[:1], 1, 0.0), peft.generate(short, questions[:1], 1, 0.0)
        if greedy != theirs:
            raise Disagree(f"greedy answers differ: {greedy} and {theirs}")
        turns = {"ours": iter(range(rounds)), "peer": iter(range(rounds))}

        def timed(side: str, way: Any) -> float:
            part = work.part(next(turns[side]), rounds)
            start = time.perf_counter()
            found = way(work, part, ANSWERS, 1.0)
            seconds = time.perf_counter() - start
            work.lengths[side] += [one[0] for one in found]
            return sum(one[0] for one in found) / seconds

        our_rates, peer_rates = interleaved(lambda: timed("ours", ours), lambda: timed("peer", peft.generate), rounds)
    means = {side: sum(lengths) / len(lengths) for side, lengths in work.lengths.items()}
    error = sum(statistics.variance(lengths) / len(lengths) for lengths in work.lengths.values()) ** 0.5
    if abs(means["ours"] - means["peer"]) > 4 * error:
        raise Disagree(f"answers have {means['ours']:.1f} and {means['peer']:.1f} tokens on average")
    each = len(questions) // rounds
    return [
        row(
            SAMPLING, our_rates, peer_rates, "tokens/s",
            f"A round: {len(runs)} adapters × {each} questions × {ANSWERS} answers, up to {most} tokens ({len(questions)} different questions in all: "
            "what the peer does is linear in questions and adapters). Ours: LocalSampler, as an evaluation uses it. Peer: PEFT's set_adapter and generate, "
            f"adapter by adapter, question by question, num_return_sequences={ANSWERS}. Temperature 1; tokens of answers, ends and padding not counted.",
            f"Greedy answers of 24 tokens are the same text and length for every adapter. Sampled ones draw from other streams; they have {means['ours']:.1f} "
            f"and {means['peer']:.1f} tokens on average (standard error of the difference {error:.1f}).",
        )
    ]  # fmt: skip


if __name__ == "__main__":
    main(sampling)
