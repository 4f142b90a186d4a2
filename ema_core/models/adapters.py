"""LoRA adapters: attach, save, load, hash. Safetensors only."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ema_core.errors import EmaError
from ema_core.files import disk_errors, sha256_file, swept
from ema_core.runs import Recipe

MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
WEIGHTS = "adapter_model.safetensors"


def attach(model: Any, recipe: Recipe, seed: int) -> Any:
    """``model`` wrapped by PEFT with a fresh rs-LoRA on all seven linear modules; B is zero, A drawn from ``seed``."""
    import torch
    from peft import LoraConfig, get_peft_model

    from ema_core.models.quick import quicken

    config = LoraConfig(
        r=recipe.rank, lora_alpha=recipe.alpha, use_rslora=recipe.rslora, lora_dropout=0.0,
        target_modules=list(MODULES), bias="none", task_type="CAUSAL_LM",
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        peft_model = get_peft_model(model, config, autocast_adapter_dtype=True)
    quicken(peft_model)
    return peft_model


def detach(peft_model: Any) -> Any:
    """The plain model again, as it was before ``attach``."""
    from ema_core.models.quick import plain_again

    plain_again(peft_model)
    return peft_model.unload()


def save(peft_model: Any, folder: Path) -> str:
    """Write the adapter in PEFT's format (whole folder by rename) and return its hash."""
    partial = folder.with_name(f".{folder.name}.partial")
    with disk_errors(folder), swept(partial):
        peft_model.save_pretrained(partial, safe_serialization=True)
        (partial / "README.md").unlink(missing_ok=True)
        _publish(partial, folder)
    return adapter_hash(folder)


def adopt(source: Path, target: Path) -> str:
    """Make a checkpoint's adapter the one in ``target`` (whole folder by rename) and return its hash. Torch-free."""
    partial = target.with_name(f".{target.name}.partial")
    with disk_errors(target), swept(partial):
        partial.mkdir(parents=True)
        for name in (WEIGHTS, "adapter_config.json"):
            shutil.copyfile(source / name, partial / name)
        _publish(partial, target)
    return adapter_hash(target)


def _publish(partial: Path, folder: Path) -> None:
    fsync_tree(partial)
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        os.replace(folder, old)
    os.replace(partial, folder)
    shutil.rmtree(old, ignore_errors=True)


def fsync_tree(folder: Path) -> None:
    for path in folder.iterdir():
        handle = os.open(path, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)


def adapter_hash(folder: Path) -> str:
    """Hash of the weights file: the identity of what answers.

    Raises:
        EmaError: there is no adapter.
    """
    if not (folder / WEIGHTS).exists():
        raise EmaError(f"There is no adapter in {folder}.", "Train the run to its end, or to a checkpoint, first.")
    return sha256_file(folder / WEIGHTS)[:16]


@contextmanager
def adapted(model: Any, folder: Path, scale: float = 1.0) -> Iterator[Any]:
    """``model`` with the adapter of ``folder`` on, its strength times ``scale``; the plain model afterwards, come what may."""
    from peft import PeftModel

    adapter_hash(folder)
    peft_model = PeftModel.from_pretrained(model, folder, local_files_only=True)
    try:
        if scale != 1.0:
            for module in peft_model.modules():
                if hasattr(module, "scaling") and isinstance(module.scaling, dict):
                    module.scaling = {name: value * scale for name, value in module.scaling.items()}
        peft_model.eval()
        yield peft_model
    finally:
        peft_model.unload()
