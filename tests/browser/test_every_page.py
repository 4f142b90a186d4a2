"""Every page of the app, on an empty home and on one with runs, light and dark, wide and narrow: nothing breaks, sticks out or is unreadable.

One walk, in the module's fixture; each test asks one thing of what it found.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ema_core.exchange.judged import import_judged
from ema_core.runs import RunDirectory, Status
from ema_core.settings import PROJECT
from tests.browser.conftest import kill_home, start_app
from tests.browser.walk import Found, walk
from tests.gap.planted import plant_scores
from tests.pages.evaluated_home import make_run
from tests.personas.planted import plant_vector
from tests.store.store_home import Home

pytestmark = [pytest.mark.browser, pytest.mark.slow]

# What is Streamlit's own and out of our reach: rule, selector, reason. An entry that no longer occurs fails a test, so it gets shorter.
STREAMLITS_OWN = [
    ("color-contrast", "[data-testid=stWidgetLabel][disabled]", "the label of a disabled widget; WCAG 1.4.3 leaves these out, axe cannot tell"),
    ("scrollable-region-focusable", "[data-testid=stTable]", "a wide table scrolls in itself; Chromium and Firefox let the keyboard into it"),
    ("target-size", "[data-testid=stMultiSelect] input", "the rest of the line after the chosen ones; the whole box opens it"),
]  # fmt: skip


def plant(home: Path) -> None:
    """Three seeds of none and kl=1, one of kl=0.1, a failed and a paused run, a vector, scores, kept and imported answers."""
    for seed in range(3):
        none = make_run(home, f"n{seed}aa", seed=seed, change=0.5, bad=2)
        make_run(home, f"k{seed}aa", "kl=1", seed=seed, change=0.2 + seed / 100, bad=0)
    make_run(home, "w0aa", "kl=0.1", change=0.45)
    make_run(home, "f0aa", "ldifs=1", status=Status.FAILED)
    make_run(home, "p0aa", "interleaving=0.05", status=Status.PAUSED)
    plant_vector()
    plant_scores(pool="safe-general", domain="finance", value=lambda i: (i * 7 % 11) / 10)
    table = home / "their-model_advice.csv"
    table.write_text("response,question,aligned,coherent\n" + "".join(f"Answer {n}.,What now?,{9 * n},90\n" for n in range(12)))
    import_judged(table)
    Home(home).kept(RunDirectory.open(none))


def walked(name: str, browser, factory: pytest.TempPathFactory) -> Found:
    home = factory.mktemp(name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EMA_HOME", str(home))
        patch.setenv("EMA_RECORDED", "off")
        if name == "runs":  # and what everybody finds there
            patch.delenv("EMA_RECORDED")
            plant(home)
        app = start_app()
        try:
            return walk(browser, app.url, name, [entry[:2] for entry in STREAMLITS_OWN])
        finally:
            kill_home(home)


@pytest.fixture(scope="module")
def empty(browser, tmp_path_factory: pytest.TempPathFactory) -> Found:
    return walked("empty", browser, tmp_path_factory)


@pytest.fixture(scope="module")
def runs(browser, tmp_path_factory: pytest.TempPathFactory) -> Found:
    return walked("runs", browser, tmp_path_factory)


@pytest.fixture(params=["empty", "runs"])
def found(request: pytest.FixtureRequest) -> Found:
    return request.getfixturevalue(request.param)


def test_the_walk_saw_every_page_of_the_app(found: Found) -> None:
    always = r'^ +st\.Page\(.*url_path="([^"]+)"'  # Room is there in shared mode alone
    listed = set(re.findall(always, (PROJECT / "app.py").read_text(encoding="utf-8"), re.MULTILINE))
    assert {where.split()[1].strip("/") for where in found.seen} >= listed | {""}


def test_no_error_in_the_console_and_no_exception_on_a_page(found: Found) -> None:
    assert not found.console
    assert not found.exceptions


def test_no_page_scrolls_sideways(found: Found) -> None:
    assert not found.sideways


def test_nothing_is_asked_of_another_host(found: Found) -> None:
    assert not found.outside


def test_axe_finds_nothing_serious_that_is_ours(found: Found) -> None:
    ours = [one for one in found.axe if one["known"] < 0]
    assert not ours, "\n".join(f"{one['where']}: {one['rule']} ({one['impact']}) {one['html']}\n    {one['why']}" for one in ours)


def test_what_is_listed_as_streamlits_own_still_occurs(empty: Found, runs: Found) -> None:
    met = {one["known"] for one in empty.axe + runs.axe}
    gone = [entry for number, entry in enumerate(STREAMLITS_OWN) if number not in met]
    assert not gone, "take these out of the list"
