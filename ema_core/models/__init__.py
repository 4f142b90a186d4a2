"""Catalog, fetch, load, LoRA adapters. Importing this package does not import torch."""

from ema_core.models.catalog import CATALOG, CHAT_MODELS, EMBEDDED, ModelEntry, find
from ema_core.models.fetch import prepare, verify
from ema_core.models.load import LoadedModel, choose_device, load

__all__ = ["CATALOG", "CHAT_MODELS", "EMBEDDED", "LoadedModel", "ModelEntry", "choose_device", "find", "load", "prepare", "verify"]
