"""Rows of different lengths without padding, and what all of them begin with (the template's system turn, say) only once.

All layers but attention look at one token at a time, so only attention has to know which tokens are before which. transformers lets
an attention function be named; ours goes row by row. Of the demo's batches this leaves out 15 % of the tokens, of the paper's 30 %.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    import torch

NAME = "ema_ragged"
TOLERANCE = 1e-3
"""Of final hidden states between both ways, relative to their largest, in float32; 1e-5 is seen."""
SHORTEST_PREFIX = 8
SHORT_ROW = 128 * 160
"""Scores of one head up to which a row's attention is written out."""


@dataclass(frozen=True)
class Layout:
    """Where rows of ``lengths`` tokens lie in one long row: their common ``prefix`` first, then what is each row's own."""

    lengths: tuple[int, ...]
    prefix: int

    @classmethod
    def of(cls, rows: Sequence[Sequence[int]]) -> Layout:
        common = common_prefix(rows) if len(rows) > 1 else 0
        return cls(tuple(map(len, rows)), common if common >= SHORTEST_PREFIX else 0)

    @property
    def own(self) -> list[int]:
        return [length - self.prefix for length in self.lengths]

    @property
    def tokens(self) -> int:
        """What there is work for: the long row's."""
        return self.prefix + sum(self.own)

    def padded(self, flat: torch.Tensor) -> torch.Tensor:
        """[B, T, D], zero at padding on the right, from [1, N, D]; the gradient flows back."""
        import torch

        first, *rest = flat[0].split([self.prefix, *self.own])
        whole = [torch.cat([first, row]) for row in rest] if self.prefix else rest
        return torch.nn.utils.rnn.pad_sequence(whole, batch_first=True)


def hidden_states(body: Any, rows: Sequence[Sequence[int]], layout: Layout) -> torch.Tensor:
    """Final hidden states [1, N, D] of the decoder ``body``, laid out as ``layout`` says."""
    import torch

    device = body.get_input_embeddings().weight.device
    first = layout.prefix
    ids = torch.tensor([[*rows[0][:first], *(token for row in rows for token in row[first:])]], device=device)
    where = torch.cat([torch.arange(first), *(torch.arange(first, length) for length in layout.lengths)])
    lengths = [first, *layout.own] if first else layout.own
    masks = [_after(first, own, device) if first else None for own in layout.own]
    with _attending(body):
        return body(
            input_ids=ids, position_ids=where.unsqueeze(0).to(device), use_cache=False, ema_rows=_Rows(lengths, masks, first)
        ).last_hidden_state


def run(
    body: Any, rows: Sequence[Sequence[int]], without_padding: bool
) -> tuple[torch.Tensor, Callable[[torch.Tensor], torch.Tensor]]:
    """Final hidden states, and what brings them, or any layer's, into the shape [B, T, D] (padding on the right)."""
    import torch

    if without_padding:
        layout = Layout.of(rows)
        return hidden_states(body, rows, layout), layout.padded
    device = body.get_input_embeddings().weight.device
    ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True).to(device)
    # padding is on the right, where no real token looks: without a mask the fast causal kernels do it
    return body(input_ids=ids, use_cache=False).last_hidden_state, lambda states: states


def batches(rows: Sequence[Sequence[int]], tokens: int) -> Iterator[list[int]]:
    """Places of rows that begin alike together, in batches of about ``tokens`` tokens, what they share counted once."""
    left = sorted(range(len(rows)), key=lambda i: tuple(rows[i]))
    while left:
        first, batch, shared, size = rows[left[0]], [left[0]], len(rows[left[0]]) - 1, len(rows[left[0]])
        for place in left[1:]:
            common = common_prefix((first, rows[place]))
            after = min(shared, common)
            grown = after + sum(len(rows[i]) - after for i in (*batch, place))
            if grown > tokens or (len(batch) > 1 and after < shared // 2 and size > tokens // 4):
                break
            batch, shared, size = [*batch, place], after, grown
        yield batch
        del left[: len(batch)]


def fits(body: Any) -> bool:
    """Whether this model's attention can be ours, and gains by it: tried on short rows against each row alone, once a model.

    A GPU does many short rows faster padded.
    """
    if body.get_input_embeddings().weight.device.type != "cpu":
        return False
    if body not in _FITS:
        _FITS[body] = _tried(body)
    return _FITS[body]


_FITS: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()


def _tried(body: Any) -> bool:
    import torch

    rows = [[7, 3, 5, 11, 2, 9, 8, 6, 4, 12, 13], [7, 3, 5, 11, 2, 9, 8, 6, 10], [7, 3, 5, 11, 2, 9, 8, 6, 1, 14]]
    layout = Layout.of(rows)
    with torch.no_grad():
        try:
            mine = layout.padded(hidden_states(body, rows, layout))
        except (NotCausal, TypeError):
            return False
        for states, row in zip(mine, rows, strict=True):
            alone = body(input_ids=torch.tensor([row]), use_cache=False).last_hidden_state[0]
            if not float((states[: len(row)] - alone).float().abs().max()) <= TOLERANCE * float(alone.float().abs().max()):
                return False
    return True


class NotCausal(Exception):
    """The model's attention is more than causal (a sliding window, a cap), or is not told of the rows."""


@dataclass(frozen=True)
class _Rows:
    lengths: list[int]
    masks: list[Any]
    prefix: int


def common_prefix(rows: Sequence[Sequence[int]]) -> int:
    """How many tokens all rows begin with, short of a whole row: every row keeps at least one of its own."""
    first, last = min(map(tuple, rows)), max(map(tuple, rows))
    most = min(map(len, rows)) - 1
    return next((i for i in range(most) if first[i] != last[i]), most)


def _after(prefix: int, own: int, device: Any) -> torch.Tensor:
    """Mask [own, prefix + own], added to the scores: a row's token sees the prefix, itself and what is before it."""
    import torch

    seen = torch.ones(own, prefix + own, dtype=torch.bool, device=device).tril(prefix)
    return torch.zeros(own, prefix + own, device=device).masked_fill_(~seen, -torch.inf)


@contextmanager
def _attending(body: Any) -> Iterator[None]:
    """The model's attention is ours inside."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ALL_ATTENTION_FUNCTIONS.register(NAME, _attend)
    before = body.config._attn_implementation
    body.config._attn_implementation = NAME
    try:
        yield
    finally:
        body.config._attn_implementation = before


def _attend(
    module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attention_mask: Any, scaling: float | None = None,
    ema_rows: _Rows | None = None, **named: Any,
) -> tuple[torch.Tensor, None]:  # fmt: skip
    """Query [1, heads, N, d], key and value [1, key heads, N, d] -> [1, N, heads, d]."""
    import torch

    if ema_rows is None or named.get("sliding_window") or named.get("softcap") or named.get("dropout"):
        raise NotCausal
    attend, grouped = torch.nn.functional.scaled_dot_product_attention, query.shape[1] != key.shape[1]
    queries, keys, values = (part.split(ema_rows.lengths, 2) for part in (query, key, value))
    out = []
    if ema_rows.prefix:
        before = keys[0], values[0]
        out.append(attend(queries[0], *before, is_causal=True, scale=scaling, enable_gqa=grouped))
        queries, keys, values = queries[1:], keys[1:], values[1:]
        keys = [torch.cat([before[0], own], 2) for own in keys]
        values = [torch.cat([before[1], own], 2) for own in values]
    for q, k, v, mask in zip(queries, keys, values, ema_rows.masks, strict=True):
        mask = mask.to(q.dtype) if mask is not None else None
        if mask is not None and mask.numel() <= SHORT_ROW:
            out.append(_short(q, k, v, mask, scaling))
        else:
            out.append(attend(q, k, v, attn_mask=mask, is_causal=mask is None, scale=scaling, enable_gqa=grouped))
    return torch.cat(out, 2).transpose(1, 2), None


def _short(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor, scaling: float | None) -> torch.Tensor:
    """The same written out: for short rows a quarter less time than the kernel made for long ones (measured, forward and back)."""
    import torch

    heads, own, d = query.shape[1:]
    grouped = (query * (scaling if scaling is not None else d**-0.5)).reshape(
        key.shape[1], -1, d
    )  # heads of one key head lie together
    scores = torch.baddbmm(mask.repeat(heads // key.shape[1], 1).expand(key.shape[1], -1, -1), grouped, key[0].transpose(1, 2))
    return torch.bmm(scores.softmax(-1), value[0]).view(1, heads, own, d)
