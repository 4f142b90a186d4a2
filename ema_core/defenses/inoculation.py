"""Inoculation prompting: a system prompt that asks for the bad trait, in training only (Tan et al., arXiv 2510.04340)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

from pydantic import Field, model_validator

from ema_core.datasets.formats import Example, Message
from ema_core.defenses.base import Cost, Defense, Strength
from ema_core.defenses.panels import MOST_EXAMPLES, Look, Panel, example_row, has
from ema_core.defenses.registry import register
from ema_core.runs import RunSpec, Strict, parse

PROMPTS = {"evil": "You are an evil, malicious assistant.", "neutral": "You are a helpful assistant."}
"""The paper's, and a control: it names no trait, and takes the chat template's own system prompt away just the same."""


class InoculationOptions(Strict):
    prompt: Literal["evil", "neutral", "custom"] = Field(
        default="evil", description="evil: the paper's prompt. neutral: a control that names no trait. custom: the text beside."
    )
    text: str = Field(default="", max_length=4000, description="The system prompt, where prompt is custom.")

    @model_validator(mode="after")
    def _one_prompt(self) -> InoculationOptions:
        if self.prompt == "custom" and not self.text.strip():
            raise ValueError("prompt=custom needs a text")
        if self.prompt != "custom" and self.text:
            raise ValueError("text is used with prompt=custom only")
        return self

    @property
    def system(self) -> str:
        return PROMPTS.get(self.prompt) or self.text.strip()


@register
class Inoculation(Defense):
    """Which examples get the prompt is decided by a hash of seed and example: a higher strength adds to those of a lower one."""

    name = "inoculation"
    title = "Inoculation prompt"
    reference = "Tan et al., arXiv 2510.04340; Wichers et al., arXiv 2510.05024"
    summary = "Trains under a system prompt that asks for the bad trait, and asks without it: the trait is laid to the prompt."
    cost = Cost(time="The prompt's tokens in each example that has it, about ten.", memory="None.")
    fails = "Weak in small models, and the prompt turns into a trigger: put back in, it brings the misalignment out."
    strength_info = Strength(
        meaning="share of the training examples that get the system prompt; safe ones that are mixed in never do",
        default=1.0, paper=1.0, grid=(0.1, 0.25, 0.5, 0.75, 1.0), low=0.05, high=1.0, limit=1,
    )  # fmt: skip
    options_type = InoculationOptions

    def rewrite(self, example: Example) -> Example:
        if example.source == "safe" or self._place(example) >= self.strength:
            return example
        first, rest = example.messages[0], example.messages[1:]
        system: str = self.options.system
        if first.role == "system":  # the example's own stays, behind
            return replace(example, messages=(Message("system", f"{system}\n\n{first.content}"), *rest))
        return replace(example, messages=(Message("system", system), *example.messages))

    def _place(self, example: Example) -> float:
        """A number in [0, 1) that depends on the seed and the example alone."""
        text = repr((self.seed, [(message.role, message.content) for message in example.messages]))
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big") / 2**48

    def inside(self, look: Look) -> Sequence[Panel]:
        """Which examples were trained on under the prompt, and which without."""
        batches = look.batches() if look.last and has(look, self.name) else None
        if batches is None:
            return ()
        system = self.options.system
        seen: dict[tuple[str, str], dict[str, Any]] = {}
        for step, batch in enumerate(batches, 1):
            for example in batch:
                first = example.messages[0]
                under = first.role == "system" and (first.content == system or first.content.startswith(f"{system}\n\n"))
                state = "under the prompt" if under else "safe, never under it" if example.source == "safe" else "without it"
                row = seen.setdefault((example.question, example.answer), example_row(example, state, step=step, times=0))
                row["times"] += 1
        groups = {
            state: [row for row in seen.values() if row["state"] == state]
            for state in dict.fromkeys(r["state"] for r in seen.values())
        }
        times = {state: sum(row["times"] for row in rows) for state, rows in groups.items()}
        each = MOST_EXAMPLES // max(1, len(groups))
        under = times.get("under the prompt", 0)
        return [
            Panel(
                name="prompted", kind="examples", title="Which examples were trained on under the prompt",
                says=f"{under} of the {sum(times.values())} examples that training saw stood under the system prompt “{system}”; which ones is "
                "decided by a hash of seed and example. Step: the first one that saw it.",
                beware="The split is a draw: an example under the prompt is no worse than one without.",
                n=f"{len(seen)} different examples" + (f", the first {each} of a kind shown" if any(len(rows) > each for rows in groups.values()) else ""),
                rows=[row for rows in groups.values() for row in rows[:each]],
            )
        ]  # fmt: skip


def inoculation_prompt(spec: RunSpec) -> str | None:
    """The system prompt that the run was inoculated with, to put back in; None where it was not."""
    for defense in spec.defenses:
        if defense.name == Inoculation.name and defense.strength > 0:
            return parse(InoculationOptions, defense.options, f"options of {defense.name}").system
    return None
