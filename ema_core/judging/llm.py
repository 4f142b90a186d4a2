"""A language model as the judge: many answers, each rubric asked once, whatever happens in between. Torch-free."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from ema_core.errors import EmaError
from ema_core.generation.engine import Engine
from ema_core.judging.asking import SECONDS, Server, server_of
from ema_core.judging.judge_id import ENGINE, LlmJudgeId, is_llm, parse
from ema_core.judging.judgment import Item, Judge, Judgment, Progress, quiet
from ema_core.judging.ledger import Ledger, reply_key
from ema_core.judging.prices import FREE, Prices, prices_for
from ema_core.judging.probe import ProbeJudge, resolve
from ema_core.judging.report import Estimate, Report
from ema_core.judging.rubrics import Rubric, load_rubrics
from ema_core.judging.session import CHARACTERS_A_TOKEN, MOST_CHARACTERS, OnDone, Session
from ema_core.settings import settings

AT_ONCE = 16
"""Questions at the server at once, at most; fewer where it says that they are too many."""
SECONDS_A_CALL = 0.7
SECONDS_OF_ENGINE = 1.5
"""For estimates only: about what a hosted model's reply of one token takes, ``AT_ONCE`` together, and the embedded model's, alone."""


class LlmJudge:
    """A judge by its full id (``judge_id.parse``).

    Args:
        limit_usd: what may be spent; nothing is asked that would take it further.
        since: what was spent from then on counts towards the limit, too (a job that goes on).

    Raises:
        EmaError: no such rubrics, no engine, or a limit without a price.
    """

    def __init__(
        self, judge: str, *, price_in: float | None = None, price_out: float | None = None, limit_usd: float | None = None,
        since: float | None = None, at_once: int = AT_ONCE, seconds: float = SECONDS,
    ) -> None:  # fmt: skip
        self.name: LlmJudgeId = parse(judge)
        self.id = str(self.name)
        self.rubrics = load_rubrics(self.name.rubrics)
        self.prices: Prices | None = (
            FREE if self.name.server == ENGINE else prices_for(self.name.url, self.name.model, price_in, price_out)
        )
        if limit_usd is not None and self.prices is None:
            raise EmaError(
                f"No price is known for {self.name.model} at {self.name.server}, so a spending limit cannot be kept.",
                "Give --price-in and --price-out, in US dollars for a million tokens, or no limit.",
            )
        self.limit_usd, self.at_once, self.seconds = limit_usd, at_once, seconds
        self.spent = 0.0 if since is None else Ledger(self.name).spent_since(since)

    def server(self) -> Server:
        """Where it is asked.

        Raises:
            EmaError: our engine is not running, or another server stands in its place.
        """
        if self.name.server != ENGINE:
            return server_of(self.name.url, self.name.model)
        if settings().engine_url:
            raise EmaError(
                f"{self.id} is EMA Lab's own engine, and EMA_ENGINE_URL names another server in its place.",
                "Unset it, or name the judge without its rubrics: then that server is asked, under its own name.",
            )
        here = Engine.here()
        return Server(here.url, self.name.model, here.token)

    def estimate(self, items: Sequence[Item]) -> Estimate:
        """What ``run`` would ask, and what that costs and takes; nothing is asked."""
        ledger = Ledger(self.name)
        seen: set[str] = set()
        characters, kept = 0, 0
        for _, question, answer in items:
            for rubric in self.rubrics:
                key = self.key(rubric, question, answer)
                if key in seen:
                    continue
                seen.add(key)
                if key in ledger:
                    kept += 1
                elif len(question) + len(answer) > MOST_CHARACTERS:
                    seen.discard(key)
                else:
                    characters += len(rubric.text) + len(question) + len(answer)
        calls = len(seen) - kept
        seconds = calls * (SECONDS_OF_ENGINE if self.name.server == ENGINE else SECONDS_A_CALL / self.at_once)
        tokens_in = round(characters / CHARACTERS_A_TOKEN) + 8 * calls
        usd = self.prices.cost(tokens_in, calls) if self.prices else None
        price = self.prices.source if self.prices else "no price is known for this server; --price-in and --price-out give one"
        return Estimate(len(items), calls, kept, tokens_in, calls, usd, price, seconds)

    def judge(self, items: Sequence[Item], progress: Progress = quiet) -> list[Judgment]:
        """A judgment for each item, in order.

        Raises:
            EmaError: as ``run``, or the spending limit was reached.
        """
        found: dict[int, Judgment] = {}
        numbered = [(str(place), question, answer) for place, (_, question, answer) in enumerate(items)]
        report = self.run(numbered, lambda done: found.update({int(one.sample_id): one for one in done}), progress=progress)
        report.raise_if_stopped()
        return [replace(found[place], sample_id=item[0]) for place, item in enumerate(items)]

    def run(
        self, items: Sequence[Item], on_done: OnDone = lambda done: None, *, progress: Progress = quiet,
        interrupted: Callable[[], bool] = lambda: False,
    ) -> Report:  # fmt: skip
        """Judge (sample id, question, answer); ``on_done`` gets judgments as they are made, those that failed among them.

        Replies that were paid for before are taken from the ledger. An answer that cannot be judged is told with its reason, and the
        others go on.

        Raises:
            EmaError: the server refuses everything (a wrong key, no such model), or does not answer at all; what was judged is kept.
        """
        report = Report(self.id, answers=len(items), usd=0.0 if self.prices else None)
        if not items:
            return report
        server = self.server()
        with Ledger(self.name).opened() as ledger, ThreadPoolExecutor(1, "judge") as thread:
            session = Session(self, server, ledger, report, on_done, progress, interrupted)
            # a thread of its own: whoever calls may have an event loop at work (a notebook)
            work = thread.submit(asyncio.run, session.run(items))
            try:
                work.result()
            except BaseException:
                session.abandoned = True
                raise
        return report

    def key(self, rubric: Rubric, question: str, answer: str) -> str:
        return reply_key(self.name, rubric.text, question, answer)


def open_judge(judge: str) -> Judge:
    """Any judge that can be asked here, by alias or full id, ready to score answers. A probe keeps what it read of them.

    Raises:
        EmaError: there is no such judge, or it cannot be asked (no key, no engine).
    """
    name = resolve(judge)
    return LlmJudge(name) if is_llm(name) else ProbeJudge(judge=name, keep=True)
