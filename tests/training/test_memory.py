"""What a run takes at most is measured, kept and shown beside what was said; and logits are bounded, whatever the batch."""

from __future__ import annotations

import json
import mmap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ema_core.datasets.encoding import Encoded, collate
from ema_core.defenses import registry
from ema_core.defenses.kl import kl_divergence
from ema_core.models import LoadedModel, load
from ema_core.models.chunks import CHUNK, mean_in_chunks
from ema_core.runs import DefenseSpec, RunDirectory, Status
from ema_core.training import memory, train
from ema_core.training.losses import token_losses
from tests.training.tiny import add_tiny, tiny_spec
from tests.training.tiny_model import tiny_model

BLOCK = 400_000_000
KL = DefenseSpec(name="kl", strength=0.5)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return load(str(tiny_model(tmp_path_factory.mktemp("tiny") / "model")), "cpu")


def block() -> mmap.mmap:
    """Memory from the system itself: what malloc gives may have been there before."""
    found = mmap.mmap(-1, BLOCK)
    for page in range(0, BLOCK, mmap.PAGESIZE):
        found[page] = 1
    return found


@pytest.mark.parametrize("kernel", [True, False], ids=["kernel", "samples"])
def test_the_peak_is_that_of_the_time_inside(kernel: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A block that is there for a moment counts, one that was gone before does not."""
    if not kernel:
        monkeypatch.setattr(memory, "_reset_high_water", lambda: False)
    elif not memory._reset_high_water():
        pytest.skip("this system does not count a process's peak anew")
    block().close()
    with memory.peak(torch.device("cpu")) as watched:
        before = watched.bytes()
        held = block()
        time.sleep(4 * memory.SAMPLE_SECONDS)
        held.close()
        assert 0.95 * BLOCK < watched.bytes() - before < 1.5 * BLOCK
    assert watched.by == ("kernel" if kernel else "samples")


def test_a_run_keeps_its_peak_beside_the_estimate(ema, small: LoadedModel, home: Path) -> None:
    add_tiny(home)
    run = RunDirectory.create(tiny_spec(steps=2).model_copy(update={"model": small.id}))
    blocks: list[Any] = []

    def seen(event: dict[str, Any]) -> None:
        if event["kind"] == "step":
            blocks.append(bytearray(BLOCK) if event["step"] == 1 else blocks.clear())

    state = train(run, loaded=small, on_event=seen)
    assert state.status is Status.DONE, state.error
    assert state.peak_memory > BLOCK and set(state.estimated) == {"seconds", "memory"}
    assert run.events()[0][-1]["peak_memory"] == state.peak_memory
    shown = json.loads(ema("runs", "show", run.id, "--json", check=True).stdout)
    assert (shown["peak_memory"], shown["estimated"]) == (state.peak_memory, state.estimated)
    assert f"{state.peak_memory / 1e9:.1f} GB of memory at most (estimated" in ema("runs", "show", run.id, check=True).stdout


def most_allocated(work: Callable[[], Any]) -> int:
    """Bytes that torch has allocated on the CPU at most inside, beyond those at its beginning."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as seen:
        kept = work()
    del kept
    events = [event for event in seen.profiler.kineto_results.events() if event.name() == "[memory]"]
    total = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        total += event.nbytes()
        most = max(most, total)
    return most


@pytest.mark.parametrize("where", ["the batch itself", "safe data"])
def test_logits_of_a_kl_run_take_no_more_for_a_larger_batch(small: LoadedModel, where: str) -> None:
    body, head = small.model.get_decoder(), small.model.get_output_embeddings()
    vocabulary, width = small.model.config.vocab_size, 128
    defense = registry.build(KL, 0)

    def losses(rows: int) -> int:
        batch = collate([Encoded((1,) * width, (False,) + (True,) * (width - 1))] * rows, 0, small.device)
        with torch.no_grad():
            hidden = body(input_ids=batch.ids, use_cache=False).last_hidden_state
        if where == "the batch itself":
            return most_allocated(lambda: token_losses(hidden, batch, head, [defense], hidden + 0.1))
        states = hidden.flatten(0, 1)
        return most_allocated(lambda: mean_in_chunks(states.requires_grad_(), states + 0.1, head, kl_divergence).backward())

    few, many = losses(8), losses(16)
    one = 4 * 16 * width * vocabulary
    whole = most_allocated(lambda: head(torch.zeros(16 * width, 32)))
    assert whole >= 0.99 * one, "the meter sees a tensor of the whole batch"  # less what was let go inside and came from before
    assert many < one, "not even one full-vocabulary tensor of the batch is there"
    assert many - few < 0.02 * one and few >= 4 * CHUNK * vocabulary, "what grows does not know the vocabulary"
