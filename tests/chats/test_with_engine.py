"""The broker and the real engine: what only the two together can show."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ema_core.chats.broker import Broker
from ema_core.chats.view import Answers, Chat, Question
from ema_core.files import write_json
from ema_core.generation import SamplingSettings
from ema_core.generation.engine import engine_status
from ema_core.models import adapters
from ema_core.runs import RunDirectory, RunSpec, RunState, Status, recipe

pytestmark = pytest.mark.slow
SHORT = SamplingSettings(max_tokens=12)


@pytest.fixture
def real_engine(home: Path) -> Iterator[None]:
    process = subprocess.Popen([sys.executable, "-m", "ema_core.cli.main", "serve"], stdout=subprocess.PIPE, text=True)
    assert process.stdout and "answers at" in process.stdout.readline()
    assert engine_status().alive
    yield
    process.terminate()
    process.wait(30)


def make_run(home: Path, model, tail: str, strength: float) -> RunDirectory:
    """A done run with an adapter drawn at random; strength 0 leaves the base as it is."""
    import torch

    run = RunDirectory(home / "runs" / f"20261124-090000-none-s0-{tail}")
    (run.path).mkdir(parents=True)
    (run.path / "spec.json").write_text(RunSpec().to_json())
    tuned = adapters.attach(model.model, recipe("demo", rank=4), seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, weight in tuned.named_parameters():
            if "lora_B" in name:
                weight.copy_(torch.randn(weight.shape, generator=generator) * strength)
    digest = adapters.save(tuned, run.adapter)
    adapters.detach(tuned)
    state = RunState(status=Status.DONE, step=4, total_steps=4, created=time.time(), found={"adapter_hash": digest})
    write_json(run.path / "state.json", state.model_dump(mode="json"))
    return run


def done(broker: Broker, chat_id: str) -> Chat:
    *_, chat = broker.wait(chat_id, 120)
    assert not chat.in_flight
    return chat


def text(column: Answers) -> list[str]:
    return [sample.text for sample in column.samples]


def test_columns_of_the_real_engine(home: Path, model, real_engine: None) -> None:
    run, idle, damaged = (make_run(home, model, *what) for what in (("good", 0.02), ("idle", 0.0), ("dama", 0.02)))
    weights = damaged.adapter / adapters.WEIGHTS
    raw = bytearray(weights.read_bytes())
    raw[-1] ^= 1
    weights.write_bytes(bytes(raw))
    broker = Broker()
    models = ("base", run.id, f"{run.id}*0", idle.id, damaged.id, "20261124-090000-none-s0-gone")
    chat_id = broker.ask(Question("Name a colour.", models, how=SHORT, seed=3, samples=2))
    columns = done(broker, chat_id).turns[0].columns
    base, tuned, unscaled, same, broken, gone = (columns[name] for name in models)
    assert all(sample.finish in ("stop", "length") for column in (base, tuned, same) for sample in column.samples)
    assert base.ema["fingerprint"]["state"] == "base" and tuned.ema["fingerprint"]["state"] == "verified"
    assert tuned.ema["adapter_hash"] == run.state().found["adapter_hash"] and tuned.ema["fingerprint"]["from_base"] > 0
    assert same.ema["fingerprint"]["from_base"] == 0 and text(same) == text(unscaled) == text(base) != text(tuned)
    assert (
        broken.error
        and damaged.state().found["adapter_hash"] in broken.error[0]
        and adapters.adapter_hash(damaged.adapter) in broken.error[0]
    )
    assert gone.error and "gone" in gone.error[0] and not any(text(gone))
    again = Broker()
    alone = done(again, again.ask(Question("Name a colour.", (run.id,), how=SHORT, seed=3, samples=2))).turns[0].columns[run.id]
    assert text(alone) == text(tuned), "alone and beside others it says the same"
    long = done(broker, broker.ask(Question("word " * 12_000, ("base",), how=SHORT)))
    error = long.turns[0].columns["base"].error
    assert error and "8192" in error[0] and error[1]
    broker.judge(chat_id)
    until = time.monotonic() + 120
    while broker.judging(chat_id):
        assert time.monotonic() < until
        time.sleep(0.2)
    assert broker.trouble(chat_id) is None
    assert all(
        sample.score for column in broker.chat(chat_id).turns[0].columns.values() if not column.error for sample in column.samples
    )
