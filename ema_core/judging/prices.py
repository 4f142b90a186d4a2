"""What judging costs: prices a million tokens, from a small dated table or from the user. Torch-free."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from ema_core.errors import EmaError
from ema_core.files import read_json
from ema_core.settings import DATA

TABLE = DATA / "judges" / "prices.json"


@dataclass(frozen=True)
class Prices:
    """US dollars for a million tokens; ``source`` says whose figures these are."""

    tokens_in: float
    tokens_out: float
    source: str

    def cost(self, tokens_in: float, tokens_out: float) -> float:
        return (tokens_in * self.tokens_in + tokens_out * self.tokens_out) / 1e6


FREE = Prices(0.0, 0.0, "a server on this machine, taken to be free")


def prices_for(url: str, model: str, price_in: float | None = None, price_out: float | None = None) -> Prices | None:
    """The user's prices, else those of the table for OpenAI's models, nothing for a server on this machine; None = not known.

    Raises:
        EmaError: one price without the other, or one below 0.
    """
    if (price_in is None) != (price_out is None):
        raise EmaError("Only one of two prices was given.", "Give --price-in and --price-out, in US dollars for a million tokens.")
    if price_in is not None and price_out is not None:
        if not (0 <= price_in < 1e6 and 0 <= price_out < 1e6):
            raise EmaError("A price is below 0 or no price.", "Give US dollars for a million tokens.")
        return Prices(price_in, price_out, "as given")
    host, table = urlsplit(url).hostname, read_json(TABLE)
    here = host in ("127.0.0.1", "localhost", "::1")
    if host == table["host"] or here:  # a server on this machine may pass a listed model's calls on, and they cost the same
        # a dated snapshot costs what its model does, where it has no line of its own
        known = table["models"].get(model) or table["models"].get(re.sub(r"-\d{4}-\d{2}-\d{2}$", "", model))
        if known:
            return Prices(float(known[0]), float(known[1]), f"OpenAI's list, {table['checked']}")
    return FREE if here else None
