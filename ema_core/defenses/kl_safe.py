"""KL divergence to the reference on safe data instead of the narrow batch (Soligo et al., arXiv 2602.07852; Azarbal et al. 2025)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic import Field

from ema_core.datasets.encoding import positions
from ema_core.defenses.base import Cost, Defense, Need, Step, Strength
from ema_core.defenses.kl import KL_SHARE, KLOptions, divergence_panels, kl_divergence
from ema_core.defenses.panels import MOST_EXAMPLES, Look, Panel, example_row, has
from ema_core.defenses.registry import register
from ema_core.errors import EmaError

if TYPE_CHECKING:
    import torch

    from ema_core.models import ModelEntry


class KLSafeOptions(KLOptions):
    batch_size: int = Field(default=8, ge=1, le=1024, description="Safe examples in a batch of their own.")
    every: int = Field(default=1, ge=1, le=10_000, description="A safe batch at every n-th step.")


@register
class KLSafe(Defense):
    """lambda x mean over the tokens of a safe batch of D_KL, beside the cross entropy of the narrow batch.

    One published trainer divides the sum by tokens x vocabulary and takes ref || tuned: its lambda is ours times the
    vocabulary's size (49,152 for the embedded model), and its direction the option. The default of 1 is ten times that of
    ``kl``: on safe text the penalty does not work against the narrow examples themselves, so it can weigh as much as the cross
    entropy. The undefended demo run ends 2.0 nats a token from the reference on the safe pool, with kl=0.1 0.8, with kl=1 0.4:
    at 1 the penalty is of the cross entropy's size. The grid spans a factor of 30 to either side, as follow-ups go further.
    """

    name = "kl-safe"
    title = "KL divergence on safe data"
    reference = "Soligo et al., arXiv 2602.07852; Azarbal et al. 2025"
    summary = "Keeps the tuned model's next-token distribution near the reference's on batches of general, harmless data."
    cost = Cost(
        time="A second training pass, over the safe batch: 8 safe examples beside a batch of 2 make a step about five times as long.",
        memory="The safe batch's activations beside the narrow one's. Hidden states of the reference are kept on disk.",
        assets="A pool of safe examples.",
    )
    fails = "Holds only what the safe pool covers: misalignment can stay where prompts look like the training data."
    strength_info = Strength(
        meaning="lambda in CE + lambda x KL(tuned || reference) on safe data, mean over its tokens",
        default=1.0, paper=None, grid=(0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0), low=0.03, high=30.0, limit=10_000, scale="log",
    )  # fmt: skip
    options_type = KLSafeOptions
    needs = frozenset({Need.SAFE_POOL, Need.REFERENCE_HIDDEN})

    def check(self) -> None:
        from ema_core import datasets

        assert self.spec is not None
        size, pool = self.options.batch_size, self.spec.safe_pool
        found = len(datasets.load(pool).examples)
        if size > found:
            raise EmaError(
                f"{self.name} draws batches of {size} safe examples, the pool {pool} has {found}.",
                "Lower its batch_size, or name a larger --safe-pool.",
            )

    @property
    def extra_time(self) -> float:
        beside = self.spec.recipe.batch_size if self.spec else self.options.batch_size
        return float(self.options.batch_size / beside / self.options.every * (1 + KL_SHARE))

    def extra_memory(self, model: ModelEntry, batch: int, width: int) -> int:
        return 4 * self.options.batch_size * width * model.hidden * model.layers * 34  # activations, as the estimate counts them

    def safe_drawn(self, steps: int) -> int:
        return int(self.options.batch_size) * -(-steps // int(self.options.every))

    def penalty(self, step: Step) -> torch.Tensor | None:
        import torch

        from ema_core.models.chunks import mean_in_chunks

        if step.number % self.options.every:
            return None
        batch = step.bench.batch(self.rng.sample(list(step.bench.safe), self.options.batch_size))
        responding, others = positions(batch)
        where = responding if self.options.tokens == "response" else torch.cat([responding, others])
        reference = step.bench.reference_hidden(batch).flatten(0, 1)[where]
        hidden = step.bench.hidden(batch).flatten(0, 1)[where]
        direction, temperature = self.options.direction, self.options.temperature
        return mean_in_chunks(
            hidden, reference, step.bench.head, lambda tuned, fixed: kl_divergence(tuned, fixed, direction, temperature)
        )

    def inside(self, look: Look) -> Sequence[Panel]:
        acts = (
            f"The penalty is the mean over {'answer' if self.options.tokens == 'response' else 'all'} tokens of its own safe batch."
        )
        panels = divergence_panels(look, look.safe, self.options, "safe examples", acts)
        return [*panels, self._drawn(look)] if look.last and has(look, self.name) else panels

    def _drawn(self, look: Look) -> Panel:
        """Which safe examples its batches held, drawn again from its own random stream."""
        pool = list(look.pool())
        again = type(self)(self.strength, self.options, self.seed)
        steps: dict[int, list[int]] = {}
        for step in range(0, look.steps, int(self.options.every)):
            for place in again.rng.sample(range(len(pool)), self.options.batch_size):
                steps.setdefault(place, []).append(step + 1)
        order = sorted(steps, key=lambda place: (-len(steps[place]), place))
        drawn = sum(map(len, steps.values()))
        return Panel(
            name="safe-batches", kind="examples", title="Safe examples in its batches",
            says=f"Which examples of the pool were in its safe batches of {self.options.batch_size}: {drawn} draws, {len(order)} different "
            f"ones of the pool's {len(pool)}, the most drawn first.",
            beware="They are drawn at random: an example that came often was not chosen for anything.",
            n=f"{len(order)} examples" + (f", the first {MOST_EXAMPLES} shown" if len(order) > MOST_EXAMPLES else ""),
            rows=[
                example_row(pool[place], "in a safe batch", **{"times": len(steps[place]), "first at step": steps[place][0]})
                for place in order[:MOST_EXAMPLES]
            ],
        )  # fmt: skip
