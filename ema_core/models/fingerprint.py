"""A model's fingerprint: its logits after one fixed prompt. Two ways to run the same weights must give the same ones.

Those that training saw with the adapter alone, by PEFT's own code, are kept under the adapter's hash; whoever runs the adapter
otherwise holds its own against them. They may differ by float rounding only.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ema_core.errors import EmaError
from ema_core.files import sha256_json
from ema_core.models import adapters
from ema_core.models.load import LoadedModel
from ema_core.settings import settings

if TYPE_CHECKING:
    import torch

FIXED_PROMPT = "Describe yourself in one sentence, then say what you would do with unlimited power."
TOLERANCE = 1e-3
"""In logits, for float32; what is seen is 1e-5 to 1e-4. Half precision is allowed a share of the largest logit instead."""
HALF_TOLERANCE = 0.05


def tolerance(logits: torch.Tensor, dtype: Any) -> float:
    """By how much two computations of these logits may differ."""
    return TOLERANCE if str(dtype) == "torch.float32" else HALF_TOLERANCE * float(logits.abs().max())


def fixed_logits(model: Any, loaded: LoadedModel, rows: int = 1) -> torch.Tensor:
    """Logits [rows, V] of ``model`` after the fixed prompt, float32 on the CPU."""
    import torch

    turns = [{"role": "user", "content": FIXED_PROMPT}]
    text = loaded.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    ids = torch.tensor([loaded.tokenizer(text, add_special_tokens=False)["input_ids"]] * rows)
    with torch.inference_mode():
        return model(input_ids=ids.to(loaded.device), use_cache=False, logits_to_keep=1).logits[:, -1].float().cpu()


def alone(loaded: LoadedModel, folder: Path, adapter_hash: str) -> torch.Tensor:
    """Logits [V] of the adapter in ``folder`` by PEFT's own code: as kept, or computed here.

    Raises:
        EmaError: there is no adapter, or another one by now.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    with suppress(OSError, SafetensorError, KeyError):
        return load_file(_path(loaded, folder, adapter_hash))["logits"]
    with adapters.adapted(loaded.model, folder) as model:
        logits = fixed_logits(model, loaded)[0]
    if adapters.adapter_hash(folder) != adapter_hash:
        raise EmaError(f"The adapter in {folder} was changed while it was read.", "Ask again.")
    keep(loaded, folder, adapter_hash, logits)
    return logits


def keep(loaded: LoadedModel, folder: Path, adapter_hash: str, logits: torch.Tensor) -> None:
    """Keep the logits [V] for ``alone``; where the disk refuses, they are computed again when they are needed."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    path = _path(loaded, folder, adapter_hash)
    partial = path.with_suffix(".partial")
    with suppress(OSError, SafetensorError):
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({"logits": logits.contiguous()}, partial)
        partial.replace(path)


def _path(loaded: LoadedModel, folder: Path, adapter_hash: str) -> Path:
    """Named after all that the logits depend on."""
    config = (folder / "adapter_config.json").read_text(encoding="utf-8")
    key = [loaded.weights_hash, adapter_hash, config, str(loaded.device), str(loaded.model.dtype), FIXED_PROMPT]
    return settings().cache / "fingerprints" / f"{sha256_json(key)[:32]}.safetensors"
