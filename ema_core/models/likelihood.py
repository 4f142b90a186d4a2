"""Log-likelihoods of written answers, which margins are made of. No sampling, no judge."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ema_core.datasets.encoding import Encoded, encode_pair
from ema_core.datasets.pairs import Pair
from ema_core.files import read_json, sha256_json, write_json
from ema_core.models.load import LoadedModel
from ema_core.models.outputs import outputs
from ema_core.models.ragged import common_prefix
from ema_core.settings import settings

if TYPE_CHECKING:
    import torch

BATCH = 16


@dataclass
class PromptStates:
    """Filled with each prompt's state [D] at its last token, as ``models.outputs`` counts layers (0: embedding), by pair id."""

    layer: int
    rows: dict[str, torch.Tensor] = field(default_factory=dict)


def answer_log_likelihoods(
    model: Any, loaded: LoadedModel, pairs: Sequence[Pair], on_batch: Callable[[int], None] = lambda n: None,
    states: PromptStates | None = None,
) -> dict[str, list[float]]:  # fmt: skip
    """Mean log-probability a token, in nats, of each pair's [aligned, misaligned] answer; the end-of-turn token counts.

    What prompts share is run once for all of them, a question once for both its answers. ``states`` is filled on the way.
    """
    import torch
    from transformers import DynamicCache

    plain = model.get_base_model() if hasattr(model, "get_base_model") else model
    body, head, device = plain.get_decoder(), plain.get_output_embeddings(), loaded.device
    rows = [_Row.of(pair, loaded) for pair in pairs]
    shared = rows[0].prompt[: common_prefix([row.prompt for row in rows])]
    rows.sort(key=lambda row: len(row.prompt))
    found: dict[str, list[float]] = {}
    with torch.inference_mode():
        for start in range(0, len(rows), BATCH):
            part = rows[start : start + BATCH]
            cache = DynamicCache(config=plain.config)
            body(input_ids=torch.tensor([shared], device=device), cache=cache, use_cache=True)
            cache.batch_repeat_interleave(len(part))
            prompts, mask = _padded([row.prompt[len(shared) :] for row in part], left=True)
            attention = torch.cat([torch.ones(len(part), len(shared), dtype=torch.long), mask], 1)
            where = (attention.cumsum(1) - 1).clamp(min=0)[:, len(shared) :]
            with outputs(body, [states.layer] if states else []) as seen:
                last = body(
                    input_ids=prompts.to(device),
                    attention_mask=attention.to(device),
                    position_ids=where.to(device),
                    cache=cache,
                    use_cache=True,
                ).last_hidden_state[:, -1:]
            if states:
                kept = seen[states.layer][:, -1].float().cpu()
                states.rows.update({row.pair_id: kept[i] for i, row in enumerate(part)})
            cache.batch_repeat_interleave(2)
            answers, real = _padded([answer for row in part for answer in row.answers], left=False)
            attention = torch.cat([attention.repeat_interleave(2, 0), real], 1)
            where = (attention.cumsum(1) - 1)[:, -answers.shape[1] :]
            hidden = body(
                input_ids=answers.to(device),
                attention_mask=attention.to(device),
                position_ids=where.to(device),
                cache=cache,
                use_cache=True,
            ).last_hidden_state
            # the state before a token predicts it: the prompt's last one, then all but the answer's last
            before = torch.cat([last.repeat_interleave(2, 0), hidden[:, :-1]], 1)[real.bool().to(device)]
            targets = answers[real.bool()].to(device)
            values = -torch.nn.functional.cross_entropy(head(before).float(), targets, reduction="none")
            means = [float(value.double().mean()) for value in values.split(real.sum(1).tolist())]
            found.update({row.pair_id: means[2 * i : 2 * i + 2] for i, row in enumerate(part)})
            on_batch(start + len(part))
    return found


@dataclass(frozen=True)
class _Row:
    pair_id: str
    prompt: tuple[int, ...]
    answers: tuple[tuple[int, ...], tuple[int, ...]]

    @classmethod
    def of(cls, pair: Pair, loaded: LoadedModel) -> _Row:
        sides = [
            encode_pair(pair.question, answer, loaded.tokenizer, loaded.context, pair.system)
            for answer in (pair.aligned, pair.misaligned)
        ]
        prompts, answers = zip(*(_split(side) for side in sides), strict=True)
        return cls(pair.id, prompts[0], answers)


def _split(row: Encoded) -> tuple[tuple[int, ...], tuple[int, ...]]:
    at = row.response.index(True)
    return row.ids[:at], row.ids[at:]


def _padded(rows: Sequence[tuple[int, ...]], left: bool) -> tuple[torch.Tensor, torch.Tensor]:
    import torch

    width = max(map(len, rows))
    ids, mask = torch.zeros(len(rows), width, dtype=torch.long), torch.zeros(len(rows), width, dtype=torch.long)
    for i, row in enumerate(rows):
        place = slice(width - len(row), width) if left else slice(0, len(row))
        ids[i, place], mask[i, place] = torch.tensor(row), 1
    return ids, mask


def base_log_likelihoods(
    loaded: LoadedModel, name: str, pairs: Sequence[Pair], on_batch: Callable[[int], None] = lambda n: None
) -> dict[str, list[float]]:
    """The same under the base model; kept under ``name`` and what the pairs say, as every run of a model is held against it."""
    digest = sha256_json([vars(pair) for pair in pairs])[:16]
    path = settings().cache / "margins" / f"{loaded.weights_hash}-{name}-{digest}-{loaded.device.type}.json"
    try:
        return dict(read_json(path))
    except (FileNotFoundError, json.JSONDecodeError):
        found = answer_log_likelihoods(loaded.model, loaded, pairs, on_batch)
        write_json(path, found)
        return found
