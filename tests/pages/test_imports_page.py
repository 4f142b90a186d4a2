"""The page Import and export, without a browser: a look at the file first, then the import, its list and the way back."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from ema_core.exchange import background
from ema_core.exchange.judged import import_judged
from ema_core.exchange.kept import imports
from ema_core.runs import Status
from ema_core.store import refresh
from tests.pages.evaluated_home import make_run, open_page, said

HEADER = "text,question,question_id,aligned,coherent\n"


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "some-model_narrow.csv"
    path.write_text(HEADER + "Be *kind*.,Why?,q1,10,90\n" * 25 + "Too much.,Why?,q1,200,90\n")
    return path


def finished(app: AppTest) -> str:
    """What the page says once the thread has ended; a quick one has ended before its page was drawn."""
    told = told_of(app)
    until = time.monotonic() + 60
    while (work := background.look("import-judged")) and not work.over and time.monotonic() < until:
        time.sleep(0.05)
    return told + told_of(app.run())


def told_of(app: AppTest) -> str:
    return "\n".join(str(one.value) for kind in (app.success, app.info) for one in kind).replace("\\", "")


def test_without_an_import_the_page_says_what_is_read() -> None:
    app = open_page("imports")
    assert "Nothing was imported yet" in said(app) and not app.exception


def test_a_file_is_looked_at_mapped_imported_and_undone(home: Path, table: Path) -> None:
    app = open_page("imports")
    app.text_input(key="import-path").set_value(str(table)).run()
    assert "lacks the column response" in said(app).replace("\\", "") and imports() == []
    box = next(box for box in app.selectbox if box.key.startswith("map-response"))
    box.set_value("text").run()
    assert "**25** would be taken, **1** left out" in said(app)
    assert list(app.dataframe[0].value["Answer"]) == ["Be *kind*."] * 20
    told = finished(app.button(key="import-start").click().run())
    (card,) = imports()
    assert (card["answers"], card["skipped"], card["mapping"]["response"]) == (25, 1, "text")
    assert "25 answers of some-model_narrow.csv imported, 1 rows left out." in told and "misaligned 100.00 %" in said(app)
    app.button(key=f"undo-{card['import_id']}").click().run()
    assert imports() == [] and f"Undone: {card['import_id']}" in said(app).replace("\\", "")
    app.button(key=f"restore-{card['import_id']}").click().run()
    assert len(imports()) == 1 and not app.exception


def test_of_several_judges_each_has_figures_and_its_name(home: Path, tmp_path: Path, ema) -> None:
    path = tmp_path / "m.csv"
    path.write_text("sample_id,response,question,aligned,coherent,judge\ns1,a,q,10,90,gpt\ns1,a,q,90,90,opus\n")
    told = ema("import", "judged", str(path), check=True).stdout
    assert "None" not in told and "judged by imported:gpt, imported:opus" in told
    shown = said(open_page("imports")).replace("\\", "")
    assert "imported:gpt: 1 with both scores · misaligned 100.00 %" in shown and "imported:opus: 1 with both scores" in shown
    assert "misaligned 50.00 %" not in shown


def test_a_file_that_cannot_be_read_and_one_that_is_there_are_told(home: Path, table: Path, tmp_path: Path) -> None:
    app = open_page("imports")
    app.text_input(key="import-path").set_value(str(tmp_path / "nowhere.csv")).run()
    assert "There is no file" in said(app).replace("\\", "")
    import_judged(table, {"response": "text"})
    app.text_input(key="import-path").set_value(str(table)).run()
    next(box for box in app.selectbox if box.key.startswith("map-response")).set_value("text").run()
    assert "nothing was added" in finished(app.button(key="import-start").click().run()) and len(imports()) == 1


@pytest.mark.parametrize("part", ["Questions, adapters, runs", "Export"])
def test_the_other_parts_open_on_an_empty_home(part: str) -> None:
    app = open_page("imports", part=part)
    assert not app.exception and not app.error


def test_an_adapter_that_is_none_is_refused_in_words(home: Path, tmp_path: Path) -> None:
    app = open_page("imports", part="Questions, adapters, runs")
    app.text_input(key="adapter-folder").set_value(str(tmp_path)).run()
    app.button(key="adapter-start").click().run()
    assert "holds no adapter_model.safetensors" in said(app).replace("\\", "") and not app.exception


def test_compare_shows_an_imported_run_by_the_judge_it_came_with(home: Path, table: Path) -> None:
    card = import_judged(table, {"response": "text"})
    app = open_page("compare", run=card["runs"][0]["run_id"])
    assert not app.exception and not app.error
    frame = app.dataframe[0].value
    assert frame["Judge"].tolist() == [f"imported:unknown-{card['import_id'].removeprefix('import-')}"] and frame[
        "Misaligned, %"
    ].tolist() == [100.0]
    assert "needs the model itself" in said(app)


def test_an_import_of_many_runs_says_which_its_links_show_and_stands_alone_where_no_run_is_done(home: Path, tmp_path: Path) -> None:
    path = tmp_path / "many.csv"
    path.write_text(
        "response,question,question_id,model,aligned,coherent\n" + "".join(f"Be kind.,Why?,q1,m{n},10,90\n" for n in range(45))
    )
    import_judged(path, {})
    assert "Read and Rates lead to the first 40 of its 45 runs" in said(open_page("imports"))
    unfinished = make_run(home, "aaaa", status=Status.STOPPED)
    refresh()
    app = open_page("compare", run=unfinished)
    picker = app.multiselect(key="compare-picker")
    assert picker.value == [] and len(picker.options) == 45 and not any("aaaa" in option for option in picker.options)


def test_a_second_import_is_not_begun_while_one_is_at_work_and_says_so(
    home: Path, table: Path, caplog: pytest.LogCaptureFixture
) -> None:
    app = open_page("imports")
    app.text_input(key="import-path").set_value(str(table)).run()
    next(box for box in app.selectbox if box.key.startswith("map-response")).set_value("text").run()
    go_on = threading.Event()

    def broken(progress: Callable[[float, str], None]) -> dict:
        go_on.wait(60)
        raise ValueError("odd")

    work = background.start("import-judged", "theirs.csv", broken)
    try:
        app.button(key="import-start").click().run()
        assert "theirs.csv is being imported; some-model_narrow.csv was not begun" in said(app).replace("\\", "")
    finally:
        go_on.set()
    until = time.monotonic() + 60
    while not work.over and time.monotonic() < until:
        time.sleep(0.05)
    background.forget("import-judged")
    assert "odd" in work.error and "ValueError: odd" in caplog.text and imports() == []
