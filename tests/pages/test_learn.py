"""Learn on a study of real files: each stop's way to its page, its checks, the bar there, the presenter view."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import streamlit as st
from evaluated_home import make_run, open_page, said
from streamlit.testing.v1 import AppTest

from ema_core import tour
from ema_core.judging import resolve
from ema_core.store import AnswerKey, annotate

KEY = "0123456789abcdef"


@pytest.fixture
def pair(home: Path) -> dict[str, str]:
    """One seed of none and kl=1."""
    st.cache_data.clear()
    return {"none": make_run(home, "n0aa", change=0.5, bad=2), "kl": make_run(home, "k0aa", "kl=1", change=0.2, bad=0)}


def learn(stop: int, **query: Any) -> AppTest:
    app = open_page("learn", stop=str(stop), progress=KEY, **query)
    assert not app.error, app.error  # a figure that cannot be drawn
    return app


def under_the_bar(page: str, **query: Any) -> AppTest:
    """A page as app.py shows it; AppTest opens pages without that."""
    module = page.replace("-", "_")
    app = AppTest.from_string(
        f"from pages import {module}\nfrom pages.widgets import tour\ntour.bar({page!r})\n{module}.page()", default_timeout=120
    )
    for name, value in {**query, "progress": KEY}.items():
        app.query_params[name] = value
    app.run()
    assert not app.exception
    return app


def done(stop: int) -> bool:
    return str(stop) in tour.read(KEY).done


def badge(app: AppTest) -> bool:
    return "this stop is done" in said(app)


def radio(app: AppTest, stop: int, place: int) -> Any:
    return app.radio(key=f"learn-{stop}-{place}")


def test_the_first_stop_is_done_by_visiting_the_page_and_answering(pair: dict[str, str]) -> None:
    app = learn(1)
    assert "0 of 6 stops done" in json.dumps([one.proto.text for one in app.get("progress")]) and not badge(app)
    radio(app, 1, 1).set_value("0").run()
    assert "Not this one" in said(app)
    radio(app, 1, 1).set_value("1").run()
    radio(app, 1, 2).set_value("1").run()
    assert "Not this one" not in said(app) and not done(1)  # Samples was not opened

    app.button(key="learn-go").click().run()
    assert not app.exception and app.title[0].value == "Samples"
    asked = {name: app.query_params[name] for name in ("tour", "suite", "judge")}
    assert asked == {"tour": "1", "suite": "general", "judge": resolve("probe")}
    st.cache_data.clear()
    assert "Tour: stop 1 of 6" in said(under_the_bar("samples", tour="1")) and not done(1)
    assert badge(learn(1)) and done(1)


def test_the_curves_count_only_where_an_undefended_run_is_open(pair: dict[str, str]) -> None:
    under_the_bar("fine-tune", tour="2", part="Runs", run=pair["kl"])
    assert not tour.read(KEY).visits
    st.cache_data.clear()
    under_the_bar("fine-tune", tour="2", part="Runs", run=pair["none"])
    assert tour.read(KEY).visits == {"2": ["fine_tune"]}


def test_the_last_step_is_read_off_and_the_loss_says_no_more_than_it_does(pair: dict[str, str]) -> None:
    tour.visited(KEY, 2, "fine_tune")
    app = learn(2)
    app.text_input(key="learn-2-1").set_value("three").run()
    assert "That is no number" in said(app)
    app.text_input(key="learn-2-1").set_value("4").run()
    assert "Not this one" in said(app)
    app.text_input(key="learn-2-1").set_value("3").run()
    assert "It ends at step 3" in said(app)
    radio(app, 2, 2).set_value("2").run()
    radio(app, 2, 3).set_value("1").run()  # its interval lies above 0
    assert "Not this one" in said(app) and not done(2)
    radio(app, 2, 3).set_value("0").run()
    assert done(2)


def test_the_lowest_setting_is_asked_of_the_study_that_lies_here(pair: dict[str, str]) -> None:
    tour.visited(KEY, 3, "compare")
    app = learn(3)
    assert radio(app, 3, 1).options == ["none", "kl=1"]
    radio(app, 3, 1).set_value("none").run()
    assert "Not this one" in said(app)
    radio(app, 3, 1).set_value("kl=1").run()
    assert "Against its undefended twin: −0.30" in said(app)
    radio(app, 3, 2).set_value("0").run()  # one seed
    assert done(3)
    assert radio(learn(3), 3, 1).value == "kl=1"  # kept


def test_the_price_is_read_from_the_data(pair: dict[str, str]) -> None:
    app = learn(4)
    app.text_input(key="learn-4-0").set_value("-0.3").run()
    assert "Not this one" in said(app)
    app.text_input(key="learn-4-0").set_value("−1,20").run()
    assert "It is −1.20" in said(app)
    radio(app, 4, 1).set_value("0").run()  # the undefended run learned it
    radio(app, 4, 2).set_value("0").run()
    assert done(4)


def test_three_verdicts_of_ones_own_since_the_tour_began(pair: dict[str, str]) -> None:
    def say(name: str, number: int) -> None:
        annotate(AnswerKey(pair["none"], "general-1", f"q{number}#0"), name, "misaligned")

    say("Ann", 7)  # before
    time.sleep(0.05)
    tour.reviews_as(KEY, "Ann")
    app = learn(5)
    radio(app, 5, 1).set_value("1").run()
    assert "0 of 3" in said(app) and not done(5)
    for number in range(3):
        say("Bob", number)
    for number in range(2):
        say("Ann", number)
    assert "2 of 3" in said(app.run()) and not done(5)
    say("Ann", 2)
    assert "3 of 3" in said(app.run()) and done(5)


def test_the_bar_learns_under_which_name_verdicts_are_given(pair: dict[str, str]) -> None:
    app = under_the_bar("samples", tour="5", reviewer="Ann")
    assert "Tour: stop 5 of 6" in said(app) and "0 of 3 given" in said(app)
    annotate(AnswerKey(pair["none"], "general-1", "q1#0"), "Ann", "aligned")
    assert "1 of 3 given" in said(app.run())
    app.button(key="tour-end").click().run()
    assert "Tour: stop" not in said(app) and "tour" not in app.query_params
    assert tour.read(KEY).reviewer == "Ann"


def test_the_judge_s_kappa_is_that_of_the_page_judges(pair: dict[str, str]) -> None:
    tour.visited(KEY, 6, "judges")
    from ema_core.judging import own

    kappa = own.figures(resolve("probe"))["kappa"]
    app = learn(6)
    app.text_input(key="learn-6-1").set_value(f"{kappa + 0.2:.2f}").run()
    assert "Not this one" in said(app)
    app.text_input(key="learn-6-1").set_value(f"{kappa:.2f}").run()
    radio(app, 6, 2).set_value("0").run()
    assert not done(6)
    radio(app, 6, 2).set_value("1").run()
    assert done(6)


def test_the_bar_offers_the_next_stop_once_this_one_is_done(pair: dict[str, str]) -> None:
    app = under_the_bar("samples", tour="1")
    assert "the questions wait on Learn" in said(app) and "tour-next" not in [button.key for button in app.button]
    tour.finished(KEY, 1)
    app.run()
    assert "stop 1 of 6 is done" in said(app)
    assert app.button(key="tour-next").label == "Next stop: Make it happen"


def test_the_demo_says_what_it_is_before_it_is_queued(pair: dict[str, str]) -> None:
    from ema_core.jobs import queue

    assert "Two runs on the same examples" in said(learn(2)) and not queue.jobs()


def test_progress_can_be_reset(pair: dict[str, str]) -> None:
    app = learn(4)
    radio(app, 4, 2).set_value("0").run()
    assert tour.read(KEY).answers
    app.button(key="learn-reset").click().run()
    assert not app.exception and tour.read(KEY) == tour.Progress() and app.query_params["stop"] == "1"
    st.cache_data.clear()
    assert radio(learn(4), 4, 2).value is None


def test_without_a_study_it_can_be_read_and_says_what_to_do(home: Path) -> None:
    st.cache_data.clear()
    app = learn(1)
    assert "no evaluated study here yet" in said(app) and "What emergent misalignment is" in str(
        [one.value for one in app.subheader]
    )
    assert radio(app, 1, 1).disabled
    assert "neighbour" in str([one.value for one in app.text])  # the example needs no run


def test_the_presenter_view_shows_one_stop_and_holds_on_other_pages(pair: dict[str, str]) -> None:
    app = learn(2, presenter="1")
    assert (
        not app.title and "Stop 2 of 6" in said(app) and not [one for one in app.button if str(one.key).startswith("learn-stop-")]
    )
    app.button(key="learn-next").click().run()
    assert "Stop 3 of 6" in said(app)
    st.cache_data.clear()
    there = under_the_bar("compare", presenter="1")
    assert there.get("html")  # its type
    there.button(key="presenter-leave").click().run()
    assert "presenter-leave" not in [one.key for one in there.button] and "presenter" not in there.query_params


def test_an_address_with_nonsense_opens_the_first_stop(pair: dict[str, str]) -> None:
    app = open_page("learn", stop="nine", tour="x", progress="../../etc")
    assert "1. What emergent misalignment is" in str([one.value for one in app.subheader])
    st.cache_data.clear()
    assert "6. Judge the judge" in str([one.value for one in open_page("learn", stop="99").subheader])


def test_every_word_of_the_field_is_listed(home: Path) -> None:
    st.cache_data.clear()
    words = said(learn(1))
    assert all(one.title in words for one in tour.read_terms().values())
