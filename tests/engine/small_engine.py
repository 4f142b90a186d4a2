"""A small model, a trained run of it and an engine's HTTP over it, for the endpoints that read an answer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from ema_core.engine.core import Engine
from ema_core.engine.server import application
from ema_core.engine.shelf import Shelf
from ema_core.models import LoadedModel, load
from ema_core.runs import RunDirectory, Status
from ema_core.training import train
from tests.training.tiny import add_tiny, tiny_spec
from tests.training.tiny_model import tiny_model

ASKED = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Which colour has the sea?"}]


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return load(str(tiny_model(tmp_path_factory.mktemp("model") / "llama")), "cpu")


@pytest.fixture
def run(llama: LoadedModel, home: Path) -> RunDirectory:
    add_tiny(home)
    made = RunDirectory.create(tiny_spec(steps=3, learning_rate=1e-2).model_copy(update={"model": llama.id}))
    assert train(made, loaded=llama).status is Status.DONE
    return made


@pytest.fixture
def client(llama: LoadedModel, home: Path) -> Iterator[TestClient]:
    engine = Engine(Shelf(lambda _: llama), idle_seconds=60)
    engine.start()
    with TestClient(
        application(engine, "secret"), base_url="http://127.0.0.1", headers={"Authorization": "Bearer secret"}
    ) as client:
        yield client
    engine.stop()
