"""A persona vector written by hand: what a build leaves on the disk, at once and with numbers that a test knows."""

from __future__ import annotations

from typing import Any

from ema_core.models import find
from ema_core.models.load import recorded_weights_hash
from ema_core.personas import Card, load_texts, vector_id
from ema_core.personas.vector import save


def plant_vector(trait: str = "evil", model: str = "smollm2-135m", seed: int = 0, **changes: Any) -> Card:
    """Random directions whose length is 5 % of an activation of norm 100 · layer; AUC rises with the layer."""
    import torch

    entry, texts = find(model), load_texts(trait)
    vectors = torch.randn(entry.layers + 1, entry.hidden, generator=torch.Generator().manual_seed(seed))
    norms = [100.0 * max(1, layer) for layer in range(entry.layers + 1)]
    vectors *= 0.05 * torch.tensor(norms)[:, None] / vectors.norm(dim=1, keepdim=True)
    separation = [
        {
            "layer": layer, "auc": round(0.5 + 0.4 * layer / entry.layers, 4), "difference": round(2 * layer / entry.layers, 4),
            "negative_mean": -1.0, "negative_sd": 2.0,
        }
        for layer in range(entry.layers + 1)
    ]  # fmt: skip
    values: dict[str, Any] = {
        "id": vector_id(trait, model), "trait": trait, "title": texts.title, "sides": texts.sides, "model": entry.id,
        "weights_hash": recorded_weights_hash(entry), "layers": entry.layers, "hidden": entry.hidden, "way": "written answers",
        "why": "only 3 pairs of rollouts passed the filter; 20 are needed", "tried": 100, "kept": 3, "rows": 100, "judge": None,
        "judged": "not judged", "vector_norms": vectors.norm(dim=1).tolist(), "activation_norms": norms, "separation": separation,
        "held_out": len(texts.held_out), "texts_hash": texts.hash, "created": 1.0, "seconds": 60.0, **changes,
    }  # fmt: skip
    return save(values, vectors)
