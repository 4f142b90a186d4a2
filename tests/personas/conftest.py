"""A Llama of two narrow layers: everything that a vector needs, in an instant."""

from __future__ import annotations

import pytest

from ema_core.models import LoadedModel, load
from tests.training.tiny_model import tiny_model


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return load(str(tiny_model(tmp_path_factory.mktemp("persona") / "llama")), "cpu")
