"""What waits for the engine: in its order, and nobody behind somebody who has left."""

from __future__ import annotations

from types import SimpleNamespace

from ema_core.engine.core import Engine, Question
from ema_core.engine.names import Target
from ema_core.generation.sampling import SamplingSettings


def question(model: str) -> Question:
    return Question(Target("base", model), [{"role": "user", "content": "Hi"}], SamplingSettings(1), 0, 1, lambda event: None)


def test_one_who_left_while_another_model_was_at_work_holds_up_nobody_and_frees_his_place() -> None:
    engine, begun = Engine(idle_seconds=0), []
    engine.shelf.loaded = SimpleNamespace(id="a")  # type: ignore[assignment] - a batch of model a is at work; no thread runs here
    engine._decoder = SimpleNamespace(busy=True)  # type: ignore[assignment]
    engine._begin_one = begun.append  # type: ignore[method-assign]
    left, other, live = question("b"), question("b"), question("a")
    for each in (left, live, other):
        engine.ask(each)
    engine._take(None)
    left.cancel()
    engine._begin()
    assert begun == [live] and list(engine._pending) == [other] and engine._waiting == 2
