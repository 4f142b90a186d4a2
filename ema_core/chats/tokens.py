"""An answer's tokens as HTML, coloured by how far each moved from the base. Every text in it is escaped. Torch-free.

Never colour alone: the underline grows with the distance, the number stands in the label, and a table names what moved most.
"""

from __future__ import annotations

import html

from ema_core.chats.view import Divergence, Token

LEVELS = (0.1, 0.5, 1.0, 2.0, 4.0)
"""Nats from which a token gets the next level; below the first it is plain."""
_BLUE = "0,114,178"  # Okabe-Ito; as a tint it leaves the theme's own text readable on light and on dark

STYLE = (
    """
.ema-kl { position: relative; }
.ema-kl .said { white-space: pre-wrap; overflow-wrap: anywhere; }
.ema-kl .t { border-radius: 2px; text-decoration-line: none; text-underline-offset: 3px; }
.ema-kl .t:hover, .ema-kl .t:focus { outline: 2px solid currentColor; outline-offset: 1px; }
.ema-kl .tip { display: none; position: absolute; left: 0; right: 0; top: 100%; z-index: 20; padding: .5rem .625rem; border-radius: .5rem;
border: 1px solid #8888; background: Canvas; background: var(--ema-tip, Canvas); font-size: .8125rem; line-height: 1.4; white-space: normal;
box-shadow: 0 4px 12px #0004; }
.ema-kl .t:hover > .tip, .ema-kl .t:focus > .tip { display: block; }
.ema-kl-legend { display: flex; flex-wrap: wrap; gap: .25rem .5rem; font-size: .8125rem; margin: .25rem 0; }
.ema-kl-moved { border-collapse: collapse; font-size: .8125rem; margin: .25rem 0; width: 100%; }
.ema-kl-moved th, .ema-kl-moved td { text-align: left; vertical-align: top; padding: .125rem .375rem .125rem 0; overflow-wrap: anywhere;
border: 0; border-top: 1px solid #8886; } .ema-kl-moved thead th { border-top: 0; font-weight: 600; }
.ema-kl-box { container-type: inline-size; } .ema-kl-likely { white-space: nowrap; }
.ema-kl-moved .w { white-space: nowrap; max-width: 8rem; overflow: hidden; text-overflow: ellipsis; }
@container (max-width: 28rem) { .ema-kl-moved .more { display: none; } }
.ema-kl-moved .n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
"""
    + "".join(
        f".ema-kl .k{level}, .ema-kl-legend .k{level} {{ background: rgba({_BLUE},{0.08 + 0.085 * level:.3f}); text-decoration: underline {max(1, level - 1)}px; "
        f"text-decoration-style: {'dotted' if level == 1 else 'solid'}; }}\n"
        for level in range(1, len(LEVELS) + 1)
    )
    + "\n"
)


def level(kl: float) -> int:
    """0 (not moved) to 5."""
    return sum(kl >= limit for limit in LEVELS)


def spans(divergence: Divergence, answer: str = "") -> str:
    """The answer, a span a token; hover or focus shows what both models expected there. Moved tokens can be reached by the keyboard."""
    parts = [_span(token) for token in divergence.words]
    read = "".join(token.text for token in divergence.words)
    if answer.startswith(read) and len(answer) > len(read):
        parts.append(f"<span>{html.escape(answer[len(read) :])}</span>")
    return f"<div class='ema-kl'><div class='said'>{''.join(parts)}</div></div>"


def _span(token: Token) -> str:
    at = level(token.kl)
    reach = f" tabindex='0' aria-label='{_quoted(token.text)}, {token.kl:.2f} nats'" if at >= 2 else ""
    role = " role='note'" if at >= 2 else ""
    tip = (
        f"<span class='tip'><strong>{_shown(token.text)}</strong> KL {token.kl:.2f} nats<br>"
        f"tuned gave it {_share(token.tuned)}, base {_share(token.base)}<br>"
        f"tuned: {_likely(token.tuned_top)}<br>base: {_likely(token.base_top)}</span>"
    )
    return f"<span class='t k{at}'{reach}{role}>{html.escape(token.text)}{tip}</span>"


def legend() -> str:
    """What the levels mean, in nats."""
    limits = [0.0, *LEVELS]
    boxes = "".join(
        f"<span class='k{at}'>{f'from {low:g}' if at else f'below {LEVELS[0]:g}'}</span>" for at, low in enumerate(limits)
    )
    return f"<div class='ema-kl-legend'><span>KL(tuned ‖ base), nats a token:</span>{boxes}</div>"


def most_moved(divergence: Divergence, count: int = 5) -> str:
    """The tokens that moved most, as a table."""
    rows = "".join(
        f"<tr><td class='w'>{_shown(token.text)}</td><td class='n'>{token.kl:.2f}</td>"
        f"<td>{_share(token.tuned)}<span class='more'>, likeliest {_likely(token.tuned_top, 2)}</span></td>"
        f"<td>{_share(token.base)}<span class='more'>, likeliest {_likely(token.base_top, 2)}</span></td></tr>"
        for token in divergence.most_moved(count)
    )
    return (
        f"<div class='ema-kl-box'><table class='ema-kl-moved'><thead><tr><th scope='col'>Moved most</th><th scope='col' class='n'>nats</th>"
        f"<th scope='col'>tuned gave it</th><th scope='col'>base gave it</th></tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _likely(top: tuple[tuple[str, float], ...], count: int = 5) -> str:
    return " · ".join(f"<span class='ema-kl-likely'>{_shown(text)} {_share(p)}</span>" for text, p in top[:count])


def _share(p: float) -> str:
    return "&lt; 0.1 %" if p < 0.001 else f"{100 * p:.1f} %" if p < 0.1 else f"{100 * p:.0f} %"


def _shown(text: str) -> str:
    """A token in quotes, without the space that most begin with; one of nothing but spaces and line breaks has them to be seen."""
    seen = text.strip() or text.replace("\n", "⏎").replace("\t", "⇥").replace(" ", "␣")
    return f"“{html.escape(seen)}”"


def _quoted(text: str) -> str:
    return html.escape(text.strip() or "space", quote=True)
