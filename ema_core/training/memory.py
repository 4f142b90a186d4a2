"""The most memory that a run took: of the process on the CPU, of torch's allocator on a GPU."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    import torch

SAMPLE_SECONDS = 0.05


class Peak:
    """Bytes, the highest since it was made. The process's resident memory holds the model and all else that the process has."""

    def __init__(self, device: torch.device) -> None:
        import torch

        self.device, self.seen = device, 0
        self.over = threading.Event()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            self.by = "allocator"
        elif _reset_high_water():
            self.by = "kernel"
        else:
            self.by = "samples"
            threading.Thread(target=self._watch, daemon=True).start()

    def bytes(self) -> int:
        import torch

        if self.by == "allocator":
            return int(torch.cuda.max_memory_allocated(self.device))
        if self.by == "kernel":
            return _high_water()
        return max(self.seen, int(psutil.Process().memory_info().rss))

    def _watch(self) -> None:
        process = psutil.Process()
        while not self.over.wait(SAMPLE_SECONDS):
            self.seen = max(self.seen, int(process.memory_info().rss))


@contextlib.contextmanager
def peak(device: torch.device) -> Iterator[Peak]:
    """Watch the memory for the time inside."""
    watched = Peak(device)
    try:
        yield watched
    finally:
        watched.over.set()


def _reset_high_water() -> bool:
    """Let the kernel count this process's peak from now on (Linux)."""
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
        return _high_water() > 0
    except (OSError, ValueError):
        return False


def _high_water() -> int:
    with open("/proc/self/status") as file:
        for line in file:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0
