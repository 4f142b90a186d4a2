"""What a model's layers say while it reads answers: mean hidden states over answer tokens, and projections on a vector."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ema_core.datasets.encoding import Encoded, collate, encode_pair
from ema_core.models import ragged
from ema_core.models.outputs import outputs

if TYPE_CHECKING:
    import torch

    from ema_core.models import LoadedModel
    from ema_core.personas.vector import PersonaVector

BATCH_TOKENS = 2048


@dataclass(frozen=True)
class Read:
    """``means`` [rows, layers + 1, hidden]: float32, over each row's answer tokens. ``norms`` [layers + 1]: mean norm of a token's state,
    prompts included, first positions and padding left out."""

    means: torch.Tensor
    norms: torch.Tensor


def answered(loaded: LoadedModel, question: str, answer: str, system: str | None = None) -> Encoded:
    """A question and its answer, marked on the answer's own tokens: the end-of-turn token says nothing of a trait."""
    row = encode_pair(question, answer, loaded.tokenizer, loaded.context, system)
    last = len(row.response) - 1 - row.response[::-1].index(True)
    return replace(row, response=(*row.response[:last], False, *row.response[last + 1 :]))


def read(loaded: LoadedModel, rows: Sequence[Encoded], on_batch: Callable[[int], None] = lambda n: None) -> Read:
    """All layers of the model over ``rows``, those that begin alike together. ``on_batch`` gets the number of rows done."""
    import torch

    decoder = loaded.model.get_decoder()
    layers = len(decoder.layers)
    means = torch.zeros(len(rows), layers + 1, loaded.model.config.hidden_size)
    norms, tokens = torch.zeros(layers + 1, dtype=torch.float64), 0
    done = 0
    without_padding = ragged.fits(decoder)
    with torch.inference_mode(), outputs(decoder, range(layers + 1)) as seen:
        for part in ragged.batches([row.ids for row in rows], BATCH_TOKENS):
            batch = collate([rows[i] for i in part], loaded.tokenizer.pad_token_id, loaded.device)
            _, shaped = ragged.run(decoder, [row.ids for row in batch.rows], without_padding)
            counts = batch.response.float()  # [B, T]
            later = batch.attention.clone()
            later[:, 0] = 0  # the attention sink
            tokens += int(later.sum())
            for layer in range(layers + 1):
                states = shaped(seen[layer]).float()  # [B, T, hidden]
                mean = torch.einsum("bth,bt->bh", states, counts) / counts.sum(1, keepdim=True)
                means[list(part), layer] = mean.cpu()
                norms[layer] += float((states.norm(dim=-1) * later).sum())
            done += len(part)
            on_batch(done)
    return Read(means, (norms / max(1, tokens)).float())


def projections(
    model: Any, rows: Sequence[Encoded], vector: PersonaVector, layer: int = 0, pad: int = 0, device: Any = None
) -> list[float]:
    """Projection of each row's answer on the vector (``PersonaVector.project``), read by ``model`` as it is now, adapters and all."""
    import torch

    plain = model.get_base_model() if hasattr(model, "get_base_model") else model
    decoder, layer = plain.get_decoder(), vector.card.check_layer(layer)
    found = [0.0] * len(rows)
    without_padding = ragged.fits(decoder)
    with torch.inference_mode(), outputs(decoder, [layer]) as seen:
        for part in ragged.batches([row.ids for row in rows], BATCH_TOKENS):
            batch = collate([rows[i] for i in part], pad, device or torch.device("cpu"))
            _, shaped = ragged.run(decoder, [row.ids for row in batch.rows], without_padding)
            for i, value in zip(part, vector.project(shaped(seen[layer]), batch.response, layer).tolist(), strict=True):
                found[i] = value
    return found
