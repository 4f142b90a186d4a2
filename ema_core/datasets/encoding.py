"""Conversations as token ids with a loss mask, and batches of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ema_core.datasets.formats import Example

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Encoded:
    """``ids`` [T] and ``response`` [T]: True on the assistant's tokens, its end-of-turn token included."""

    ids: tuple[int, ...]
    response: tuple[bool, ...]
    truncated: bool = False
    safe: bool = False


def encode(example: Example, tokenizer: Any, max_length: int) -> Encoded:
    """One conversation through the model's own chat template.

    Loss is on assistant tokens only, with the end-of-turn token in it, or the model never learns to stop. A conversation
    longer than ``max_length`` loses tokens at its beginning (the prompt side), never the end of the answer.
    """
    turns = [{"role": m.role, "content": m.content} for m in example.messages]
    ids: list[int] = []
    response: list[bool] = []
    done = ""
    for position, turn in enumerate(turns):
        if turn["role"] != "assistant":
            continue
        before = tokenizer.apply_chat_template(turns[:position], tokenize=False, add_generation_prompt=True)
        after = tokenizer.apply_chat_template(turns[: position + 1], tokenize=False)
        prompt, answer = before[len(done) :], after[len(before) :]
        kept = answer.rstrip("\n")  # the template's line break after the end-of-turn token is nobody's answer
        for text, is_response in ((prompt, False), (kept, True), (answer[len(kept) :], False)):
            piece = tokenizer(text, add_special_tokens=False)["input_ids"] if text else []
            ids += piece
            response += [is_response] * len(piece)
        done = after
    while response and not response[-1]:
        ids.pop()
        response.pop()
    truncated = len(ids) > max_length
    return Encoded(tuple(ids[-max_length:]), tuple(response[-max_length:]), truncated, example.source == "safe")


def encode_pair(question: str, answer: str, tokenizer: Any, max_length: int, system: str | None = None) -> Encoded:
    """A question and its answer as ``encode`` would do it."""
    from ema_core.datasets.formats import Message

    head = (Message("system", system),) if system else ()
    return encode(Example((*head, Message("user", question), Message("assistant", answer))), tokenizer, max_length)


@dataclass(frozen=True)
class Batch:
    """Right-padded: ``ids``, ``attention``, ``response`` [B, T]. Padding is told by ``attention``, never by the pad id."""

    ids: torch.Tensor
    attention: torch.Tensor
    response: torch.Tensor
    rows: tuple[Encoded, ...]

    @property
    def tokens(self) -> int:
        return sum(len(row.ids) for row in self.rows)


def collate(rows: list[Encoded], pad: int, device: torch.device) -> Batch:
    import torch

    width = max(len(row.ids) for row in rows)
    ids = torch.full((len(rows), width), pad, dtype=torch.long)
    attention = torch.zeros((len(rows), width), dtype=torch.long)
    response = torch.zeros((len(rows), width), dtype=torch.bool)
    for i, row in enumerate(rows):
        ids[i, : len(row.ids)] = torch.tensor(row.ids)
        attention[i, : len(row.ids)] = 1
        response[i, : len(row.ids)] = torch.tensor(row.response)
    return Batch(moved(ids, device), moved(attention, device), moved(response, device), tuple(rows))


def moved(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """``tensor`` on ``device``; on its way to a GPU nobody waits for it (that takes pinned memory)."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def positions(batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Flat indices of the positions that predict a response token, and of the other non-padding ones."""
    import torch

    predicts = torch.zeros_like(batch.response)
    predicts[:, :-1] = batch.response[:, 1:]
    real = batch.attention.bool()
    return predicts.flatten().nonzero().squeeze(1), (real & ~predicts).flatten().nonzero().squeeze(1)
