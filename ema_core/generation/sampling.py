"""Sampling answers: one interface, in process here; the engine's client has the same one."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

Finish = Literal["stop", "length"]


@dataclass(frozen=True)
class Prompt:
    """What one answer is drawn for. ``seed`` alone decides the row's random stream, whatever else is in the batch."""

    key: str
    question: str
    system: str | None = None
    seed: int = 0


@dataclass(frozen=True)
class Completion:
    key: str
    text: str
    tokens: int
    finish: Finish


@dataclass(frozen=True)
class SamplingSettings:
    """FIELD's protocol by default: temperature 1, top_p 1; ``max_tokens`` new tokens at most. Temperature 0 is greedy."""

    max_tokens: int = 600
    temperature: float = 1.0
    top_p: float = 1.0


class Sampler(Protocol):
    def sample(
        self, prompts: Sequence[Prompt], how: SamplingSettings, on_batch: Callable[[list[Completion]], None] = ...
    ) -> list[Completion]:
        """One answer for each prompt, in their order; ``on_batch`` gets them as they are done."""
        ...


def row_seed(*parts: object) -> int:
    """A seed that depends on all parts and on nothing else."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, parts)).encode()).digest()[:7], "big")


class LocalSampler:
    """Batched decoding with a model in this process; rows that are finished leave the batch."""

    def __init__(self, model: Any, tokenizer: Any, batch_size: int = 32) -> None:
        self.model, self.tokenizer, self.batch_size = model, tokenizer, batch_size

    def sample(
        self, prompts: Sequence[Prompt], how: SamplingSettings, on_batch: Callable[[list[Completion]], None] = lambda done: None
    ) -> list[Completion]:
        encoded = {prompt.key: self._encode(prompt) for prompt in prompts}
        order = sorted(prompts, key=lambda prompt: len(encoded[prompt.key]))
        done: dict[str, Completion] = {}
        for start in range(0, len(order), self.batch_size):
            batch = order[start : start + self.batch_size]
            finished = self._decode(batch, [encoded[prompt.key] for prompt in batch], how)
            done.update({completion.key: completion for completion in finished})
            on_batch(finished)
        return [done[prompt.key] for prompt in prompts]

    def _encode(self, prompt: Prompt) -> list[int]:
        turns = [{"role": "system", "content": prompt.system}] if prompt.system else []
        turns.append({"role": "user", "content": prompt.question})
        text = self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _decode(self, prompts: Sequence[Prompt], rows: list[list[int]], how: SamplingSettings) -> list[Completion]:
        import torch
        from transformers import DynamicCache

        device = self.model.device
        width = max(map(len, rows))
        ids = torch.full((len(rows), width), self.tokenizer.pad_token_id)
        attention = torch.zeros((len(rows), width), dtype=torch.long)
        for i, row in enumerate(rows):  # left padding: the last column is every row's newest token
            ids[i, width - len(row) :] = torch.tensor(row)
            attention[i, width - len(row) :] = 1
        ids, attention = ids.to(device), attention.to(device)
        generators = [torch.Generator().manual_seed(prompt.seed) for prompt in prompts]
        answers: list[list[int]] = [[] for _ in prompts]
        finish: list[Finish] = ["length" for _ in prompts]
        alive = list(range(len(prompts)))
        cache = DynamicCache(config=self.model.config)
        stops = set(self._stop_ids())
        with torch.inference_mode():
            for _ in range(how.max_tokens):
                where = (attention.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
                logits = self.model(
                    input_ids=ids,
                    attention_mask=attention,
                    position_ids=where,
                    past_key_values=cache,
                    use_cache=True,
                    logits_to_keep=1,
                ).logits[:, -1]
                chosen = choose(logits, [generators[i] for i in alive], how)
                keep = []
                for place, i in enumerate(alive):
                    token = int(chosen[place])
                    if token in stops:
                        finish[i] = "stop"
                    else:
                        answers[i].append(token)
                        keep.append(place)
                if not keep:
                    break
                index = torch.tensor(keep, device=device)
                if len(keep) < len(alive):
                    cache.batch_select_indices(index)
                    attention = attention[index]
                    alive = [alive[place] for place in keep]
                ids = chosen.to(device)[index].unsqueeze(1)
                attention = torch.cat([attention, attention.new_ones((len(keep), 1))], 1)
        return [
            Completion(prompt.key, self.tokenizer.decode(answer, skip_special_tokens=True), len(answer), end)
            for prompt, answer, end in zip(prompts, answers, finish, strict=True)
        ]

    def _stop_ids(self) -> list[int]:
        configured = getattr(self.model.generation_config, "eos_token_id", None)
        ids = configured if isinstance(configured, list) else [configured]
        return [i for i in {*ids, self.tokenizer.eos_token_id} if i is not None]


def choose(logits: Any, generators: list[Any], how: SamplingSettings) -> Any:
    """Next token of each row [B] from logits [B, V], by inverse CDF with one uniform number from the row's own generator."""
    import torch

    if how.temperature == 0:
        return logits.argmax(-1)
    p = (logits.float() / how.temperature).softmax(-1)
    if how.top_p < 1:
        ordered, index = p.sort(-1, descending=True)
        ordered[ordered.cumsum(-1) - ordered >= how.top_p] = 0  # the token that crosses top_p stays
        p = torch.zeros_like(p).scatter_(-1, index, ordered)
    mass = p.double().cumsum(-1)
    u = torch.tensor([float(torch.rand((), generator=g, dtype=torch.float64)) for g in generators], device=mass.device)
    return torch.searchsorted(mass, (u * mass[:, -1]).unsqueeze(1), right=True).squeeze(1).clamp(max=p.shape[-1] - 1)
