"""A tick carries what the browser shows. One sent before the browser has what the page just set must not undo it."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.browser.conftest import App
from tests.browser.test_story import WAIT
from tests.pages.evaluated_home import make_run

pytestmark = [pytest.mark.browser, pytest.mark.slow]


class SlowWay:
    """What the server sends can be held back; what the browser sends always arrives, and ticks among it are counted."""

    def __init__(self, context: object) -> None:
        self.ticks, self._held, self._holding = 0, [], False
        context.route_web_socket(re.compile("_stcore/stream"), self._route)

    def _route(self, browser: object) -> None:
        from streamlit.proto.BackMsg_pb2 import BackMsg

        server, self._browser = browser.connect_to_server(), browser

        def up(message: bytes) -> None:
            self.ticks += self._holding and BackMsg.FromString(message).rerun_script.is_auto_rerun
            server.send(message)

        browser.on_message(up)
        server.on_message(lambda message: self._held.append(message) if self._holding else browser.send(message))

    def hold_over_ticks(self, page: object, act: Callable[[], None]) -> None:
        """``act``, of which the browser sees nothing before it has sent two ticks."""
        self.ticks, self._holding = 0, True
        act()
        end = time.monotonic() + 30
        while self.ticks < 2 and time.monotonic() < end:
            page.wait_for_timeout(100)
        assert self.ticks >= 2
        page.wait_for_timeout(500)
        self._holding = False
        while self._held:
            self._browser.send(self._held.pop(0))


@pytest.fixture
def run(home: Path) -> str:
    return make_run(home, "n0aa", seed=0, bad=2)


def test_cleared_filters_stay_cleared(run: str, browser, app: App) -> None:
    context = browser.new_context(viewport={"width": 1440, "height": 1000})
    way, page = SlowWay(context), context.new_page()
    page.goto(f"{app.url}/samples?run={run}&status=misaligned")
    page.locator(".st-key-answer-total").get_by_text("8 of 64 answers misaligned").wait_for(timeout=WAIT)
    page.wait_for_timeout(1000)
    addresses: list[str] = []
    page.on("framenavigated", lambda frame: addresses.append(frame.url))
    way.hold_over_ticks(page, page.locator(".st-key-answers-clear button").click)
    page.locator(".st-key-answer-total").get_by_text("64 answers").wait_for(timeout=WAIT)
    page.wait_for_timeout(3000)
    bare = f"{app.url}/samples"
    assert set(addresses[addresses.index(bare) :]) == {bare}
