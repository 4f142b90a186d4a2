"""The decode loop: rows join, leave, are cancelled, are long; and the text that comes of tokens."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ema_core.generation.chat_template import AnswerText, encode_turns
from ema_core.generation.decoder import PREFILL_TOKENS, Decoder, Row, choose
from ema_core.generation.sampling import SamplingSettings
from ema_core.models.lora import Adapter, On

pytestmark = pytest.mark.slow


def ids_of(model, text: str) -> tuple[int, ...]:
    return tuple(encode_turns(model.tokenizer, [{"role": "user", "content": text}]))


def finished(decoder: Decoder) -> None:
    while decoder.busy:
        decoder.step()


def greedy(model, ids: tuple[int, ...], tokens: int) -> list[int]:
    import torch

    found = model.model.generate(
        torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long), max_new_tokens=tokens, do_sample=False
    )
    return found[0, len(ids) :].tolist()


def test_rows_that_join_and_leave_get_transformers_own_greedy_answers(model) -> None:
    texts = ["Name a colour.", "What is the capital of France?", "Why? " * 30, "Hello", "Tell me of the sea and the shore."]
    decoder = Decoder(model.model, model.tokenizer, places=3)
    rows = [Row(ids_of(model, text), SamplingSettings(6 + 3 * n, 0), n) for n, text in enumerate(texts)]
    decoder.add(rows[:2])
    for _ in range(3):
        decoder.step()
    decoder.add(rows[2:])
    finished(decoder)
    stops = decoder.stops
    for row in rows:
        want = greedy(model, row.ids, row.how.max_tokens)
        assert row.tokens == [token for token in want if token not in stops]
        assert row.finish == ("stop" if want[-1] in stops else "length")
    assert decoder.counts.most_rows == 3


def test_a_long_prompt_is_read_in_pieces_while_others_are_answered(model) -> None:
    decoder = Decoder(model.model, model.tokenizer)
    long = Row(ids_of(model, "The sea is wide. " * 500), SamplingSettings(3, 0), 0)
    short = Row(ids_of(model, "Hello"), SamplingSettings(40, 0), 0)
    assert len(long.ids) > 2 * PREFILL_TOKENS
    decoder.add([short])
    decoder.step()
    decoder.add([long])
    spoke = []
    while not long.tokens:
        spoke.append(len(short.tokens))
        decoder.step()
    assert len(spoke) >= 3 and spoke[-1] > spoke[0], "the short answer went on meanwhile"
    finished(decoder)
    assert long.tokens == greedy(model, long.ids, 3)


def test_cancelled_rows_leave_whether_they_wait_are_read_or_answered(model) -> None:
    decoder = Decoder(model.model, model.tokenizer, places=2)
    how = SamplingSettings(12, 0)
    rows = [Row(ids_of(model, text), how, 0) for text in ("Name a colour.", "What is your wish?", "Hello", "Why?")]
    decoder.add(rows)
    decoder.step()
    rows[0].cancelled = rows[2].cancelled = True
    finished(decoder)
    assert len(rows[0].tokens) <= 1 and not rows[2].tokens and rows[0].finish is None
    for row in (rows[1], rows[3]):
        assert row.tokens == [token for token in greedy(model, row.ids, 12) if token not in decoder.stops]


def test_a_prompt_asked_several_times_is_read_once(model) -> None:
    decoder = Decoder(model.model, model.tokenizer)
    ids = ids_of(model, "Tell me something new.")
    rows = [Row(ids, SamplingSettings(8), seed) for seed in range(5)]
    decoder.add(rows)
    finished(decoder)
    assert decoder.counts.prompt_tokens == len(ids)
    assert len({tuple(row.tokens) for row in rows}) > 1
    again = Row(ids, SamplingSettings(8), 3)
    decoder.add([again])
    finished(decoder)
    assert again.tokens == rows[3].tokens


def test_one_prompt_asked_of_two_adapters_in_turns_is_answered_by_each(model) -> None:
    """Two browsers ask the same of the same models: their rows come as A, B, A, B, and A's prompt is read once for both of its."""
    import torch

    torch.manual_seed(0)
    name = "model.layers.20.mlp.down_proj"
    linear = model.model.get_submodule(name)
    ones = [
        On(Adapter(Path(), str(n), {name: (torch.randn(linear.in_features, 4), torch.randn(4, linear.out_features))}))
        for n in (0, 1)
    ]
    ids, how = ids_of(model, "Name a colour."), SamplingSettings(8, 0)

    def answers(*order: On) -> list[list[int]]:
        decoder = Decoder(model.model, model.tokenizer)
        rows = [Row(ids, how, 0, on) for on in order]
        decoder.add(rows)
        finished(decoder)
        return [row.tokens for row in rows]

    a, b = answers(ones[0])[0], answers(ones[1])[0]
    assert len(a) > 2 and len(b) > 2 and a != b
    assert answers(ones[0], ones[1], ones[0], ones[1]) == [a, b, a, b]


def test_an_answer_ends_at_the_end_of_the_context(model) -> None:
    ids = ids_of(model, "Tell me a story.")
    decoder = Decoder(model.model, model.tokenizer, context=len(ids) + 4)
    row = Row(ids, SamplingSettings(50, 0), 0)
    decoder.add([row])
    finished(decoder)
    assert len(row.tokens) == 4 and row.finish == "length"


def test_tokens_are_drawn_with_the_models_probabilities() -> None:
    """20,000 draws against softmax(logits/T) within the nucleus; 5 standard errors."""
    import torch

    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0, -3.0]])
    generator, n = np.random.default_rng(0), 20_000
    for how in (SamplingSettings(1, 1.0), SamplingSettings(1, 0.5), SamplingSettings(1, 1.0, 0.9)):
        p = (logits[0].double() / how.temperature).softmax(-1)
        if how.top_p < 1:
            p[3:] = 0  # 0.64 + 0.24 + 0.09 crosses 0.9
            p /= p.sum()
        drawn = choose(logits.repeat(n, 1), [generator] * n, [how] * n)
        share = torch.bincount(drawn, minlength=5).double() / n
        assert ((share - p).abs() <= 5 * (p * (1 - p) / n).sqrt() + 1e-9).all(), (how, share, p)


def test_a_temperature_next_to_nothing_takes_the_likeliest_token() -> None:
    import torch

    for temperature in (0.0, 1e-46, 1e-40, 1e-7):
        assert choose(torch.tensor([[1.0, 2.0, 30.0]]), [np.random.default_rng()], [SamplingSettings(1, temperature)]).tolist() == [
            2
        ]


def test_text_comes_in_whole_characters_and_stops_at_stop_strings(model) -> None:
    text = "Größe: 🏳️‍🌈 naïve 日本語 — end of it. And more"
    ids = model.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert len(ids) > len(text.split())
    reader = AnswerText(model.tokenizer)
    parts = [reader.push(token) for token in ids]
    assert "".join(parts) + reader.end() == text and not any("\ufffd" in part for part in parts)
    for stop, want in ((["end of"], text[: text.index("end of")]), (["no such"], text), (["日", "本"], text[: text.index("日")])):
        reader = AnswerText(model.tokenizer, stop)
        said = ""
        for token in ids:
            said += reader.push(token)
            if reader.stopped:
                break
        said += reader.end()
        assert said == want and reader.stopped == (want != text)
