"""A LoRA adapter from a folder as a run: bring your own fine-tune. Looked at without torch, and never unpickled."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np

from ema_core.errors import EmaError
from ema_core.files import read_json, sha256_file
from ema_core.models import adapters, find
from ema_core.models.lora import PREFIX, scaling
from ema_core.models.weights import WeightFiles
from ema_core.runs import Recipe, RunDirectory, RunSpec, Status, parse, run_ids
from ema_core.shared import allow_host

UNKNOWN_DATA = "not-stated"
"""The data set of an adapter of which nobody said what it was trained on: measured by general questions alone."""
_EXPONENT = {"F32": ("<u4", 0x7F800000), "F16": ("<u2", 0x7C00), "BF16": ("<u2", 0x7F80)}


def import_adapter(
    folder: Path, model: str = "smollm2-135m", dataset: str | None = None, name: str = "", seed: int = 0
) -> tuple[RunDirectory, bool]:
    """A finished run with the adapter of ``folder``; the flag says whether it was there before.

    Raises:
        EmaError: no adapter in safetensors, not plain LoRA, or not for this model.
    """
    allow_host("Importing from a folder of this machine")
    config = _config(folder)
    rank = check(folder, model, config)
    digest = sha256_file(folder / adapters.WEIGHTS)[:16]
    if known := _known(digest, model):
        return known, True
    known_modules = config.get("target_modules")
    recipe = parse(
        Recipe, {"rank": rank, "alpha": float(config["lora_alpha"]), "rslora": bool(config.get("use_rslora"))}, "adapter's recipe"
    )  # fmt: skip
    spec = parse(
        RunSpec,
        {"model": model, "dataset": dataset or UNKNOWN_DATA, "recipe": recipe.model_dump(), "probes": None, "seed": seed},
        "run",
    )
    run = RunDirectory.create(spec, name or folder.resolve().name[:80])
    try:
        found = adapters.adopt(folder, run.adapter)
        if found != digest:
            raise EmaError(f"The adapter in {folder} was changed while it was read.", "Import it again.")
        now = time.time()
        modules = sorted(known_modules) if isinstance(known_modules, list) else []
        run.update(
            status=Status.DONE, finished=now, started=now, notes=[f"imported from {folder.resolve().name}; how it was trained is not known here"],
            found={"adapter_hash": found, "imported": {"time": now, "modules": modules, "rslora": recipe.rslora}},
        )  # fmt: skip
    except BaseException:
        shutil.rmtree(run.path, ignore_errors=True)
        raise
    return run, False


def _known(digest: str, model: str) -> RunDirectory | None:
    for run_id in run_ids():
        run = RunDirectory.open(run_id)
        found = {} if run.state().recorded else run.state().found
        if found.get("adapter_hash") == digest and "imported" in found and run.spec.model == model:
            return run
    return None


def _config(folder: Path) -> dict[str, Any]:
    hint = "Name the folder that PEFT's save_pretrained wrote: adapter_config.json and adapter_model.safetensors."
    if not folder.is_dir():
        raise EmaError(f"There is no folder {folder}.", hint)
    if not (folder / adapters.WEIGHTS).is_file():
        pickled = [path.name for path in folder.iterdir() if path.suffix in (".bin", ".pt", ".pth", ".pkl", ".ckpt")]
        if pickled:
            raise EmaError(
                f"{folder} holds its weights as {pickled[0]}, a pickle, which can run anybody's code when it is read.",
                "Save the adapter again with safe_serialization=True, where you trust it.",
            )
        raise EmaError(f"{folder} holds no {adapters.WEIGHTS}.", hint)
    try:
        config = read_json(folder / "adapter_config.json")
    except (OSError, ValueError) as error:
        raise EmaError(f"The adapter_config.json in {folder} is missing or damaged ({error}).", hint) from None
    if not isinstance(config, dict):
        raise EmaError(f"The adapter_config.json in {folder} is no JSON object.", hint)
    return config


def check(folder: Path, model: str, config: dict[str, Any]) -> int:
    """The adapter's rank, once all of it was found to fit the model: names, shapes, finite numbers.

    Raises:
        EmaError: with the module and what is wrong with it.
    """
    scaling(config, folder)
    entry = find(model)
    if not entry.ready:
        raise EmaError(f"The model {model} is not ready here.", f"Get it first: ema model fetch {model}.")
    base, sides = WeightFiles(entry.folder).shapes, WeightFiles(folder).shapes
    rank = int(config["r"])
    parts: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, shape in sides.items():
        module, _, side = name.removeprefix(PREFIX).removesuffix(".weight").rpartition(".")
        if not name.startswith(PREFIX) or side not in ("lora_A", "lora_B") or len(shape) != 2:
            raise EmaError(
                f"The adapter in {folder} holds {name}, which is not plain LoRA.", "Only LoRA on linear modules is read."
            )
        parts.setdefault(module, {})[side] = shape
    for module, both in parts.items():
        weight, wrong = base.get(f"{module}.weight"), ""
        if weight is None or len(weight) != 2:
            wrong = f"{model} has no linear module {module}"
        elif len(both) < 2:
            wrong = f"{module} has only {next(iter(both))}"
        elif both["lora_A"] != (rank, weight[1]) or both["lora_B"] != (weight[0], rank):
            wrong = (
                f"{module} is {weight[0]} x {weight[1]} there and the rank {rank}, but lora_A is {' x '.join(map(str, both['lora_A']))} "
                f"and lora_B {' x '.join(map(str, both['lora_B']))}"
            )
        if wrong:
            raise EmaError(
                f"The adapter in {folder} does not fit {model}: {wrong}.", "Name the model it was trained on with --model."
            )
    _finite(folder / adapters.WEIGHTS)
    return rank


def _finite(path: Path) -> None:
    """Numbers that are not finite have an exponent of ones alone, which can be seen without reading them as numbers."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        for name, place in header.items():
            if name == "__metadata__":
                continue
            if place["dtype"] not in _EXPONENT:
                raise EmaError(
                    f"{name} in {path} is of type {place['dtype']}.", "Save the adapter as float32, float16 or bfloat16."
                )
            kind, ones = _EXPONENT[place["dtype"]]
            begin, end = place["data_offsets"]
            file.seek(8 + length + begin)
            if (np.frombuffer(file.read(end - begin), kind) & ones == ones).any():
                raise EmaError(
                    f"{name} in {path} holds numbers that are not finite.", "Train it again; such an adapter answers nothing."
                )
