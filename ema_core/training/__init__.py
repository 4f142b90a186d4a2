"""The training loop, checkpoints, estimates. Importing this package does not import torch."""

from ema_core.training.loop import check, train
from ema_core.training.plan import plan

__all__ = ["check", "plan", "train"]
