"""Time and memory of a run, told before it starts. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from ema_core import datasets
from ema_core.defenses import registry
from ema_core.defenses.base import Asset, Defense, Need
from ema_core.errors import EmaError
from ema_core.files import read_json, write_json
from ema_core.models import ModelEntry, find, reference_cache
from ema_core.models.reference import feature_bytes
from ema_core.runs import RunSpec
from ema_core.settings import settings
from ema_core.training.plan import Plan, plan
from ema_core.training.probes import schedule

TEMPLATE_TOKENS = 32
"""System prompt and turn marks that the embedded model's chat template adds."""
CHARACTERS_PER_TOKEN = 4.6
TOKENS_PER_SECOND = 150.0
"""LoRA training of the embedded model on two CPU cores; replaced by what this machine measured as soon as it has."""
PROBE_TOKENS = 740.0
"""Training tokens that take as long as one live probe; replaced by what was measured, too."""
LAYER_STATES = 34
"""Tensors of the model's width that a layer keeps for the backward pass."""
FREE_SHARE = 0.8
"""Of the free memory, what a run's activations may take before they are computed twice instead."""
EMBEDDED_PARAMETERS = 134_515_008


@dataclass(frozen=True)
class Estimate:
    """``seconds`` of training with its probes, ``memory`` and ``disk`` in bytes; ``measured``: by this machine's own rate.

    ``probes`` are the steps of its live probes, ``probe_seconds`` what they take in all. ``first`` names what has to be made before the run, each with its seconds; they are not in ``seconds``.
    ``notes`` are sentences on how it will be done.
    """

    steps: int
    tokens: int
    seconds: float
    memory: int
    disk: int
    safe_examples: int
    measured: bool
    first: tuple[tuple[str, float], ...] = ()
    probes: tuple[int, ...] = ()
    probe_seconds: float = 0.0
    notes: tuple[str, ...] = ()

    def json(self) -> dict[str, float]:
        return asdict(self)


def estimate(spec: RunSpec) -> Estimate:
    """From the run's own plan and this machine's measured rate.

    Raises:
        EmaError: the spec cannot be run.
    """
    model, todo = find(spec.model), planned(spec)
    tokens = sum(token_count(e.question + e.answer, spec.recipe.max_length) for batch in todo.batches for e in batch)
    rate, measured = throughput(model)
    defenses = registry.build_all(spec, provisional=True)
    factor = 1.0 + sum(defense.extra_time for defense in defenses)
    adapter = adapter_parameters(model, spec.recipe.rank)
    width = max((token_count(e.question + e.answer, spec.recipe.max_length) for batch in todo.batches for e in batch), default=1)
    activations = 4 * spec.recipe.batch_size * width * model.hidden * model.layers * 34
    memory = 4 * model.parameters + 16 * adapter + activations + 4 * 256 * model.vocabulary * 4 + 600_000_000
    memory += sum(defense.extra_memory(model, spec.recipe.batch_size, width) for defense in defenses)
    checkpoints = max(1, todo.total_steps // spec.recipe.checkpoint_every)
    first = tuple((asset.title, asset_seconds(asset)) for asset in registry.missing_assets(defenses))
    kept, notes = reference_bytes(spec, model, todo, defenses)
    disk = 4 * adapter * (checkpoints + 3) + kept
    training, each = tokens * factor / rate, probe_tokens(model) / rate
    steps: tuple[int, ...] = ()
    if spec.probes:
        steps = schedule(todo.total_steps, training, each) if spec.probes.steps is None else spec.probes.steps
    probing = len(steps) * each
    return Estimate(todo.total_steps, tokens, training + probing, memory, disk, todo.safe, measured, first, steps, probing, notes)


def too_large(spec: RunSpec, free: int, itemsize: int = 4) -> bool:
    """Whether the activations of this run's largest batch would not fit into ``free`` bytes; the weights are there already."""
    model, todo = find(spec.model), planned(spec)
    return activation_bytes(model, *largest(todo, spec.recipe.max_length), itemsize) > FREE_SHARE * free


def largest(todo: Plan, limit: int) -> tuple[int, int]:
    """Sequences and tokens each of the batch that takes the most, padding counted."""
    return max(
        ((len(batch), max(token_count(e.question + e.answer, limit) for e in batch)) for batch in todo.batches),
        key=lambda shape: shape[0] * shape[1], default=(0, 0),
    )  # fmt: skip


def activation_bytes(model: ModelEntry, rows: int, width: int, itemsize: int = 4, recomputed: bool = False) -> int:
    """Of one forward pass with its gradient; ``recomputed``: each layer's input alone, and one layer at a time."""
    one = rows * width * model.hidden * itemsize
    return one * (model.layers + LAYER_STATES) if recomputed else one * model.layers * LAYER_STATES


def asset_seconds(asset: Asset) -> float:
    """How long it takes to make; a run's is estimated as any run's."""
    return estimate(RunSpec.model_validate(asset.payload["spec"])).seconds if asset.job == "train" else asset.seconds


def reference_bytes(spec: RunSpec, model: ModelEntry, todo: Plan, defenses: Sequence[Defense]) -> tuple[int, tuple[str, ...]]:
    """What is kept on disk of the reference's states for this run's examples, at most, and a sentence on it."""
    limit = spec.recipe.max_length
    different = {example for batch in todo.batches for example in batch}
    tokens = sum(token_count(example.question + example.answer, limit) for example in different)
    hidden = any(defense.token_scope != "none" for defense in defenses)
    layers = {layer for defense in defenses for layer in defense.layers(model.layers)}
    size = feature_bytes(tokens, len(layers) + hidden, model.hidden)
    if drawn := sum(defense.safe_drawn(todo.total_steps) for defense in defenses):
        pool = datasets.load(spec.safe_pool).examples
        each = sum(token_count(example.question + example.answer, limit) for example in pool) / len(pool)
        size += feature_bytes(round(min(drawn, len(pool)) * each), 1, model.hidden)
    if not size:
        return 0, ()
    return size if reference_cache.fits(size) else 0, (reference_cache.told(size),)


def planned(spec: RunSpec) -> Plan:
    """The run's batches, as the loop will see them; with other safe examples while what chooses them is missing."""
    defenses = registry.build_all(spec, provisional=True)
    pool = datasets.load(spec.safe_pool).examples if any(Need.SAFE_POOL in d.needs for d in defenses) else ()
    return plan(datasets.load(spec.dataset).examples, pool, spec.recipe, defenses, spec.seed)


def token_count(text: str, limit: int) -> int:
    return min(limit, TEMPLATE_TOKENS + round(len(text) / CHARACTERS_PER_TOKEN))


def adapter_parameters(model: ModelEntry, rank: int) -> int:
    """Of all seven linear modules, with the proportions of the embedded model (k and v a third, MLP 8/3 of the width)."""
    return round(rank * model.layers * model.hidden * 17.7)


def throughput(model: ModelEntry) -> tuple[float, bool]:
    """Training tokens a second of this model here, and whether that was measured."""
    try:
        rates = read_json(settings().cache / "throughput.json")
        if model.id in rates:
            return float(rates[model.id]), True
        if rates:
            other = next(iter(rates))
            return float(rates[other]) * find(other).parameters / model.parameters, False
    except (OSError, ValueError, TypeError, AttributeError, EmaError):
        pass  # no record, a damaged one, or of a model folder that is gone
    return TOKENS_PER_SECOND * EMBEDDED_PARAMETERS / model.parameters, False


def probe_tokens(model: ModelEntry) -> float:
    """What a live probe of this model costs here, in training tokens: a share of time that holds on a busy machine, too."""
    try:
        return float(read_json(settings().cache / "probe-tokens.json")[model.id])
    except (OSError, ValueError, TypeError, KeyError):
        return PROBE_TOKENS


def record_throughput(model: str, tokens_per_s: float) -> None:
    """Remember a finished run's rate for the next estimate."""
    _record("throughput", model, tokens_per_s)


def record_probe(model: str, tokens: float) -> None:
    """Remember what a probe cost, in training tokens."""
    _record("probe-tokens", model, tokens)


def _record(name: str, model: str, value: float) -> None:
    path = settings().cache / f"{name}.json"
    try:
        known = dict(read_json(path))
    except (OSError, ValueError, TypeError):
        known = {}
    write_json(path, {**known, model: value})
