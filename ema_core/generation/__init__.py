"""Sampling from base and tuned models. Importing this package does not import torch."""

from ema_core.generation.sampling import Completion, LocalSampler, Prompt, Sampler, SamplingSettings, row_seed

__all__ = ["Completion", "LocalSampler", "Prompt", "Sampler", "SamplingSettings", "row_seed"]
