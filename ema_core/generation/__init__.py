"""Sampling from base and tuned models, here or over the engine. Importing this package does not import torch."""

from ema_core.generation.sampling import Completion, EngineSampler, LocalSampler, Prompt, Sampler, SamplingSettings, row_seed

__all__ = ["Completion", "EngineSampler", "LocalSampler", "Prompt", "Sampler", "SamplingSettings", "row_seed"]
