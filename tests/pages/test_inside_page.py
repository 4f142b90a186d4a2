"""Inside a run, on tables written by hand; no model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from evaluated_home import NASTY, make_run, open_page, said

from ema_core.defenses.panels import Panel
from ema_core.files import write_json
from ema_core.jobs import queue
from ema_core.runs import RunDirectory
from ema_core.training.inside import Inside, OnTheWay, ReadExample, Seen, path

WORDS = {"says": "What it shows.", "beware": "Nothing of cause."}


def plant(
    run_id: str, own: str = "", how: str = "KL(tuned ‖ base)", value: float = 0.5, adapter: str | None = None, **more: Any
) -> Inside:
    """A run's inside: kl by token and by position, seen by every run; SafeLoRA's cosines; what ``own`` mixed in."""
    run = RunDirectory.open(run_id)
    tokens = ["<s>", NASTY, " prompt", "An", " answer"]
    example = ReadExample(source="narrow", question=NASTY, tokens=tokens, answer=[False, False, False, True, True], shared=1)
    kl = [
        Panel(
            name="by-token", kind="tokens", title="By token", unit="nats", n="1 example", how=how, value=value, value_is="mean KL",
            rows=[{"example": 0, "values": [None, 0.1, 0.2, value, 2 * value]}], **WORDS,
        ),
        Panel(
            name="by-position", kind="positions", title="By position", unit="nats", how=how,
            rows=[{"line": "mean", "position": n, "value": value * n, "n": 3} for n in (1, 2)], **WORDS,
        ),
    ]  # fmt: skip
    cosines = Panel(
        name="cosines", kind="modules", title="Cosines", unit="cosine", marks="projected", value=0.3, value_is="median",
        rows=[{"layer": layer, "module": "q_proj", "value": layer / 10, "marked": layer == 1} for layer in (1, 2)], **WORDS,
    )  # fmt: skip
    defenses = {
        "kl": Seen(title="KL divergence", own=own == "kl", panels=kl), "safe-lora": Seen(title="SafeLoRA", own=False, panels=[cosines]),
        "ldifs": Seen(title="LDIFS", own=False),
    }  # fmt: skip
    if own == "interleaving":
        rows = [
            {"state": "mixed in" if n < 7 else "passed over: a refusal", "step": n + 1, "score": 0.5 - n / 100, "question": f"Q{n} {NASTY}", "answer": NASTY}
            for n in range(9)
        ]  # fmt: skip
        spread = [
            {"line": "the pool", "low": 0.0, "high": 0.1, "count": 9},
            {"line": "mixed in", "low": 0.0, "high": 0.1, "count": 7},
        ]
        defenses["interleaving"] = Seen(
            title="Interleaving", own=True,
            panels=[
                Panel(name="mixed-in", kind="examples", title="Mixed in", rows=rows, **WORDS),
                Panel(name="scores", kind="histogram", title="Scores", unit="gap score", rows=spread, **WORDS),
            ],
        )  # fmt: skip
    along = [
        OnTheWay(defense="kl", panel="by-token", value_is="mean KL", how=how, unit="nats", step=n, value=n * value) for n in (1, 3)
    ]
    found = Inside(
        run_id=run_id, adapter_hash=adapter or run.state().found["adapter_hash"], weights_hash="w", created=1.7e9, seconds=4.0, device="cpu",
        examples=[example], defenses=defenses, along=along, **more,
    )  # fmt: skip
    write_json(path(run), found.model_dump(mode="json"))
    return found


def figures(app: Any) -> list[dict[str, Any]]:
    return [json.loads(one.proto.spec) for one in app.get("plotly_chart")]


def names(figure: dict[str, Any]) -> set[str]:
    return {trace.get("name", "") for trace in figure["data"]}


@pytest.fixture
def pair(home: Path) -> tuple[str, str]:
    return make_run(home, "naaa", judged=False), make_run(home, "kaaa", "kl=1", judged=False)


def test_without_a_run_or_a_reading_it_says_what_to_do_and_one_click_queues_run_and_twin(home: Path) -> None:
    assert "No run yet" in said(open_page("inside"))
    twin, run = make_run(home, "naaa", judged=False), make_run(home, "kaaa", "kl=1", judged=False)
    app = open_page("inside", run=run)
    assert "Nobody has looked inside this run yet" in said(app)
    app.button(key="inside-read").click().run()
    assert not app.exception
    (job,) = queue.jobs()
    assert not [button for button in app.button if button.key == "inside-read"], "once is enough"
    assert (job.kind, job.runs) == ("inside", [run, twin]) and "It is in the queue" in app.success[0].value


def test_a_run_that_cannot_be_read_says_why(home: Path) -> None:
    from ema_core.runs import Status

    run = make_run(home, "paaa", status=Status.PAUSED)
    app = open_page("inside", run=run)
    assert "has no adapter to read" in said(app) and not [b for b in app.button if b.key == "inside-read"]


def test_a_run_stands_beside_its_twin_where_both_were_measured_alike(pair: tuple[str, str]) -> None:
    twin, run = pair
    plant(twin, value=0.8)
    plant(run, own="kl", notes=["Data changed."])
    app = open_page("inside", run=run)
    assert app.selectbox(key="inside-view").value == "kl"
    strip, other, along, position = figures(app)
    assert names(along) == {"kl=1", "undefended"} and names(position) == {"kl=1", "undefended"}
    ys = {trace["name"]: trace["y"] for trace in along["data"]}
    assert ys == {"kl=1": [0.5, 1.5], "undefended": pytest.approx([0.8, 2.4])}
    assert [(one.label, one.value.replace("\\", "")) for one in app.metric] == [("kl=1", "0.5 nats"), ("undefended", "0.8 nats")]
    tops = {trace["marker"]["cmax"] for figure in (strip, other) for trace in figure["data"] if "cmax" in trace["marker"]}
    assert len(tops) == 1, "one scale for both"
    text = said(app)
    assert "Not to be read from it" in text and "What it shows." in text and "Data changed." in text
    app.selectbox(key="inside-view").select("safe-lora").run()
    assert not app.exception and "This run does not have SafeLoRA" in said(app) and len(figures(app)) == 2
    assert app.query_params["view"] in ("safe-lora", ["safe-lora"])


def test_a_twin_that_was_measured_in_another_way_is_not_drawn_beside(pair: tuple[str, str]) -> None:
    twin, run = pair
    plant(twin, how="KL(base ‖ tuned)")
    plant(run, own="kl")
    app = open_page("inside", run=run)
    assert len(figures(app)) == 3 and "measured in another way" in said(app) and len(app.metric) == 1


def test_examples_are_read_a_page_at_a_time_and_nothing_of_them_is_rendered(home: Path) -> None:
    run = make_run(home, "iaaa", "interleaving=0.5", judged=False)
    plant(run, own="interleaving")
    app = open_page("inside", run=run)
    assert "There is no undefended twin" in said(app)
    assert [text.value for text in app.text if text.value.startswith("Q")] == [f"Q{n} {NASTY}" for n in range(5)]
    app.pills(key="inside-interleaving-mixed-in-states").select("passed over: a refusal").run()
    assert not app.exception
    assert [text.value for text in app.text if text.value.startswith("Q")] == [f"Q{n} {NASTY}" for n in (7, 8)]
    assert NASTY not in "\n".join(str(one.value) for kind in (app.markdown, app.caption) for one in kind)
    (spread,) = figures(app)
    assert names(spread) == {"the pool (9)", "mixed in (7)"}


def test_an_earlier_adapters_reading_is_marked(pair: tuple[str, str]) -> None:
    _, run = pair
    plant(run, own="kl", adapter="an-older-one")
    app = open_page("inside", run=run)
    assert "trained on since it was read" in said(app) and app.button(key="inside-read")


def test_the_command_prints_what_the_page_shows(pair: tuple[str, str], ema: Any) -> None:
    _, run = pair
    found = plant(run, own="kl")
    assert json.loads(ema("inside", run, "--json", check=True).stdout) == found.model_dump(mode="json")
    text = ema("inside", run[-4:], check=True).stdout
    assert "By token: 0.5 nats (mean KL); 1 example" in text and "safe-lora (not in this run: what it would have seen)" in text
    assert ema("inside", "nobody").returncode == 2


def test_a_recorded_run_shows_what_came_with_it_and_offers_no_reading(pair: tuple[str, str]) -> None:
    twin, run = pair
    for one in pair:
        RunDirectory.open(one).update(recorded="some-study")
    bare = open_page("inside", run=run)
    assert "came without its adapter" in said(bare)
    plant(twin, value=0.8)
    plant(run, own="kl")
    app = open_page("inside", run=run)
    assert len(figures(app)) == 4 and not [button for button in (*app.button, *bare.button) if button.key == "inside-read"]
