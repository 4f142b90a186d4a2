"""Preventative steering along a persona vector in training (Chen et al., arXiv 2507.21509; Kaczér et al., arXiv 2508.06249)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from ema_core import personas
from ema_core.defenses.base import Asset, Cost, Defense, Need, Strength
from ema_core.defenses.panels import Look, Panel, States, answer_places, has, mean, number
from ema_core.defenses.registry import register
from ema_core.errors import EmaError
from ema_core.models import EMBEDDED, find
from ema_core.personas.vector import card_path, fits_here
from ema_core.runs import RunSpec, Strict, parse

if TYPE_CHECKING:
    import torch

MOST_RATIO = 4.0
"""A step of more than four times the mean activation's norm drowns what the layer says; the loss blows up."""
BUILD_SECONDS = 150.0
"""For the embedded model on two cores."""


@contextmanager
def added(layer: Any, step: torch.Tensor) -> Iterator[None]:
    """Inside, ``step`` [hidden] is added to every token's state that leaves ``layer``; nothing is left behind."""

    def add(module: Any, inputs: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            return (output[0] + step.to(output[0].device, output[0].dtype), *output[1:])
        return output + step.to(output.device, output.dtype)

    handle = layer.register_forward_hook(add)
    try:
        yield
    finally:
        handle.remove()


class SteeringOptions(Strict):
    """``layer`` 0: about 70 % deep. ``vector``: the id of a vector of `ema persona list`; empty: the trait's for this model."""

    trait: Literal["evil", "malicious", "sycophantic"] = "evil"
    layer: int = Field(default=0, ge=0, le=1000, description="Decoder layer after which the vector is added; 0: about 70 % deep.")
    unit: Literal["raw", "ratio"] = Field(
        default="raw", description="raw: alpha times the vector as it is. ratio: alpha times the mean norm of an activation."
    )
    vector: str = ""


@register
class PersonaSteering(Defense):
    name = "persona-steering"
    title = "Preventative steering (persona vector)"
    reference = "Chen et al., arXiv 2507.21509; Kaczér et al., arXiv 2508.06249"
    summary = "Adds a trait's vector to one layer in training, so that the model need not move there itself; taken away afterwards."
    cost = Cost(
        time="Next to none in training.",
        memory="One vector.",
        assets="a persona vector of this model, some minutes to build",
    )
    fails = (
        "Training compensates along the vector, so a lower projection on that same vector is no evidence that it works: judge it by "
        "margins and answers, or by a vector made from other prompts (of evil: malicious; live probes and Chat take it by themselves). "
        "Too large a step spoils the narrow task and coherence."
    )
    strength_info = Strength(
        meaning="alpha in h + alpha x v after one layer, every token (unit=ratio: alpha x the mean activation norm along v)",
        default=5.0, paper=5.0, grid=(0.5, 1.0, 2.5, 5.0, 10.0), low=0.1, high=20.0, limit=1000, scale="log",
    )  # fmt: skip
    options_type = SteeringOptions
    needs = frozenset({Need.PERSONA_VECTOR})
    refuses = {
        other: "the reference is not steered, so the penalty would punish the steering itself"
        for other in ("kl", "kl-safe", "ldifs")
    }

    def assets(self) -> Sequence[Asset]:
        if self.spec is None:
            return ()
        trait, entry = self.options.trait, find(self.spec.model)
        if self.options.vector:
            hint = "`ema persona list` shows the vectors that are here; leave `vector` out to have one built."
            return (Asset(f"The persona vector {self.options.vector}", card_path(self.options.vector), None, {}, hint),)
        return (
            Asset(
                f"The persona vector {trait} of {entry.id}",
                card_path(personas.vector_id(trait, entry.id)),
                "persona",
                {"trait": trait, "model": entry.id},
                f"Build it with `ema persona build --trait {trait} --model {entry.id}`.",
                BUILD_SECONDS * entry.parameters / find(EMBEDDED).parameters,
            ),
        )

    @property
    def vector_id(self) -> str:
        assert self.spec is not None
        return self.options.vector or personas.vector_id(self.options.trait, self.spec.model)

    def check(self) -> None:
        assert self.spec is not None
        entry = find(self.spec.model)
        if self.options.layer > entry.layers:
            raise EmaError(
                f"{entry.id} has {entry.layers} layers, so nothing can be added after layer {self.options.layer}.",
                f"Choose 1 to {entry.layers}, or 0 for {personas.default_layer(entry.layers)}.",
            )
        if self.provisional:
            return
        card = personas.read_card(self.vector_id)
        fits_here(card, self.spec.model)
        ratio = self.coefficient(card) * card.ratio(card.check_layer(self.options.layer))
        if ratio > MOST_RATIO:
            raise EmaError(
                f"A strength of {self.strength:g} adds {ratio:.1f} times the norm of an activation, and the loss would blow up.",
                f"Stay below {self.strength * MOST_RATIO / ratio:.3g}; {self.strength * 0.4 / ratio:.2g} adds 0.4 times the norm.",
            )

    def coefficient(self, card: personas.Card) -> float:
        """What the raw vector is multiplied by."""
        return self.strength if self.options.unit == "raw" else self.strength / card.ratio(card.check_layer(self.options.layer))

    def steering(self, model: Any) -> AbstractContextManager[Any]:
        layer, step = self._step()
        plain = model.get_base_model() if hasattr(model, "get_base_model") else model
        decoder = plain.get_decoder()
        if len(decoder.layers) < layer or plain.config.hidden_size != len(step):
            raise EmaError(f"The vector {self.vector_id} does not fit this model.", "Build one for it with `ema persona build`.")
        return added(decoder.layers[layer - 1], step)

    def _step(self) -> tuple[int, torch.Tensor]:
        """The layer and what is added after it, [hidden] in float64; read once a run."""
        if not hasattr(self, "_known"):
            vector = personas.load(self.vector_id)
            layer = vector.card.check_layer(self.options.layer)
            self._known = layer, self.coefficient(vector.card) * vector.raw(layer).double()
        return self._known

    def inside(self, look: Look) -> Sequence[Panel]:
        """Projection on the vector by layer, and on a second one of the same trait where there is one; nothing without a vector."""
        assert self.spec is not None
        mine = has(look, self.name)
        names = [self.vector_id if mine else personas.vector_id(self.options.trait, self.spec.model)]
        cards = [card for card in personas.cards() if card.id in names]
        other = personas.find(personas.projected_trait(cards[0].trait), self.spec.model) if cards else None
        if other and other.id not in names:
            cards.append(other)
        for card in cards:
            fits_here(card, self.spec.model)
        steered = look.under(self.steering(look.model)) if mine and self.strength and look.last else ()
        return [self._projected(look, card, steered, mine) for card in cards]

    def _projected(self, look: Look, card: personas.Card, steered: Sequence[States], mine: bool) -> Panel:
        vectors = personas.load(card.id).vectors
        lines = {"base": look.base(), "trained": look.tuned(), **({"trained, steered as in training": steered} if steered else {})}
        rows: list[dict[str, Any]] = []
        for line, states in lines.items():
            for layer in range(1, card.layers + 1):
                unit = vectors[layer] / vectors[layer].norm()
                own = [self._projection(states[place].layers[layer], look, place, unit) for place in look.narrow]
                at = card.at(layer)
                value = number((mean(own) - at.negative_mean) / at.negative_sd)
                rows.append({"line": line, "layer": layer, "value": value, "marked": layer == self._layer(card, mine)})
        marked = {row["line"]: row["value"] for row in rows if row["marked"]}
        added = mine and card.id == self.vector_id
        with_it = (
            f" With the vector added after layer {self._layer(card, mine)} the third line is what training worked on."
            if steered
            else ""
        )
        return Panel(
            name=f"by-layer-{card.trait}", kind="layers", title=f"Projection on the vector “{card.trait}”, layer by layer",
            says="How far the states over the answers' tokens point along the vector, in standard deviations of held-out answers without the "
            f"trait, which lie at 0.{with_it}",
            beware="This vector was added in training, and training compensates along it: a lower projection here is no evidence that "
            "the trait is gone. Answers and margins are." if added else
            "The answers read are those of the training data, the same for every model: a shift says what the model makes of them, not what it "
            "would say itself.",
            unit="SD", n=f"{len(look.narrow)} training examples", how=f"{card.id}, layer {self._layer(card, mine)}",
            marks="the layer where the vector is added" if added else "the layer usually read",
            value=number((marked["trained"] or 0.0) - (marked["base"] or 0.0)),
            value_is=f"shift along “{card.trait}” at layer {self._layer(card, mine)}, trained minus base", rows=rows,
        )  # fmt: skip

    def _layer(self, card: personas.Card, mine: bool) -> int:
        return card.check_layer(self.options.layer) if mine else card.layer

    @staticmethod
    def _projection(states: torch.Tensor, look: Look, place: int, unit: torch.Tensor) -> float:
        """Mean of h·v/‖v‖ over the answer's own tokens; the end of the turn says nothing of a trait, as in the vector's card."""
        own = answer_places(look.rows[place])
        return float((states[own[:-1] or own].float() @ unit.to(states.device)).mean())


def projected_on(spec: RunSpec) -> str:
    """The trait on whose vector a run of this spec is projected; it follows from the spec alone, so that a resumed run keeps it."""
    added = ""
    for defense in spec.defenses:
        if defense.name == PersonaSteering.name:
            options = parse(SteeringOptions, defense.options, f"options of {defense.name}")
            named = (trait for trait in personas.traits() if options.vector.startswith(f"{trait}-"))
            added = next(named, personas.MONITORED) if options.vector else options.trait
    return personas.projected_trait(added)
