"""The decode loop: rows of several prompts and adapters in one batch, which join and leave while it runs.

One ``step`` reads a piece of the waiting prompts and draws one token for every row that is being answered. Each row has its own
random stream, so what is drawn for it does not depend on its neighbours (its logits do, by float rounding: about 1e-6).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ema_core.generation.cache import arrange, cut, join, roomy_cache
from ema_core.generation.sampling import Finish, SamplingSettings
from ema_core.models.load import threads_for
from ema_core.models.lora import On, switched_on

if TYPE_CHECKING:
    import torch

PREFILL_TOKENS = 1024
"""Prompt tokens (padding included) that one step reads at most, so that a long prompt does not hold up the others."""
COLDEST = 1e-6
"""Below it the likeliest token is taken: logits divided by less overflow."""
SPARE_COLUMNS = 64
"""Columns of the cache that no row needs any more before they are cut off: cutting copies it."""


@dataclass(eq=False)
class Row:
    """One answer in the making. ``ids``: the prompt's tokens; ``tokens``: the answer's so far; ``finish``: set when it has ended.

    ``top``: log-probabilities are kept, of the token drawn and of so many likeliest ones. They are the model's own, before
    temperature and top_p.
    """

    ids: tuple[int, ...]
    how: SamplingSettings
    seed: int
    on: On = field(default_factory=On)
    top: int | None = None
    tokens: list[int] = field(default_factory=list)
    finish: Finish | None = None
    cancelled: bool = False
    generator: Any = None


@dataclass(frozen=True)
class Drawn:
    """A token, and its log-probabilities in nats where the row asked for them."""

    token: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


@dataclass
class Counts:
    """What the decoder has done. ``steps``: forward passes; ``mixed``: those with rows of several adapters (the base is one)."""

    steps: int = 0
    tokens: int = 0
    prompt_tokens: int = 0
    mixed: int = 0
    most_rows: int = 0
    most_adapters: int = 0


@dataclass
class _Reading:
    """Prompts that are being read: left-padded, a piece at a time. ``rows``: those that share each prompt."""

    rows: list[list[Row]]
    ids: torch.Tensor
    attention: torch.Tensor
    cache: Any
    at: int = 0


class Decoder:
    """At most ``places`` rows are answered at once, further ones wait in order."""

    def __init__(self, model: Any, tokenizer: Any, places: int = 32, context: int | None = None) -> None:
        self.model, self.pad, self.places = model, tokenizer.pad_token_id or 0, places
        self.context = context or getattr(model.config, "max_position_embeddings", None) or 1 << 31
        configured = getattr(model.generation_config, "eos_token_id", None)
        ids = configured if isinstance(configured, list) else [configured]
        self.stops = {i for i in (*ids, tokenizer.eos_token_id) if i is not None}
        hidden = int(getattr(model.config, "hidden_size", 1 << 16))
        self.largest = hidden * int(getattr(model.config, "intermediate_size", hidden))  # of a token's products, but the last
        self.waiting: deque[Row] = deque()
        self.counts = Counts()
        self.clear()

    def clear(self) -> list[Row]:
        """Forget all rows; returns them."""
        left = self.rows if hasattr(self, "rows") else []
        left = [*left, *self.waiting]
        self.waiting.clear()
        self.rows: list[Row] = []
        self.reading: _Reading | None = None
        self.cache: Any = None
        self.attention: Any = None  # [rows, columns]: 1 where a column of the cache holds a token of the row
        self.newest: Any = None  # [rows]: the token drawn last, not in the cache yet
        return left

    def add(self, rows: Sequence[Row]) -> None:
        """Let rows wait for a place. Those of one call that share a prompt and an adapter have it read once."""
        self.waiting.extend(rows)

    @property
    def busy(self) -> bool:
        return bool(self.rows or self.waiting)

    def step(self) -> list[tuple[Row, Drawn | None]]:
        """The tokens of one step; a row that has ended (``finish``) comes once more, without a token where it stopped by itself.

        Rows that were cancelled leave without a word. Raises what the model raises: the caller then clears the decoder.
        """
        import torch

        with torch.inference_mode():
            self._leave([row for row in self.rows if row.cancelled])
            events = self._decode() if self.newest is not None else []
            self._admit()
            if self.reading is not None:
                events += self._read()
        return events

    def _admit(self) -> None:
        """Begin to read the prompts of waiting rows, where there are places for them."""
        import torch

        if self.reading is not None:
            return
        groups: dict[Any, list[Row]] = {}
        width, before = 0, len(self.rows)
        while self.waiting and len(self.rows) < self.places:
            row = self.waiting[0]
            if row.cancelled:
                self.waiting.popleft()
                continue
            key = (row.ids, row.on)
            size = max(width, len(row.ids)) * (len(groups) + (key not in groups))
            if groups and size > PREFILL_TOKENS:
                break
            self.waiting.popleft()
            row.generator = np.random.default_rng(row.seed)
            width = max(width, len(row.ids))
            groups.setdefault(key, []).append(row)
            self.rows.append(row)
        if groups:
            self.rows[before:] = [row for group in groups.values() for row in group]  # the order that their cache will have
            prompts = [group[0].ids for group in groups.values()]
            ids = torch.full((len(prompts), width), self.pad)
            attention = torch.zeros((len(prompts), width), dtype=torch.long)
            for place, prompt in enumerate(prompts):  # left padding: the last column is every prompt's last token
                ids[place, width - len(prompt) :] = torch.tensor(prompt)
                attention[place, width - len(prompt) :] = 1
            device = self.model.device
            self.reading = _Reading(list(groups.values()), ids.to(device), attention.to(device), roomy_cache())

    def _read(self) -> list[tuple[Row, Drawn | None]]:
        """Read a piece of the prompts; after the last one their rows get their first token and join the batch."""
        reading = self.reading
        assert reading is not None
        groups = reading.rows
        piece = max(1, PREFILL_TOKENS // len(groups))
        end = min(reading.at + piece, reading.ids.shape[1])
        logits = self._forward(
            reading.ids[:, reading.at : end], reading.attention[:, :end], reading.cache, [group[0].on for group in groups]
        )
        self.counts.prompt_tokens += int(reading.attention[:, reading.at : end].sum())
        reading.at = end
        if end < reading.ids.shape[1]:
            return []
        import torch

        self.reading = None
        rows = [row for group in groups for row in group]
        repeats = torch.tensor([len(group) for group in groups], device=logits.device)
        index = torch.arange(len(groups), device=logits.device).repeat_interleave(repeats)
        attention = reading.attention
        if len(rows) > len(groups):
            reading.cache.batch_select_indices(index)
            attention, logits = attention[index], logits[index]
        if self.cache is None:
            self.cache, self.attention = reading.cache, attention
        else:
            self._join(reading.cache, attention)
        newest, events = self._draw(rows, logits)
        self.newest = newest if self.newest is None else torch.cat([self.newest, newest])
        self._leave([row for row in rows if row.finish])
        return events

    def _decode(self) -> list[tuple[Row, Drawn | None]]:
        """One token for every row of the batch."""
        import torch

        rows = self.rows[: len(self.newest)]  # those whose prompt is still being read come after them
        self.attention = torch.cat([self.attention, self.attention.new_ones((len(rows), 1))], 1)
        logits = self._forward(self.newest.unsqueeze(1), self.attention, self.cache, [row.on for row in rows])
        self.newest, events = self._draw(rows, logits)
        self._leave([row for row in rows if row.finish])
        return events

    def _forward(self, ids: torch.Tensor, attention: torch.Tensor, cache: Any, on: Sequence[On]) -> torch.Tensor:
        """Logits [rows, vocabulary] after the last column of ``ids`` [rows, columns]."""
        counts, adapters = self.counts, len({one.adapter for one in on})
        counts.steps += 1
        counts.mixed += adapters > 1
        counts.most_rows, counts.most_adapters = max(counts.most_rows, len(on)), max(counts.most_adapters, adapters)
        where = (attention.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        with switched_on(self.model, on), threads_for(ids.numel() * self.largest, ids.device):
            return self.model(
                input_ids=ids, attention_mask=attention, position_ids=where, cache=cache, use_cache=True, logits_to_keep=1
            ).logits[:, -1]

    def _draw(self, rows: Sequence[Row], logits: torch.Tensor) -> tuple[torch.Tensor, list[tuple[Row, Drawn | None]]]:
        chosen = choose(logits, [row.generator for row in rows], [row.how for row in rows])
        likely = _log_probabilities(rows, logits, chosen)
        events: list[tuple[Row, Drawn | None]] = []
        for place, (row, token) in enumerate(zip(rows, chosen.tolist(), strict=True)):
            if row.cancelled:
                continue
            if token in self.stops:
                row.finish = "stop"
                events.append((row, None))
                continue
            row.tokens.append(token)
            self.counts.tokens += 1
            if len(row.tokens) >= row.how.max_tokens or len(row.ids) + len(row.tokens) >= self.context:
                row.finish = "length"
            events.append((row, Drawn(token, *likely.get(place, ()))))
        return chosen, events

    def _join(self, cache: Any, attention: torch.Tensor) -> None:
        """Further rows for the batch: both get the same width, by columns on the left that are masked."""
        import torch

        width = max(self.attention.shape[1], attention.shape[1])
        join(self.cache, cache)
        pad = torch.nn.functional.pad
        both = [pad(part, (width - part.shape[1], 0)) for part in (self.attention, attention)]
        self.attention = torch.cat(both)

    def _leave(self, gone: Sequence[Row]) -> None:
        """Take rows out of the batch. Those whose prompt is still being read go as soon as it is read."""
        import torch

        being_read = {row for group in self.reading.rows for row in group} if self.reading else set()
        out = {row for row in gone if row not in being_read}
        if not out:
            return
        decoded = [row for row in self.rows if row not in being_read]
        order, moves = without([row.on for row in decoded], {place for place, row in enumerate(decoded) if row in out})
        self.rows = [*(decoded[place] for place in order), *(row for row in self.rows if row in being_read)]
        if not order:
            self.cache = self.attention = self.newest = None
            return
        index = torch.tensor(order, device=self.attention.device)
        self.attention, self.newest = self.attention[index], self.newest[index]
        if len(moves) > len(decoded) // 2:
            self.cache.batch_select_indices(index)
        else:
            arrange(self.cache, moves, len(order))
        used = int(self.attention.any(0).long().argmax())  # the first column that a row still needs
        if used >= SPARE_COLUMNS:
            self.attention = self.attention[:, used:]
            cut(self.cache, used)


def without(kinds: Sequence[Any], gone: set[int]) -> tuple[list[int], list[tuple[int, int]]]:
    """Fill the places of those that are ``gone`` from behind, so that few rows move and those of a kind stay together.

    Returns the old place of each row that is left, in the new order, and the moves (from, to) that lead there.
    """
    order, kind, moves = list(range(len(kinds))), list(kinds), []
    for hole in sorted(gone, reverse=True):
        place = hole
        while place < len(order) - 1:
            last = place
            while last + 1 < len(order) and kind[last + 1] == kind[place]:
                last += 1
            if last == place:  # the next kind's last one comes here
                last += 1
                while last + 1 < len(order) and kind[last + 1] == kind[place + 1]:
                    last += 1
            moves.append((last, place))
            order[place], kind[place] = order[last], kind[last]
            place = last
        order.pop()
        kind.pop()
    return order, moves


def _log_probabilities(rows: Sequence[Row], logits: torch.Tensor, chosen: torch.Tensor) -> dict[int, tuple[float, Any]]:
    """Of each row that asked for them: that of its token, and the likeliest ones with theirs."""
    import torch

    found = {}
    for place, row in enumerate(rows):
        if row.top is not None:
            values = logits[place].float().log_softmax(-1)
            top = torch.topk(values, row.top) if row.top else None
            pairs = tuple(zip(top.indices.tolist(), top.values.tolist(), strict=True)) if top else ()
            found[place] = (float(values[chosen[place]]), pairs)
    return found


def choose(logits: torch.Tensor, generators: Sequence[Any], how: Sequence[SamplingSettings]) -> torch.Tensor:
    """Next token of each row [B] from logits [B, V]: argmax of logits/T plus Gumbel noise from the row's own generator (numpy's).

    Exact sampling, and steadier than an inverse CDF: there a change of 1e-6 in the logits moves every boundary of the cumulated
    sum, and a draw from the long tail (one in some hundred) becomes another token; here two noisy logits have to be that close.
    """
    import torch

    chosen = logits.argmax(-1)
    drawn = [place for place, one in enumerate(how) if one.temperature >= COLDEST]
    if not drawn:
        return chosen
    temperature = torch.tensor([how[place].temperature for place in drawn], device=logits.device).unsqueeze(1)
    values = logits[drawn].float() / temperature
    nucleus = [n for n, place in enumerate(drawn) if how[place].top_p < 1]
    if nucleus:
        limit = torch.tensor([how[drawn[n]].top_p for n in nucleus], device=logits.device).unsqueeze(1)
        ordered, index = values[nucleus].softmax(-1).sort(-1, descending=True)
        beyond = ordered.cumsum(-1) - ordered >= limit  # the token that crosses top_p stays
        values[nucleus] = values[nucleus].masked_fill(torch.zeros_like(beyond).scatter_(-1, index, beyond), -torch.inf)
    noise = torch.empty(len(drawn), logits.shape[-1])
    for n, place in enumerate(drawn):  # numpy's ziggurat: a fifth of the time of torch's logarithms
        generators[place].standard_exponential(dtype=np.float32, out=noise[n].numpy())
    noise.clamp_(min=2.0**-25)  # float32 draws are that coarse; a 0 would win against everything
    chosen[drawn] = (values - noise.log_().to(values.device)).argmax(-1)
    return chosen
