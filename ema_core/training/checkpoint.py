"""Checkpoints: adapter, optimiser, position and random state; complete or not there at all."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ema_core.files import disk_errors, read_json, swept
from ema_core.models.adapters import WEIGHTS, adapter_hash, fsync_tree
from ema_core.runs import RunDirectory


@dataclass(frozen=True)
class Position:
    """Where training stands: ``step`` steps are done, ``seconds`` were spent on them."""

    step: int
    seconds: float


def save(run: RunDirectory, model: Any, optimizer: Any, position: Position, defenses: list[Any]) -> str:
    """Write ``checkpoints/step-N`` under another name, sync, rename; returns the adapter's hash.

    Older ones keep their adapter and lose the rest.
    """
    import json

    import torch
    from safetensors.torch import save_file

    target = run.checkpoints / f"step-{position.step}"
    partial = run.checkpoints / f".step-{position.step}.partial"
    with disk_errors(target), swept(partial):
        partial.mkdir(parents=True)
        model.save_pretrained(partial, safe_serialization=True)
        (partial / "README.md").unlink(missing_ok=True)
        tensors, numbers = {}, {}
        for index, state in optimizer.state_dict()["state"].items():
            for key, value in state.items():
                if torch.is_tensor(value):
                    tensors[f"{index}.{key}"] = value.contiguous().cpu()
                else:
                    numbers[f"{index}.{key}"] = value
        tensors["torch_rng"] = torch.get_rng_state()
        save_file(tensors, partial / "optimizer.safetensors")
        streams = {defense.name: defense.rng.getstate() for defense in defenses}
        (partial / "trainer.json").write_text(
            json.dumps({"step": position.step, "seconds": position.seconds, "numbers": numbers, "streams": streams})
        )
        fsync_tree(partial)
        shutil.rmtree(target, ignore_errors=True)
        os.replace(partial, target)
    for step in run.checkpoint_steps():
        if step < position.step:
            for name in ("optimizer.safetensors", "trainer.json"):
                (run.checkpoints / f"step-{step}" / name).unlink(missing_ok=True)
    return adapter_hash(target)


def latest(run: RunDirectory) -> Path | None:
    """The newest checkpoint that training can go on from; leftovers of a killed writer are swept away."""
    for leftover in run.checkpoints.glob(".step-*.partial"):
        shutil.rmtree(leftover, ignore_errors=True)
    for step in reversed(run.checkpoint_steps()):
        folder = run.checkpoints / f"step-{step}"
        if all((folder / name).exists() for name in (WEIGHTS, "optimizer.safetensors", "trainer.json")):
            return folder
    return None


def restore(folder: Path, model: Any, optimizer: Any, defenses: list[Any]) -> Position:
    """Put everything back as it was when ``folder`` was written."""
    import torch
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    set_peft_model_state_dict(model, load_file(folder / WEIGHTS))
    tensors = load_file(folder / "optimizer.safetensors")
    trainer = read_json(folder / "trainer.json")
    torch.set_rng_state(tensors.pop("torch_rng"))
    state: dict[int, dict[str, Any]] = {}
    for name, value in {**tensors, **trainer["numbers"]}.items():
        index, _, key = name.partition(".")
        state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    for defense in defenses:
        version, numbers, gauss = trainer["streams"][defense.name]
        defense.rng.setstate((version, tuple(numbers), gauss))
    return Position(int(trainer["step"]), float(trainer["seconds"]))
