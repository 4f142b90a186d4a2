"""One look a defense, the same on every figure: Okabe-Ito colours, and never colour alone (a dash and a symbol beside it)."""

from __future__ import annotations

import colorsys
import math
import zlib
from dataclasses import dataclass, replace

NONE = "none"


@dataclass(frozen=True)
class Style:
    """How marks and lines of a defense look."""

    color: str
    dash: str
    symbol: str


# Black and yellow are left out: each vanishes on one of the two themes.
_STYLES = {
    NONE: Style("#7f7f7f", "solid", "circle"),
    "kl": Style("#0072b2", "solid", "square"),
    "ldifs": Style("#56b4e9", "dash", "diamond"),
    "safelora": Style("#009e73", "dashdot", "cross"),
    "persona-steering": Style("#cc79a7", "longdash", "triangle-up"),
    "steering": Style("#cc79a7", "longdash", "triangle-up"),
    "inoculation": Style("#e69f00", "dot", "triangle-down"),
    "interleaving": Style("#d55e00", "dash", "pentagon"),
    "interleaving-plus": Style("#d55e00", "dashdot", "hexagon"),
    "interleaving-plusplus": Style("#d55e00", "dot", "star"),
}
_SEVERAL = Style("#a89b00", "longdashdot", "x")
_DASHES = ("dash", "dot", "dashdot", "longdash", "longdashdot")
_SYMBOLS = ("hourglass", "bowtie", "star-diamond", "hexagram", "star-triangle-up")


def parts(label: str) -> list[tuple[str, float, str]]:
    """Name, strength and options of each defense in ``kl=0.1:tokens=response + interleaving=0.05``; empty for ``none``."""
    found = []
    for part in str(label or NONE).split(" + "):
        head, _, options = part.partition(":")
        name, _, strength = head.strip().partition("=")
        if name and name != NONE:
            try:
                found.append((name, float(strength or "nan"), options))
            except ValueError:
                found.append((name, math.nan, options))
    return found


def style(label: str) -> Style:
    """The look of a defense by its name or label; of several at once, one look for all of these."""
    defenses = parts(label)
    if not defenses:
        return _STYLES[NONE]
    if len(defenses) > 1:
        return _SEVERAL
    name, strength, _ = defenses[0]
    known = _STYLES.get(name)
    if known is None:  # a defense from another package: grey, with a pattern of its own
        number = zlib.crc32(name.encode())
        known = Style("#6f7c85", _DASHES[number % len(_DASHES)], _SYMBOLS[number // 8 % len(_SYMBOLS)])
    return replace(known, color=_shade(known.color, strength))


def _shade(color: str, strength: float) -> str:
    """Darker for a greater strength, lighter for a smaller one, over 0.01 to 10; the hue stays."""
    if not (math.isfinite(strength) and strength > 0):
        return color
    place = min(1.0, max(0.0, (math.log10(strength) + 2) / 3))
    hue, light, saturation = colorsys.rgb_to_hls(*(int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)))
    light = min(0.75, max(0.3, light + 0.14 - 0.2 * place))
    return "#" + "".join(f"{round(channel * 255):02x}" for channel in colorsys.hls_to_rgb(hue, light, saturation))


def faint(color: str, alpha: float) -> str:
    """The colour, see-through."""
    red, green, blue = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{alpha:g})"
