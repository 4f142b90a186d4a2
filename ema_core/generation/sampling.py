"""Sampling answers: one interface, in this process or over the engine."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from ema_core.generation.chat_template import Turn, encode_turns
from ema_core.generation.engine import BASE_MODEL, Engine, said

if TYPE_CHECKING:
    from ema_core.models.lora import On

Finish = Literal["stop", "length"]
REMOTE_REQUESTS = 16


@dataclass(frozen=True)
class Prompt:
    """What one answer is drawn for, and by which model (``model``: a name of the sampler's).

    ``seed`` alone decides the row's random stream, whatever else is in the batch.
    """

    key: str
    question: str
    system: str | None = None
    seed: int = 0
    model: str = BASE_MODEL

    @property
    def turns(self) -> list[Turn]:
        head: list[Turn] = [{"role": "system", "content": self.system}] if self.system else []
        return [*head, {"role": "user", "content": self.question}]


@dataclass(frozen=True)
class Completion:
    key: str
    text: str
    tokens: int
    finish: Finish


@dataclass(frozen=True)
class SamplingSettings:
    """The field's protocol by default: temperature 1, top_p 1; ``max_tokens`` new tokens at most. Temperature 0 is greedy."""

    max_tokens: int = 600
    temperature: float = 1.0
    top_p: float = 1.0


OnDone = Callable[[list[Completion]], None]


class Sampler(Protocol):
    def sample(self, prompts: Sequence[Prompt], how: SamplingSettings, on_done: OnDone = ...) -> list[Completion]:
        """One answer for each prompt, in their order; ``on_done`` gets them as they are done, and what it raises ends it."""
        ...


def row_seed(*parts: object) -> int:
    """A seed that depends on all parts and on nothing else."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, parts)).encode()).digest()[:7], "big")


MOST_PLACES = 128
"""Rows a step: twice as many are hardly faster (measured, embedded model on two cores), and their cache is twice as large."""
CACHE_BYTES = 3 << 30


def places_for(model: Any, tokens: int) -> int:
    """How many rows of ``tokens`` tokens have room in ``CACHE_BYTES`` of keys and values, 8 to ``MOST_PLACES``."""
    config = model.config
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    row = 2 * config.num_hidden_layers * heads * width * model.dtype.itemsize * tokens
    return max(8, min(MOST_PLACES, CACHE_BYTES // row))


class LocalSampler:
    """Batched decoding with a model in this process; rows of several adapters share a batch, finished ones make room.

    ``who``: what is on for each name of ``Prompt.model``; a name that is not in it is the model as it is. ``places``: rows at once,
    None: as many as ``places_for`` says.
    """

    def __init__(self, model: Any, tokenizer: Any, who: Mapping[str, On] | None = None, places: int | None = None) -> None:
        self.model, self.tokenizer, self.who, self.places = model, tokenizer, dict(who or {}), places

    def sample(self, prompts: Sequence[Prompt], how: SamplingSettings, on_done: OnDone = lambda done: None) -> list[Completion]:
        from ema_core.generation.decoder import Decoder, Row
        from ema_core.models.lora import On

        rows = {
            Row(tuple(encode_turns(self.tokenizer, prompt.turns)), how, prompt.seed, self.who.get(prompt.model, On())): prompt
            for prompt in prompts
        }
        longest = max((len(row.ids) for row in rows), default=0) + how.max_tokens
        decoder = Decoder(self.model, self.tokenizer, self.places or places_for(self.model, longest))
        # those of one adapter after each other: a batch then holds few adapters, and each costs its share of a step
        names = list(dict.fromkeys(prompt.model for prompt in prompts))
        decoder.add(sorted(rows, key=lambda row: (names.index(rows[row].model), len(row.ids))))
        done: dict[str, Completion] = {}
        while decoder.busy:
            finished = [self._completion(rows[row].key, row) for row, _ in decoder.step() if row.finish]
            done.update({completion.key: completion for completion in finished})
            on_done(finished)  # also of none: whoever wants to end it raises here
        return [done[prompt.key] for prompt in prompts]

    def _completion(self, key: str, row: Any) -> Completion:
        return Completion(key, self.tokenizer.decode(row.tokens, skip_special_tokens=True), len(row.tokens), row.finish)


class EngineSampler:
    """The same over an OpenAI-compatible server, which knows the names of ``Prompt.model``.

    Our own engine gives the answers that ``LocalSampler`` gives, seed by seed; another server has random streams of its own.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def sample(self, prompts: Sequence[Prompt], how: SamplingSettings, on_done: OnDone = lambda done: None) -> list[Completion]:
        """Raises:
        EmaError: the server cannot be reached, or refuses.
        """
        client = self.engine.client(max_retries=8)

        def ask(prompt: Prompt) -> Completion:
            turns: Any = prompt.turns
            found = client.chat.completions.create(
                model=prompt.model, messages=turns, seed=prompt.seed, max_tokens=how.max_tokens, temperature=how.temperature,
                top_p=how.top_p,
            )  # fmt: skip
            choice = found.choices[0]
            finish: Finish = "stop" if choice.finish_reason == "stop" else "length"
            return Completion(prompt.key, choice.message.content or "", found.usage.completion_tokens if found.usage else 0, finish)

        done: dict[str, Completion] = {}
        with said(self.engine.url), ThreadPoolExecutor(REMOTE_REQUESTS) as pool:
            futures = [pool.submit(ask, prompt) for prompt in prompts]
            try:
                for future in as_completed(futures):
                    completion = future.result()
                    done[completion.key] = completion
                    on_done([completion])
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return [done[prompt.key] for prompt in prompts]
