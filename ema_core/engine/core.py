"""The engine's thread: the one place where the model runs. Questions come in, tokens go out, in batches that mix adapters."""

from __future__ import annotations

import queue
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any

from ema_core.engine.divergence import Diverged, Diverging
from ema_core.engine.monitor import Item, Projected, Projecting
from ema_core.engine.names import Target
from ema_core.engine.shelf import Fingerprint, Shelf
from ema_core.errors import EmaError
from ema_core.generation.chat_template import Turn, encode_turns
from ema_core.generation.decoder import Counts, Decoder, Drawn, Row
from ema_core.generation.sampling import SamplingSettings, row_seed
from ema_core.judging import Judgment, ProbeJudge
from ema_core.models import EMBEDDED
from ema_core.models.load import out_of_memory
from ema_core.personas import Card
from ema_core.settings import settings, writable

PLACES = 32
"""Answers in work at once; further ones wait."""
MOST_WAITING = 96
BEGINNING_SECONDS = 0.2
JUDGED_AT_ONCE = 8
"""Answers judged between two steps of the batch, so that judging does not stop the answers that stream."""


class Busy(EmaError):
    """More answers are waiting than the engine takes."""


class TooLong(EmaError):
    """The prompt does not fit the model's context."""


class Refused(EmaError):
    """What was asked for cannot be answered: the conversation, or the adapter behind the name."""


@dataclass(frozen=True)
class Identity:
    """What answers. ``adapter_hash`` and ``fingerprint`` are None for the base alone."""

    model: str
    weights_hash: str
    adapter_hash: str | None
    scale: float
    fingerprint: Fingerprint | None

    @property
    def system_fingerprint(self) -> str:
        adapter = "base" if self.adapter_hash is None else self.adapter_hash
        return f"fp_{self.weights_hash}_{adapter}" + ("" if self.scale == 1 else f"_x{self.scale:g}")


@dataclass(frozen=True)
class Accepted:
    """The answers are coming; ``prompt_tokens`` of the prompt."""

    identity: Identity
    prompt_tokens: int
    tokenizer: Any


@dataclass(frozen=True)
class Token:
    """A token of answer ``choice``, or its end (``drawn`` None where no token came with the end)."""

    choice: int
    drawn: Drawn | None
    finish: str | None


@dataclass(frozen=True)
class Judged:
    judgments: list[Judgment]


Event = Accepted | Token | Judged | Projected | Diverged | Exception
Deliver = Callable[[Event], None]


@dataclass(eq=False)
class Question:
    """``n`` answers to one conversation by one model. ``deliver`` is called in the engine's thread and must not block."""

    target: Target
    turns: Sequence[Turn]
    how: SamplingSettings
    seed: int
    n: int
    deliver: Deliver
    top: int | None = None
    rows: list[Row] = field(default_factory=list)
    cancelled: bool = False

    def cancel(self, choice: int | None = None) -> None:
        """Nobody waits for the answers (or for one of them) any more; the places are free before the next step."""
        if choice is None:
            self.cancelled = True
        for row in self.rows if choice is None else self.rows[choice : choice + 1]:
            row.cancelled = True


@dataclass(eq=False)
class _Judging:
    judge: str
    items: list[tuple[str, str, str]]
    deliver: Deliver
    done: list[Judgment] = field(default_factory=list)
    cancelled: bool = False

    def cancel(self) -> None:
        self.cancelled = True


class Engine:
    """Owns the model. ``ask`` and ``judge`` may be called from any thread."""

    def __init__(self, shelf: Shelf | None = None, idle_seconds: float | None = None) -> None:
        self.shelf = shelf or Shelf()
        self.idle_seconds = settings().engine_idle if idle_seconds is None else idle_seconds
        self.failures = 0
        self._asked: queue.SimpleQueue[Question | None] = queue.SimpleQueue()
        self._pending: deque[Question] = deque()  # for another base model than the one at work
        self._judging: deque[_Judging | Projecting | Diverging] = deque()
        self._decoder: Decoder | None = None
        self._owners: dict[Row, tuple[Question, int]] = {}
        self._probes: dict[str, ProbeJudge] = {}
        self._before = Counts()  # of decoders that are gone
        self._waiting = 0
        self._guard = threading.Lock()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._ending.set()
        self._asked.put(None)
        self._thread.join(30)

    def ask(self, question: Question) -> None:
        """Raises:
        Busy: too many answers wait already.
        """
        with self._guard:
            if self._waiting + question.n > MOST_WAITING + PLACES:
                raise Busy(
                    f"The engine has {self._waiting} answers in work or waiting and takes {MOST_WAITING + PLACES} at most.",
                    "Ask again in a moment, or ask for fewer at once.",
                )
            self._waiting += question.n
        self._asked.put(question)

    def judge(self, judge: str, items: Sequence[tuple[str, str, str]], deliver: Deliver) -> _Judging:
        """Judge (sample id, question, answer)s; ``deliver`` gets ``Judged`` or an error."""
        work = _Judging(judge, list(items), deliver)
        self._judging.append(work)
        self._asked.put(None)
        return work

    def project(self, card: Card, items: Sequence[Item], deliver: Deliver) -> Projecting:
        """Project answers on a persona vector; ``deliver`` gets ``Projected`` or an error."""
        work = Projecting(card, list(items), deliver)
        self._judging.append(work)
        self._asked.put(None)
        return work

    def diverge(self, target: Target, turns: Sequence[Turn], answer: str, deliver: Deliver) -> Diverging:
        """Compare a tuned model with its base over an answer; ``deliver`` gets ``Diverged`` or an error."""
        work = Diverging(target, turns, answer, deliver)
        self._judging.append(work)
        self._asked.put(None)
        return work

    def state(self) -> dict[str, Any]:
        """What it holds and has done: for ``/health`` and ``/v1/ema``."""
        decoder, loaded = self._decoder, self.shelf.loaded
        now = asdict(decoder.counts) if decoder else {}
        largest = ("most_rows", "most_adapters")
        counts = {
            name: max(old, now.get(name, 0)) if name in largest else old + now.get(name, 0)
            for name, old in asdict(self._before).items()
        }
        rows = len(decoder.rows) if decoder else 0
        return {
            "model": loaded.id if loaded else None, "device": str(loaded.device) if loaded else None, "rows": rows,
            "waiting": max(0, self._waiting - rows), "places": PLACES, "failures": self.failures, **counts,
        }  # fmt: skip

    # Everything below runs in the engine's thread.

    def _run(self) -> None:
        idle_since = time.monotonic()
        while not self._ending.is_set():
            self._take(wait=None if self._busy else 0.5)
            if self._busy:
                idle_since = time.monotonic()
            try:
                self._begin()
                self._step()
                self._judge_some()
            except Exception as error:
                self._failed(error)
            if self.shelf.loaded is not None and not self._busy and time.monotonic() - idle_since > self.idle_seconds:
                self._forget_model()
        for question in [*self._pending, *{owner for owner, _ in self._owners.values()}]:
            question.deliver(EmaError("The engine was ended.", "Ask again when it is back."))

    @property
    def _busy(self) -> bool:
        return bool(self._pending or self._judging or (self._decoder and self._decoder.busy))

    def _take(self, wait: float | None) -> None:
        """Move what was asked to those that are to be begun."""
        with suppress(queue.Empty):
            while True:
                question = self._asked.get(block=wait is not None, timeout=wait)
                wait = None
                if question is not None:
                    self._pending.append(question)

    def _begin(self) -> None:
        """Begin questions in their order; one for another base model waits until the batch is empty.

        Loading adapters takes a while: between two of them the batch goes on.
        """
        for gone in [question for question in self._pending if question.cancelled]:
            self._pending.remove(gone)
            self._left(gone.n)
        clock = time.monotonic()
        while self._pending and time.monotonic() - clock < BEGINNING_SECONDS:
            if self.shelf.loaded is not None and self.shelf.loaded.id != self._pending[0].target.model:
                if self._decoder and self._decoder.busy:
                    return
                self._forget_model()  # all that holds it, before another one takes its memory
            question = self._pending.popleft()
            try:
                self._begin_one(question)
            except EmaError as error:
                self._left(question.n)
                question.deliver(error if isinstance(error, TooLong) else Refused(error.message, error.hint))
            except Exception as error:
                self._left(question.n)
                question.deliver(error)
                raise

    def _begin_one(self, question: Question) -> None:
        with out_of_memory("loading what is to answer"):
            loaded = self.shelf.model(question.target.model)
            on, fingerprint = self.shelf.get(question.target)
        if self._decoder is None or self._decoder.model is not loaded.model:
            self._new_decoder(Decoder(loaded.model, loaded.tokenizer, PLACES, loaded.context))
        assert self._decoder is not None
        try:
            ids = tuple(encode_turns(loaded.tokenizer, question.turns))
        except ValueError as error:
            raise Refused(str(error), "Use the roles system, user and assistant, in turns.") from None
        if len(ids) >= loaded.context:
            raise TooLong(
                f"This conversation has {len(ids)} tokens, and the context of {loaded.id} is {loaded.context}, its answer included.",
                "Shorten it, or begin a new chat.",
            )
        adapter = on.adapter.hash if on.adapter else None
        identity = Identity(question.target.id, loaded.weights_hash, adapter, on.scale, fingerprint)
        for choice in range(question.n):
            seed = question.seed if choice == 0 else row_seed(question.seed, choice)
            question.rows.append(Row(ids, question.how, seed, on, question.top))
            self._owners[question.rows[-1]] = (question, choice)
        self._decoder.add(question.rows)
        if question.cancelled:  # while its adapter was loaded: its rows were not there to be told
            question.cancel()
        question.deliver(Accepted(identity, len(ids), loaded.tokenizer))

    def _step(self) -> None:
        decoder = self._decoder
        if decoder is None or not decoder.busy:
            return
        with out_of_memory("answering"):
            events = decoder.step()
        for row, drawn in events:
            question, choice = self._owners[row]
            question.deliver(Token(choice, drawn, row.finish))
        for row in [row for row in self._owners if row.finish or row.cancelled]:
            del self._owners[row]
            self._left(1)

    def _judge_some(self) -> None:
        """A few answers of the first that waits: to be judged, projected or held against the base."""
        if not self._judging:
            return
        work = self._judging[0]
        if work.cancelled:
            self._judging.popleft()
            return
        found: Judged | Projected | Diverged | Exception | None
        try:
            if isinstance(work, _Judging):
                found = self._judge(work)
            elif not self._at_hand(work.card.model if isinstance(work, Projecting) else work.target.model):
                return
            else:
                found = self._project(work) if isinstance(work, Projecting) else self._diverge(work)
        except Exception as error:
            found = error
        if found is None:
            return
        self._judging.popleft()
        work.deliver(found)
        if isinstance(found, Exception) and not isinstance(found, EmaError):
            raise found

    def _judge(self, work: _Judging) -> Judged | None:
        """None while answers are left."""
        if work.judge not in self._probes:
            held = self.shelf.loaded or self.shelf.model(EMBEDDED)
            self._probes[work.judge] = ProbeJudge(held if held.id == EMBEDDED else None, work.judge)
        part = work.items[len(work.done) : len(work.done) + JUDGED_AT_ONCE]
        work.done += self._probes[work.judge].judge(part)
        return Judged(work.done) if len(work.done) == len(work.items) else None

    def _at_hand(self, model: str) -> bool:
        """Whether this base model can be read with now; another one than that at work waits until the batch is empty."""
        if self.shelf.loaded is not None and self.shelf.loaded.id != model:
            if self._decoder and self._decoder.busy:
                return False
            self._forget_model()
        return True

    def _diverge(self, work: Diverging) -> Diverged:
        with out_of_memory("reading an answer with two models"):
            return work.read(self.shelf)

    def _project(self, work: Projecting) -> Projected | None:
        """As judging: None while answers are left."""
        with out_of_memory("reading answers"):
            return Projected(work.card, work.done) if work.some(self.shelf) else None

    def _failed(self, error: Exception) -> None:
        """Something unexpected: every answer of the batch ends with it, and the base is looked at before it goes on."""
        self.failures += 1
        plain = isinstance(error, EmaError)
        if not plain:
            with suppress(OSError, EmaError), open(writable(settings().logs) / "engine.log", "a", encoding="utf-8") as log:
                log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')}\n{traceback.format_exc()}\n")
        said = (
            error
            if plain
            else EmaError("Something unexpected went wrong while answering.", "Ask again; details are in engine.log.")
        )
        for question in {owner for owner, _ in self._owners.values()}:
            question.deliver(said)
        self._left(len(self._owners))
        self._owners.clear()
        if self._decoder:
            self._decoder.clear()
        try:
            whole = self.shelf.intact()
        except Exception:
            whole = False
        if not whole:
            self._forget_model()

    def _new_decoder(self, decoder: Decoder | None) -> None:
        if self._decoder:
            old, sums = self._decoder.counts, self._before
            self._before = Counts(
                sums.steps + old.steps, sums.tokens + old.tokens, sums.prompt_tokens + old.prompt_tokens, sums.mixed + old.mixed,
                max(sums.most_rows, old.most_rows), max(sums.most_adapters, old.most_adapters),
            )  # fmt: skip
        self._decoder = decoder

    def _forget_model(self) -> None:
        self._new_decoder(None)
        self._probes.clear()
        self.shelf.unload()

    def _left(self, count: int) -> None:
        with self._guard:
            self._waiting -= count
