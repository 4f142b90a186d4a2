"""Build a substitute pair: a short full fine-tune of the seven linear modules on the safe pool, kept as V = tuned - model."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from filelock import FileLock

from ema_core import datasets
from ema_core.datasets.encoding import collate, encode
from ema_core.errors import EmaError
from ema_core.files import disk_errors, swept, write_json
from ema_core.models import EMBEDDED, LoadedModel, find, load, substitute
from ema_core.models.adapters import MODULES, fsync_tree
from ema_core.models.fetch import Progress, quiet, versions
from ema_core.models.load import out_of_memory
from ema_core.models.weights import WeightFiles
from ema_core.runs import Recipe
from ema_core.settings import writable
from ema_core.training.losses import token_losses
from ema_core.training.plan import exposures, learning_rate

POOL = "safe-general"
RECIPE = Recipe(steps=40, batch_size=4, learning_rate=5e-5, warmup_steps=3, weight_decay=0.0, max_length=256)
"""Full weights and no adapter: the difference of a LoRA has at most its rank, which would hide what V of full rank does."""
SEED = 0


def build(
    model: str = EMBEDDED, progress: Progress = quiet, interrupted: Callable[[], bool] = lambda: False, force: bool = False
) -> Path | None:
    """Build the substitute pair of ``model`` and return its folder; one that is there is kept unless ``force``.

    Nothing is kept of a build that was cut off; None where ``interrupted`` ended it. On the CPU in float32 everywhere, since
    bfloat16 weights would lose most of so small a change.

    Raises:
        EmaError: unknown model, or one that cannot be loaded.
    """
    entry = find(model)
    if entry.kind == "base":
        raise EmaError(f"{entry.id} is a base model itself.", "Name the chat model that it is the base of.")
    target = substitute.folder(entry.id)
    writable(target.parent)
    with FileLock(target.parent / f".{target.name}.lock"):
        if (target / substitute.MANIFEST).exists() and not force:
            return target
        partial = target.with_name(f".{target.name}.partial")
        with out_of_memory("building the substitute pair"), disk_errors(target), swept(partial):
            loaded = load(entry.id, "cpu", progress, "float32")
            found = _tune(loaded, progress, interrupted)
            if found is None:
                return None
            progress(0.95, "writing the difference")
            partial.mkdir()
            _write(loaded, WeightFiles(entry.folder), partial, found)
            shutil.rmtree(target, ignore_errors=True)
            os.replace(partial, target)
    progress(1.0, "substitute pair ready")
    return target


def _linear(loaded: LoadedModel) -> dict[str, Any]:
    """Weights of the seven linear modules by their name in the model's files."""
    named = loaded.model.named_modules()
    return {f"{name}.weight": module.weight for name, module in named if name.rpartition(".")[2] in MODULES}


def _tune(loaded: LoadedModel, progress: Progress, interrupted: Callable[[], bool]) -> dict[str, Any] | None:
    """Train the weights in place; what it was done with and what it came to."""
    import torch

    pool = datasets.load(POOL)
    order = exposures(pool.examples, RECIPE, SEED)
    weights = list(_linear(loaded).values())
    for weight in weights:
        weight.requires_grad_(True)
    optimizer = torch.optim.AdamW(weights, lr=RECIPE.learning_rate, weight_decay=RECIPE.weight_decay)
    body, head = loaded.model.get_decoder(), loaded.model.get_output_embeddings()
    total, size = RECIPE.steps or 0, RECIPE.batch_size
    losses, begun = [], time.monotonic()
    for step in range(total):
        if interrupted():
            return None
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(RECIPE, step, total)
        rows = [encode(example, loaded.tokenizer, RECIPE.max_length) for example in order[step * size : (step + 1) * size]]
        batch = collate(rows, loaded.tokenizer.pad_token_id, loaded.device)
        hidden = body(input_ids=batch.ids, attention_mask=batch.attention, use_cache=False).last_hidden_state
        loss, gradient = token_losses(hidden, batch, head, (), None)
        hidden.backward(gradient)
        torch.nn.utils.clip_grad_norm_(weights, RECIPE.clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.ce)
        left = (time.monotonic() - begun) / (step + 1) * (total - step - 1)
        progress(0.05 + 0.9 * (step + 1) / total, f"step {step + 1} of {total}, ce {loss.ce:.2f}, about {left:.0f} s left")
    return {
        "model": loaded.id, "weights_hash": loaded.weights_hash, "pool": POOL, "pool_sha256": pool.sha256,
        "recipe": RECIPE.model_dump(mode="json"), "seed": SEED, "threads": torch.get_num_threads(), "versions": versions(), "ce": losses,
        "seconds": round(time.monotonic() - begun, 1),
    }  # fmt: skip


def _write(loaded: LoadedModel, before: WeightFiles, folder: Path, found: dict[str, Any]) -> None:
    """V in bfloat16 (three digits at any size; float16 would round so small numbers to few), then the manifest."""
    import torch
    from safetensors.torch import save_file

    deltas = {}
    norms = {}
    with torch.no_grad():
        for name, weight in _linear(loaded).items():
            old = before.read(name)
            v = weight.double() - old
            norms[name] = (float(v.norm()), float(old.norm()))
            deltas[name] = v.bfloat16().contiguous()
    save_file(deltas, folder / substitute.DELTA)
    middle = sorted(v / w for v, w in norms.values())[len(norms) // 2]
    write_json(folder / substitute.MANIFEST, {**found, "norm_share": middle, "norms": {name: v for name, (v, _) in norms.items()}})
    fsync_tree(folder)
