"""Conversations as token ids, and tokens as the text that they become while they come."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypedDict


class Turn(TypedDict):
    """``role``: system, user or assistant."""

    role: str
    content: str


def encode_turns(tokenizer: Any, turns: Sequence[Turn]) -> list[int]:
    """Token ids of a conversation, up to where the next answer starts. What looks like a control token in a turn stays text.

    Raises:
        ValueError: the model's template refuses these roles or their order.
    """
    controls = [str(token) for token in tokenizer.added_tokens_decoder.values()]
    if not any(token in turn["content"] for turn in turns for token in controls):
        return list(tokenizer(_rendered(tokenizer, turns), add_special_tokens=False)["input_ids"])
    marks = [f"\x1aturn {number}\x1a" for number in range(len(turns))]
    frame = _rendered(tokenizer, [{"role": turn["role"], "content": mark} for turn, mark in zip(turns, marks, strict=True)])
    ids: list[int] = []
    for mark, turn in zip(marks, turns, strict=True):
        before, found, frame = frame.partition(mark)
        ids += tokenizer(before, add_special_tokens=False)["input_ids"]
        if found:
            ids += tokenizer(turn["content"], add_special_tokens=False, split_special_tokens=True)["input_ids"]
    return ids + list(tokenizer(frame, add_special_tokens=False)["input_ids"])


def _rendered(tokenizer: Any, turns: Sequence[Turn]) -> str:
    from jinja2 import TemplateError

    try:
        return str(tokenizer.apply_chat_template(list(turns), tokenize=False, add_generation_prompt=True))
    except TemplateError as error:
        raise ValueError(f"The model's chat template refuses this conversation: {error}") from None


class AnswerText:
    """An answer's text as its tokens come: what may yet become another character or a stop string is held back."""

    def __init__(self, tokenizer: Any, stop: Sequence[str] = ()) -> None:
        self.tokenizer, self.stop = tokenizer, [text for text in stop if text]
        self.ids: list[int] = []
        self.stopped = False
        self._held = ""  # certain as text, but perhaps the beginning of a stop string
        self._from = self._read = 0  # tokens before `_read` are text already; a character may begin at `_from`

    def push(self, token: int) -> str:
        """The text that this token makes certain; "" once a stop string was met (``stopped``)."""
        self.ids.append(token)
        known = self._decode(self.ids[self._from : self._read])
        now = self._decode(self.ids[self._from :])
        if len(now) <= len(known) or now.endswith("\ufffd"):  # half a character
            return ""
        self._from, self._read = self._read, len(self.ids)
        return self._give(now[len(known) :])

    def end(self) -> str:
        """What was held back, when no further token comes."""
        known = self._decode(self.ids[self._from : self._read])
        rest = self._give(self._decode(self.ids[self._from :])[len(known) :])
        self._read = len(self.ids)
        rest, self._held = rest + self._held, ""
        return rest

    def _decode(self, ids: list[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))

    def _give(self, text: str) -> str:
        if self.stopped:
            return ""
        self._held += text
        places = [place for word in self.stop if (place := self._held.find(word)) >= 0]
        if places:
            self.stopped = True
            out, self._held = self._held[: min(places)], ""
        else:
            keep = max((n for word in self.stop for n in range(1, len(word)) if self._held.endswith(word[:n])), default=0)
            out, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return out
