"""The margin: how much likelier the misaligned answer is than the aligned one. No sampling, no judge."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from ema_core.datasets.encoding import collate, encode_pair
from ema_core.evaluation.suites import Pair, Suite
from ema_core.files import read_json, write_json
from ema_core.models import LoadedModel
from ema_core.settings import settings

BATCH = 16


def answer_log_likelihoods(model: Any, loaded: LoadedModel, pairs: Sequence[Pair], on_batch: Callable[[int], None] = lambda n: None) -> dict[str, list[float]]:
    """Mean log-probability a token, in nats, of each pair's [aligned, misaligned] answer; the end-of-turn token counts."""
    import torch

    rows = [
        (pair.id, side, encode_pair(pair.question, answer, loaded.tokenizer, loaded.context))
        for pair in pairs
        for side, answer in enumerate((pair.aligned, pair.misaligned))
    ]
    rows.sort(key=lambda row: len(row[2].ids))
    found: dict[str, list[float]] = {pair.id: [0.0, 0.0] for pair in pairs}
    plain = model.get_base_model() if hasattr(model, "get_base_model") else model
    body, head = plain.get_decoder(), plain.get_output_embeddings()
    with torch.inference_mode():
        for start in range(0, len(rows), BATCH):
            part = rows[start : start + BATCH]
            batch = collate([row[2] for row in part], loaded.tokenizer.pad_token_id, loaded.device)
            hidden = body(input_ids=batch.ids, attention_mask=batch.attention, use_cache=False).last_hidden_state
            predicts = torch.zeros_like(batch.response)
            predicts[:, :-1] = batch.response[:, 1:]
            # [n, V] of the answers' positions only
            logits = head(hidden[predicts]).float().log_softmax(-1)
            targets = batch.ids.roll(-1, 1)[predicts]
            values = logits.gather(1, targets.unsqueeze(1)).squeeze(1)
            for (pair_id, side, _), value in zip(part, values.split(predicts.sum(1).tolist()), strict=True):
                found[pair_id][side] = float(value.double().mean())
            on_batch(start + len(part))
    return found


def base_log_likelihoods(loaded: LoadedModel, suite: Suite, on_batch: Callable[[int], None] = lambda n: None) -> dict[str, list[float]]:
    """The same under the base model; kept, as every run of a model is held against it."""
    path = settings().cache / "margins" / f"{loaded.weights_hash}-{suite.name}-{suite.hash}-{loaded.device.type}.json"
    try:
        return dict(read_json(path))
    except (FileNotFoundError, json.JSONDecodeError):
        found = answer_log_likelihoods(loaded.model, loaded, suite.pairs, on_batch)
        write_json(path, found)
        return found
