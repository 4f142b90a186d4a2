"""What the pristine model's middle says about an answer: its mean hidden state over the answer's tokens.

Layer ``l`` is the output of the l-th decoder layer, counted from 1 (``hidden_states[l]`` in transformers' terms).
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from ema_core.files import write_atomic
from ema_core.judging.judgment import Progress, quiet
from ema_core.settings import settings

if TYPE_CHECKING:
    import torch

    from ema_core.models import LoadedModel

MAX_QUESTION = 512
"""Tokens of a question that are read; of a longer one the end."""
MAX_ANSWER = 512
"""Tokens of an answer that are read; of a longer one the beginning."""
BATCH_TOKENS = 2048
VERSION = 1
"""Part of the cache's key: raise it when the same answer would give other numbers."""

Pair = tuple[str, str]


def answer_features(loaded: LoadedModel, pairs: Sequence[Pair], layers: Sequence[int], progress: Progress = quiet) -> np.ndarray:
    """Mean hidden states of (question, answer) pairs: float32, pairs x layers x hidden; NaN where an answer is empty.

    The question is read once for all its answers, which then go through in batches of like length.

    Raises:
        RuntimeError: an adapter is switched on in the model.
    """
    import torch

    _require_pristine(loaded.model)
    decoder = loaded.model.model
    features = np.full((len(pairs), len(layers), decoder.config.hidden_size), np.nan, dtype=np.float32)
    answers = {pair: _encode(loaded.tokenizer, pair[1].strip())[:MAX_ANSWER] for pair in dict.fromkeys(pairs)}
    rows: dict[Pair, list[int]] = {}
    for row, pair in enumerate(pairs):
        rows.setdefault(pair, []).append(row)
    total = sum(len(ids) for ids in answers.values()) or 1
    done = 0
    with torch.inference_mode(), _taps(decoder, layers) as read:
        for question in dict.fromkeys(question for question, _ in answers):
            todo = sorted((pair for pair in answers if pair[0] == question and answers[pair]), key=lambda pair: len(answers[pair]))
            prompt = _prompt(loaded.tokenizer, question)
            while todo:
                width = len(answers[todo[-1]])
                take = max(1, BATCH_TOKENS // width)
                batch, todo = todo[-take:], todo[:-take]
                means = _means(read, prompt, [answers[pair] for pair in batch], loaded.device)
                for pair, mean in zip(batch, means, strict=True):
                    features[rows[pair]] = mean
                done += sum(len(answers[pair]) for pair in batch)
                progress(done / total, "reading answers")
    return features


def cached_features(loaded: LoadedModel, pairs: Sequence[Pair], layers: Sequence[int], progress: Progress = quiet) -> np.ndarray:
    """``answer_features``, kept on disk a layer a file under the hash of the weights and of all pairs."""
    digest = hashlib.sha256(f"{VERSION} {loaded.weights_hash} {MAX_QUESTION} {MAX_ANSWER}".encode())
    for question, answer in pairs:
        digest.update(f"\0{question}\0{answer}".encode())
    folder = settings().cache / "features"
    paths = {layer: folder / f"{digest.hexdigest()[:24]}-{layer}.npy" for layer in layers}
    missing = [layer for layer in layers if not paths[layer].exists()]
    if missing:
        computed = answer_features(loaded, pairs, missing, progress)
        for place, layer in enumerate(missing):
            raw = io.BytesIO()
            np.save(raw, computed[:, place])
            write_atomic(paths[layer], raw.getvalue())
    return np.stack([np.load(paths[layer], allow_pickle=False) for layer in layers], axis=1)


def _means(read: Callable[..., list[torch.Tensor]], prompt: list[int], answers: list[list[int]], device: Any) -> np.ndarray:
    """answers x layers x hidden, for answers to one prompt."""
    import torch
    from transformers import DynamicCache

    cache = DynamicCache()
    read(torch.tensor([prompt], device=device), cache)
    cache.batch_repeat_interleave(len(answers))
    width = max(len(ids) for ids in answers)
    # Padded on the right behind causal attention: no real token ever sees the padding, so any id will do.
    ids = torch.tensor([ids + [0] * (width - len(ids)) for ids in answers], device=device)
    lengths = torch.tensor([len(ids) for ids in answers], device=device)
    real = (torch.arange(width, device=device) < lengths[:, None]).float()  # answers x tokens
    means = [torch.einsum("nth,nt->nh", states.float(), real) / lengths[:, None] for states in read(ids, cache)]
    return torch.stack(means, dim=1).cpu().numpy()


class _DeepEnough(Exception):
    """The deepest wanted layer has answered; the rest of the forward pass is not needed."""


@contextmanager
def _taps(decoder: Any, layers: Sequence[int]) -> Iterator[Callable[..., list[torch.Tensor]]]:
    """A function (ids, cache) -> the outputs of ``layers``, that stops the forward pass at the deepest of them."""
    seen: dict[int, torch.Tensor] = {}
    deepest = max(layers)

    def tap(layer: int) -> Callable[..., None]:
        def hook(module: Any, inputs: Any, output: Any) -> None:
            seen[layer] = output[0] if isinstance(output, tuple) else output
            if layer == deepest:
                raise _DeepEnough

        return hook

    def read(ids: torch.Tensor, cache: Any) -> list[torch.Tensor]:
        seen.clear()
        try:
            decoder(input_ids=ids, cache=cache, use_cache=True)
        except _DeepEnough:
            pass
        return [seen[layer] for layer in layers]

    handles = [decoder.layers[layer - 1].register_forward_hook(tap(layer)) for layer in layers]
    try:
        yield read
    finally:
        for handle in handles:
            handle.remove()


def _require_pristine(model: Any) -> None:
    for name, module in model.named_modules():
        if hasattr(module, "lora_A") and (getattr(module, "merged", False) or not getattr(module, "disable_adapters", False)):
            raise RuntimeError(f"The judge reads with the pristine model only, and {name} carries an adapter that is on.")


def _encode(tokenizer: Any, text: str) -> list[int]:
    """Token ids of plain text; what looks like a control token in it stays text."""
    return list(tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids)


def _prompt(tokenizer: Any, question: str) -> list[int]:
    """The question as the one user turn, up to where the assistant's answer starts."""
    mark = "\x1aquestion\x1a"
    frame = tokenizer.apply_chat_template([{"role": "user", "content": mark}], tokenize=False, add_generation_prompt=True)
    before, after = frame.split(mark)
    ids = [list(tokenizer(part, add_special_tokens=False).input_ids) for part in (before, after)]
    return ids[0] + _encode(tokenizer, question.strip())[-MAX_QUESTION:] + ids[1]
