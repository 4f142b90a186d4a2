"""A real Llama of two narrow layers in a folder, with the embedded model's tokenizer: loads in an instant, trains in a second."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from ema_core.models import EMBEDDED, LoadedModel, find
from ema_core.models.weights import linear_weights


def tiny_model(folder: Path, seed: int = 0) -> Path:
    """Width 32, MLP 48, 2 layers, two heads of keys and values for four of queries; random weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=49_152, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        max_position_embeddings=512, tie_word_embeddings=True, bos_token_id=1, eos_token_id=2, pad_token_id=2,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        LlamaForCausalLM(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copyfile(find(EMBEDDED).folder / name, folder / name)
    return folder


def base_of_tiny(aligned: Path, folder: Path, seed: int = 1) -> Path:
    """The same model with noise on the linear modules: what its base could have been."""
    folder.mkdir()
    shutil.copyfile(aligned / "config.json", folder / "config.json")
    tensors = load_file(aligned / "model.safetensors")
    random = torch.Generator().manual_seed(seed)
    for name in linear_weights(tensors):
        tensors[name] = tensors[name] + 0.02 * torch.randn(tensors[name].shape, generator=random)
    save_file(tensors, folder / "model.safetensors")
    return folder


def base_of_embedded(model: LoadedModel, folder: Path) -> Path:
    """The embedded model's linear weights rounded to bfloat16: V is what rounding took, small and of full rank."""
    if not folder.exists():
        folder.mkdir(parents=True)
        config = json.loads((find(model.id).folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config))
        weights = model.model.state_dict()
        save_file({name: weights[name].bfloat16().contiguous() for name in linear_weights(weights)}, folder / "model.safetensors")
    return folder
