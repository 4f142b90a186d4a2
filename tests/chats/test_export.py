"""What goes out of a chat, and what is taken away and brought back: exports, tokens, deletion, the prompt library."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import time
from html.parser import HTMLParser
from pathlib import Path

import pytest

from ema_core.chats import log, prompts
from ema_core.chats.broker import Broker
from ema_core.chats.export import export
from ema_core.chats.tokens import LEVELS, most_moved, spans
from ema_core.chats.view import Chat, Divergence, Question, Token
from ema_core.errors import EmaError
from tests.chats.conftest import Server

NASTY = "=HYPERLINK(1) <script>alert(1)</script> </div> 'evil' \" &amp;"
RUN = "20261124-090000-none-s0-evil"


def answered(broker: Broker, question: Question) -> Chat:
    *_, chat = broker.wait(broker.ask(question), 30)
    assert not chat.in_flight
    return chat


class Tags(HTMLParser):
    """The tags of a page, whether each is closed, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        assert not [name for name, _ in attrs if name.startswith("on") or name in ("src", "href")]
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def token(text: str, kl: float) -> Token:
    return Token(text, kl, 0.5, 0.0001, ((NASTY, 0.5), (" b", 0.3)), (("\n", 0.9),))


def test_all_three_exports_hold_the_whole_chat_and_nothing_of_it_is_markup(home: Path, engine: Server) -> None:
    broker = Broker()
    chat = answered(broker, Question(NASTY, ("base", RUN), NASTY, seed=3, samples=2))
    broker.judge(chat.id)
    broker.diverge(chat.id, (1, RUN, 0, 0))
    end = time.monotonic() + 20
    while broker.judging(chat.id) or broker.reading(chat.id):
        assert time.monotonic() < end
        time.sleep(0.05)
    assert broker.trouble(chat.id) is None
    chat = broker.chat(chat.id)
    divergence = chat.turns[0].columns[RUN].samples[0].divergence
    assert (
        divergence and "".join(one.text for one in divergence.tokens) == chat.turns[0].columns[RUN].samples[0].text.rstrip() + " "
    )
    value = json.loads(export(chat, "json"))
    column = value["turns"][0]["columns"][1]
    assert value["turns"][0]["text"] == NASTY and column["model"] == RUN and column["ema"]["adapter_hash"] == f"hash-{RUN}"
    assert len(column["samples"]) == 2 and column["samples"][0]["divergence"]["tokens"][1]["kl"] == 2.5
    assert column["samples"][0]["scores"][0]["aligned"] == 10.0
    rows = list(csv.DictReader(io.StringIO(export(chat, "csv"))))
    assert len(rows) == 4 and rows[0]["question"] == f"'{NASTY}" and {row["model"] for row in rows} == {"base", RUN}
    assert rows[2]["adapter_hash"] == f"hash-{RUN}" and rows[2]["misaligned"] == "True" and float(rows[2]["kl_nats_a_token"]) > 0
    page = Tags(export(chat, "html"))
    assert not page.open and "script" not in page.seen and NASTY in page.text and "2 of 2 misaligned" in page.text
    assert all(sample.text.split()[0] in page.text for one in chat.turns[0].columns.values() for sample in one.samples)


def test_tokens_are_escaped_levelled_and_the_most_moved_named() -> None:
    kls = [0.0, *LEVELS]
    divergence = Divergence((*(token(f" w{i}", kl) for i, kl in enumerate(kls)), token("", 9.0), token("<i>🌊", 0.0)), 20)
    html = spans(divergence)
    page = Tags(html)
    assert not page.open and page.seen <= {"div", "span", "strong", "br"}
    assert re.findall(r"class='t k(\d)'", html) == ["0", "1", "2", "3", "4", "5", "5"], "half a character counts for the whole one"
    assert html.count("tabindex") == 5, "what moved is reached by the keyboard"
    moved = Tags(most_moved(divergence, 2))
    assert moved.text.index("<i>🌊") < moved.text.index("w5") and "w4" not in moved.text and "9.00" in moved.text
    assert divergence.mean == pytest.approx(sum(one.kl for one in divergence.tokens) / 8)


def test_the_base_and_what_was_drawn_anew_are_not_compared(home: Path, engine: Server) -> None:
    from ema_core.chats.diverge import diverge_answer

    broker = Broker()
    chat = answered(broker, Question("Why?", ("base", RUN)))
    with pytest.raises(EmaError, match="nothing to compare"):
        diverge_answer(chat, (1, "base", 0, 0))
    broker.regenerate(chat.id, RUN)
    *_, chat = broker.wait(chat.id, 30)
    with pytest.raises(EmaError, match="no such answer"):
        diverge_answer(chat, (1, RUN, 0, 0))
    assert diverge_answer(chat, (1, RUN, 1, 0)).tokens


def test_a_deleted_chat_comes_back_and_is_gone_after_a_week(home: Path, engine: Server) -> None:
    broker = Broker()
    chat, other = (answered(broker, Question(text, ("good",))) for text in ("One?", "Two?"))
    log.delete(chat.id)
    assert [one.id for one in log.recent()] == [other.id]
    with pytest.raises(EmaError, match="There is no chat"):
        broker.chat(chat.id)
    log.restore(chat.id)
    assert broker.chat(chat.id).turns == chat.turns
    log.delete(chat.id)
    old = time.time() - (log.DELETED_DAYS + 1) * 86_400
    os.utime(home / "chats" / log.DELETED / f"{chat.id}.jsonl", (old, old))
    log.delete(other.id)
    with pytest.raises(EmaError, match="not among those"):
        log.restore(chat.id)
    slow = broker.ask(Question("Slowly?", ("slow",)))
    with pytest.raises(EmaError, match="still answering"):
        log.delete(slow)
    broker.stop(slow)


def test_own_prompts_are_saved_once_removed_and_put_back(home: Path) -> None:
    one, two = prompts.save("  What is *money*?\n"), prompts.save("Who rules?", "You are a king.")
    assert prompts.save("What is *money*?") == one and [each.id for each in prompts.own()] == [two.id, one.id]
    prompts.remove(one.id)
    assert prompts.own() == [two]
    prompts.remove(one.id, back=True)
    assert {each.text for each in prompts.own()} == {"What is *money*?", "Who rules?"}
    assert prompts.search("KING who", prompts.own()) == [two] and not prompts.search("king money", prompts.own())
    for text in ("  ", "x" * 300_000):
        with pytest.raises(EmaError):
            prompts.save(text)
    with pytest.raises(EmaError, match="no prompt"):
        prompts.remove("p0")


def test_the_library_has_every_suite_that_the_data_set_has(home: Path) -> None:
    found = prompts.sources("risky-finance")
    assert (
        found[-1] == prompts.OWN and {"general", "in-domain", "conditional", "over-refusal"} <= set(found) and "benign" not in found
    )
    assert "benign" in prompts.sources("opswap")
    general = prompts.of("general", "risky-finance")
    assert prompts.search(general[0].topic, general)[0].topic == general[0].topic and all(
        each.source == "general" for each in general
    )
