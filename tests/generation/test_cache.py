"""A cache with room against transformers' own, and the few moves by which rows leave."""

from __future__ import annotations

import random

from ema_core.generation import cache as roomy
from ema_core.generation.decoder import without


def test_what_is_put_in_comes_out_whatever_joins_leaves_or_is_cut() -> None:
    """Held against plain concatenation over 200 random events."""
    import torch

    rng, drawn = random.Random(0), torch.Generator().manual_seed(0)

    def states(rows: int, columns: int) -> torch.Tensor:
        return torch.randn(rows, 2, columns, 3, generator=drawn)

    cache, plain = roomy.roomy_cache(), states(3, 5)
    cache.update(plain, plain + 1, 0)
    events: dict[str, int] = {}
    for _ in range(200):
        rows, columns = plain.shape[0], plain.shape[2]
        event = rng.choice(["token", "token", "token", "join", "leave", "select", "cut"])
        if event == "token":
            new = states(rows, 1)
            keys, values = cache.update(new, new + 1, 0)
            plain = torch.cat([plain, new], 2)
            assert torch.equal(keys, plain) and torch.equal(values, plain + 1)
        elif event == "join" and rows < 12:
            other, wide = roomy.roomy_cache(), rng.randint(1, columns + 3)
            new = states(rng.randint(1, 3), wide)
            other.update(new, new + 1, 0)
            roomy.join(cache, other)
            width = max(columns, wide)
            pad = torch.nn.functional.pad
            plain = torch.cat([pad(plain, (0, 0, width - columns, 0)), pad(new, (0, 0, width - wide, 0))])
            seen = cache.layers[0].keys
            assert seen.isfinite().all() and torch.equal(seen[:rows, :, width - columns :], plain[:rows, :, width - columns :])
            assert torch.equal(seen[rows:, :, width - wide :], plain[rows:, :, width - wide :])
            plain = seen.clone()  # left of a shorter row lies what is masked
            cache.layers[0].values[:] = plain + 1
        elif event == "leave" and rows > 1:
            order, moves = without(["a"] * rows, {rng.randrange(rows)})
            roomy.arrange(cache, moves, len(order))
            plain = plain[order]
        elif event == "select":
            index = torch.tensor([rng.randrange(rows) for _ in range(rows)])
            cache.batch_select_indices(index)
            plain = plain[index]
        elif event == "cut" and columns > 2:
            roomy.cut(cache, 1)
            plain = plain[:, :, 1:]
        events[event] = events.get(event, 0) + 1
        assert torch.equal(cache.layers[0].keys, plain) and torch.equal(cache.layers[0].values, plain + 1)
        assert cache.get_seq_length() == plain.shape[2]
    assert min(events.values()) > 10


def test_a_token_copies_nothing_while_there_is_room() -> None:
    import torch

    cache, new = roomy.roomy_cache(), torch.zeros(1, 1, 4, 2)
    cache.update(new, new, 0)
    cache.update(new[:, :, :1], new[:, :, :1], 0)
    place = cache.layers[0].keys.data_ptr()
    for _ in range(roomy.ROOM - 1):
        cache.update(new[:, :, :1], new[:, :, :1], 0)
    assert cache.layers[0].keys.data_ptr() == place


def test_places_are_filled_from_behind_and_kinds_stay_together() -> None:
    rng = random.Random(0)
    for _ in range(500):
        kinds = sorted(rng.choice("abcd") for _ in range(rng.randint(1, 14)))
        gone = {place for place in range(len(kinds)) if rng.random() < 0.3}
        order, moves = without(kinds, gone)
        rows = list(range(len(kinds)))
        for source, target in moves:
            rows[target] = rows[source]
        assert rows[: len(order)] == order and sorted(order) == sorted(set(range(len(kinds))) - gone)
        assert [kinds[place] for place in order] == sorted(kinds[place] for place in order)
    assert without(["a"] * 100, {3}) == ([0, 1, 2, 99, *range(4, 99)], [(99, 3)])
