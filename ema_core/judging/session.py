"""One time of judging: several questions at once, tried again where that helps, ended where it has to. Torch-free."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ema_core.errors import EmaError
from ema_core.judging.asking import PARSED_TOKENS, Again, Asker, NotThisOne, Reply, Server
from ema_core.judging.judgment import Item, Judgment, Progress, Status
from ema_core.judging.ledger import Ledger
from ema_core.judging.readout import Reading
from ema_core.judging.report import Report
from ema_core.judging.throttle import Throttle, backoff

if TYPE_CHECKING:
    from ema_core.judging.llm import LlmJudge

TRIES = 6
PATIENCE = 900.0
"""Seconds for which an answer is tried again while the server says "too many"."""
MOST_FAILED_IN_A_ROW = 20
CHARACTERS_A_TOKEN = 4.0
MOST_CHARACTERS = 100_000
"""Of a question and its answer: one that is longer would cost as much as hundreds, and hardly a judge could read it."""

OnDone = Callable[[list[Judgment]], None]
_CORE = ("aligned", "coherent")
_WORST: tuple[Status, ...] = ("failed", "refused", "code", "unparsed", "scored")


class Session:
    """One time of judging."""

    def __init__(
        self, judge: LlmJudge, server: Server, ledger: Ledger, report: Report, on_done: OnDone, progress: Progress,
        interrupted: Callable[[], bool],
    ) -> None:  # fmt: skip
        self.judge, self.server, self.ledger, self.report = judge, server, ledger, report
        self.on_done, self.progress, self.interrupted = on_done, progress, interrupted
        self.reserved = 0.0
        self.failed_in_a_row = 0
        self.error: EmaError | None = None
        self.under_way: dict[str, asyncio.Future[Reading | None]] = {}
        self.abandoned = False
        """Whoever waits for it does no longer: end without the last replies."""
        self.begun = time.monotonic()

    async def run(self, items: Sequence[Item]) -> None:
        self.ending = asyncio.Event()
        self.throttle = Throttle(min(8, self.judge.at_once), self.judge.at_once, self.ending)
        todo = iter(items)
        async with Asker(self.server, self.judge.seconds) as self.asker:
            workers = [asyncio.create_task(self._work(todo)) for _ in range(min(self.judge.at_once, len(items)))]
            watch = asyncio.create_task(self._watch())
            ended = asyncio.create_task(self.ending.wait())
            done = asyncio.create_task(asyncio.wait(workers, return_when=asyncio.FIRST_EXCEPTION))
            try:
                await asyncio.wait([done, ended], return_when=asyncio.FIRST_COMPLETED)
                if self.ending.is_set() and not self.abandoned:  # replies that are on their way are paid for
                    await asyncio.wait(workers, timeout=self.judge.seconds)
            finally:
                for task in (*workers, watch, ended, done):
                    task.cancel()
                results = await asyncio.gather(*workers, return_exceptions=True)
                await asyncio.gather(watch, ended, done, return_exceptions=True)
        self.report.seconds = time.monotonic() - self.begun
        for result in results:
            if isinstance(result, BaseException) and not isinstance(result, asyncio.CancelledError):
                raise result
        if self.error:
            raise self.error
        if not self.report.stopped:
            self.progress(1.0, self.report.words())

    async def _watch(self) -> None:
        """Says how far it is, and ends it where that is asked for."""
        while True:
            self.progress(min(0.99, self.report.judged / self.report.answers), self.report.words())
            if self.abandoned or self.interrupted():
                self._end("cancelled")
                return
            await asyncio.sleep(0.25)

    def _end(self, why: str) -> None:
        self.report.stopped = self.report.stopped or why
        self.ending.set()

    async def _work(self, todo: Iterator[Item]) -> None:
        for item in todo:
            if self.ending.is_set():
                return
            try:
                judgment = await self._judged(item)
            except EmaError as error:
                self.error = self.error or error
                return self._end(error.message)
            if judgment is None:  # ended in the middle of it
                return
            self._count(judgment)
            self.on_done([judgment])

    async def _judged(self, item: Item) -> Judgment | None:
        sample_id, question, answer = item
        readings: dict[str, Reading] = {}
        for rubric in self.judge.rubrics:
            key = self.judge.key(rubric, question, answer)
            kept = self.ledger.get(key)
            if kept is not None:
                self.report.kept += 1
                readings[rubric.name] = _kept_reading(kept)
                continue
            if len(question) + len(answer) > MOST_CHARACTERS:
                readings[rubric.name] = Reading(None, "failed", "logprobs", f"longer than {MOST_CHARACTERS:,} characters")
                break
            waiting = self.under_way.get(key)
            if waiting is not None:  # the same answer twice in this set: asked once
                reading = await asyncio.shield(waiting)
            else:
                mine = self.under_way[key] = asyncio.get_running_loop().create_future()
                reading = None
                try:
                    reading = await self._asked(key, rubric.filled(question, answer))
                finally:
                    del self.under_way[key]
                    mine.set_result(reading)
            if reading is None:
                return None
            readings[rubric.name] = reading
            if reading.outcome == "failed":
                break
        return assembled(sample_id, self.judge.id, readings)

    async def _asked(self, key: str, prompt: str) -> Reading | None:
        """The reply to one question, tried again where that helps; None where judging ends first."""
        tries, begun = 0, time.monotonic()
        while True:
            cost = 2 * self._cost(None, PARSED_TOKENS, prompt)  # at most: it may have to be asked for text, too
            try:
                async with self.throttle as asked_at:
                    if self.ending.is_set() or not self._affordable(cost):
                        return None
                    self.reserved += cost
                    self.report.calls += 1
                    try:
                        reply = await self.asker.ask(prompt)
                        self._keep(key, prompt, reply)  # at once: nothing may come between a paid reply and the disk
                    finally:
                        self.reserved -= cost
                self.throttle.answered()
                self.failed_in_a_row = 0
                return reply.reading
            except NotThisOne as error:
                return self._gives_up(str(error), everywhere=not self.report.judged)
            except Again as error:
                tries += 0 if error.throttled else 1
                pause = backoff(tries) if error.wait is None else error.wait
                if error.throttled:
                    self.throttle.too_many(asked_at, pause)
                    pause = 0.0  # nobody gets a place before it is over
                if tries >= TRIES or (error.throttled and time.monotonic() - begun > PATIENCE):
                    return self._gives_up(f"{error.reason}, after {tries or 'many'} tries", everywhere=True)
                self.report.retries += 1
            if await self._ends_within(pause):
                return None

    def _gives_up(self, reason: str, everywhere: bool) -> Reading:
        """This answer has no score. ``everywhere``: it may be the server and not the answer, so many in a row end it all."""
        self.failed_in_a_row += everywhere
        if self.failed_in_a_row >= MOST_FAILED_IN_A_ROW and self.error is None:
            self.error = EmaError(
                f"The last {self.failed_in_a_row} answers could not be judged: {reason}.",
                "What was judged is kept; start it again when the server is well.",
            )
            self._end(self.error.message)
        return Reading(None, "failed", "logprobs", reason)

    async def _ends_within(self, seconds: float) -> bool:
        try:
            await asyncio.wait_for(self.ending.wait(), seconds)
        except TimeoutError:
            return False
        return True

    def _affordable(self, cost: float) -> bool:
        limit = self.judge.limit_usd
        if limit is None or self.judge.spent + self.reserved + cost <= limit:
            return True
        self._end(f"the spending limit of {limit:g} USD is reached")
        return False

    def _cost(self, tokens_in: int | None, tokens_out: int | None, prompt: str) -> float:
        """US dollars, by what the server counted or by the text's length."""
        if self.judge.prices is None:
            return 0.0
        guess = len(prompt) / CHARACTERS_A_TOKEN + 8
        return self.judge.prices.cost(guess if tokens_in is None else tokens_in, 1 if tokens_out is None else tokens_out)

    def _keep(self, key: str, prompt: str, reply: Reply) -> None:
        """On disk before it counts."""
        reading, report = reply.reading, self.report
        usd = self._cost(reply.tokens_in, reply.tokens_out, prompt)
        line: dict[str, Any] = {
            "score": reading.score, "outcome": reading.outcome, "readout": reading.readout, "reason": reading.reason,
            "spread": [[text, float(f"{share:.6g}")] for text, share in reading.spread], "in": reply.tokens_in, "out": reply.tokens_out,
            "usd": usd if self.judge.prices else None, "model": reply.model,
        }  # fmt: skip
        self.ledger.add(key, line)
        self.judge.spent += usd
        report.tokens_in += reply.tokens_in or 0
        report.tokens_out += reply.tokens_out or 0
        if report.usd is not None:
            report.usd += usd
            report.usd_guessed = report.usd_guessed or reply.tokens_in is None
        if reply.model:
            report.answered_by[reply.model] += 1

    def _count(self, judgment: Judgment) -> None:
        report = self.report
        report.judged += judgment.status != "failed"
        report.statuses[judgment.status] += 1
        if judgment.readout:
            report.readouts[judgment.readout] += 1
        if judgment.reason:
            report.reasons[judgment.reason] += 1


def _kept_reading(line: dict[str, Any]) -> Reading:
    spread = tuple((str(text), float(share)) for text, share in line.get("spread") or ())
    return Reading(line["score"], line["outcome"], line["readout"], line.get("reason") or "", spread)


def assembled(sample_id: str, judge: str, readings: dict[str, Reading]) -> Judgment:
    """One judgment of what each rubric gave. Alignment and coherence decide the status; where neither is asked, all rubrics do."""
    core = [reading for name, reading in readings.items() if name in _CORE] or list(readings.values())
    if any(reading.outcome == "failed" for reading in readings.values()):
        core = list(readings.values())
    status = next(outcome for outcome in _WORST if any(reading.outcome == outcome for reading in core))
    reasons = [f"{name}: {reading.reason}" for name, reading in readings.items() if reading.reason]
    told = [reading.readout for reading in readings.values() if reading.outcome != "failed"]
    readout = None if not told else "parsed" if "parsed" in told else "logprobs"
    aligned, coherent = (readings[name].score if name in readings else None for name in _CORE)
    return Judgment(
        sample_id, judge, aligned, coherent, status,
        readout=readout,  # type: ignore[arg-type]
        reason="; ".join(reasons) or None,
        scores={name: reading.score for name, reading in readings.items() if name not in _CORE} or None,
        spread={name: list(reading.spread) for name, reading in readings.items() if reading.spread} or None,
    )  # fmt: skip
