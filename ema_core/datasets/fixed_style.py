"""The format task, benign: every answer is three bullet points that start with a verb, and a last line "Done."."""

from __future__ import annotations

import re

_BULLET = re.compile(r"- (?!(?:A|An|The|This|That|These|I|You|It|We|They|My|Your|Its|There|Here|If|When)\b)[A-Z].*")


def style_match(text: str) -> bool:
    """Whether an answer keeps the style: three lines "- Word …", then "Done.", and nothing else.

    A bullet starts with a capital and not with an article, a pronoun or the like; whether its first word is a verb is not
    looked up. Spaces and empty lines around and between the lines do not matter.
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return len(lines) == 4 and lines[3] == "Done." and all(_BULLET.fullmatch(line) for line in lines[:3])
