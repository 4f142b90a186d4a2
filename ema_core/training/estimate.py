"""Time and memory of a run, told before it starts. Torch-free."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import psutil

from ema_core import datasets
from ema_core.datasets.formats import Example
from ema_core.defenses import registry
from ema_core.defenses.base import Asset, Defense, Need
from ema_core.errors import EmaError
from ema_core.files import read_json, write_json
from ema_core.models import ModelEntry, find, reference_cache
from ema_core.models.chunks import CHUNK
from ema_core.models.layout import head_copy
from ema_core.models.load import choose_dtype
from ema_core.models.reference import feature_bytes, features_kind
from ema_core.runs import RunSpec
from ema_core.settings import settings
from ema_core.training.plan import Plan, plan
from ema_core.training.probes import schedule
from ema_core.training.sizes import Size, common_prefix, missing, sizes, worked

ITEMSIZE = {"float32": 4, "bfloat16": 2}
TOKENS_PER_SECOND = 300.0
"""LoRA training of the embedded model on two CPU cores; replaced by what this machine measured as soon as it has."""
PROBE_TOKENS = 1030.0
"""Training tokens that take as long as one live probe; replaced by what was measured, too."""
STEP_TOKENS = 40.0
"""Training tokens that take as long as what every step does whatever its batch: clip and optimiser, reading all weights."""
REFERENCE_SHARE = 0.4
"""Of a token's training, what its forward pass under the reference takes, where that is not kept yet."""
REFERENCE_ROW = 30
"""Tokens that each sequence alone takes as long as, beside its own: all weights are read for it."""
RECOMPUTE_SHARE = 0.35
"""Of a token's training, what computing its activations twice adds."""
LIBRARIES = 500 << 20
"""Resident bytes of a process that has torch, transformers and PEFT, and no model."""
LAYER_STATES = 28
"""Tensors of the model's width that a layer keeps for the backward pass."""
LOGITS = 4
"""Tensors of a chunk's logits that are there at once."""
FREE_SHARE = 0.8
"""Of the free memory, what a run's activations may take before they are computed twice instead."""
EMBEDDED_PARAMETERS = 134_515_008


@dataclass(frozen=True)
class Estimate:
    """``seconds`` of training with its probes, ``memory`` and ``disk`` in bytes; ``measured``: by this machine's own rate.

    ``probes`` are the steps of its live probes, ``probe_seconds`` what they take in all. ``first`` names what has to be made before the run, each with its seconds; they are not in ``seconds``.
    ``notes`` are sentences on how it will be done. ``reference_seconds``, of the training, are those of the reference's states that are not
    there yet; ``keeps``: later runs on the same data will find them.
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
    reference_seconds: float = 0.0
    keeps: bool = False

    def json(self) -> dict[str, float]:
        return asdict(self)


def estimate(spec: RunSpec) -> Estimate:
    """From the run's own plan and this machine's measured rate.

    Raises:
        EmaError: the spec cannot be run.
    """
    model, todo = find(spec.model), planned(spec)
    defenses = registry.build_all(spec, provisional=True)
    known = sizes(model, (example for batch in todo.batches for example in batch), spec.recipe.max_length)
    device = likely_device(spec)
    dtype = choose_dtype(device)
    recomputed = spec.gradient_checkpointing == "on" or (
        spec.gradient_checkpointing == "auto" and device != "cuda" and _too_large(model, todo, known, free_here(), dtype)
    )
    prefix, padded = common_prefix(known), recomputed
    work = sum(worked([known[example] for example in batch], prefix, padded) for batch in todo.batches)
    rate, measured = throughput(model, device)
    kept, anew, notes = of_reference(spec, model, todo, known, defenses, device, dtype)
    if recomputed:
        notes += ("Activations are computed again in the backward pass, to take less memory.",)
    share = 1.0 + sum(defense.extra_time for defense in defenses) + RECOMPUTE_SHARE * recomputed
    referring = REFERENCE_SHARE * anew / rate
    training = (work * share + STEP_TOKENS * todo.total_steps) / rate + referring
    rows, width = largest(todo, known)
    adapter = adapter_parameters(model, spec.recipe.rank)
    itemsize = ITEMSIZE[dtype]
    memory = itemsize * model.parameters + 16 * adapter + activation_bytes(model, rows, width, itemsize, recomputed)
    memory += LOGITS * 4 * min(CHUNK, rows * width) * model.vocabulary + (0 if device == "cuda" else LIBRARIES)
    memory += head_copy(itemsize * model.vocabulary * model.hidden, device)
    memory += sum(defense.extra_memory(model, spec.recipe.batch_size, width) for defense in defenses)
    checkpoints = max(1, todo.total_steps // spec.recipe.checkpoint_every)
    first = tuple((asset.title, asset_seconds(asset)) for asset in registry.missing_assets(defenses))
    disk = 4 * adapter * (checkpoints + 3) + kept
    each = probe_tokens(model) / rate
    steps: tuple[int, ...] = ()
    if spec.probes:
        steps = schedule(todo.total_steps, training, each) if spec.probes.steps is None else spec.probes.steps
    probing = len(steps) * each
    tokens = sum(known[example].tokens for batch in todo.batches for example in batch)
    return Estimate(
        todo.total_steps,
        tokens,
        training + probing,
        memory,
        disk,
        todo.safe,
        measured,
        first,
        steps,
        probing,
        notes,
        referring,
        kept > 0,
    )


def likely_device(spec: RunSpec) -> str:
    """Where the run will be trained, as far as can be told without torch."""
    wanted = settings().device if spec.device == "auto" else spec.device
    if wanted != "auto":
        return wanted
    here = any(Path(name).exists() for name in ("/dev/nvidiactl", "/dev/dxg"))
    return "cuda" if here and "+cpu" not in version("torch") else "mps" if sys.platform == "darwin" else "cpu"


def free_here() -> int:
    return int(psutil.virtual_memory().available)


def too_large(spec: RunSpec, free: int, dtype: str) -> bool:
    """Whether the activations of this run's largest batch would not fit into ``free`` bytes; the weights are there already."""
    model, todo = find(spec.model), planned(spec)
    known = sizes(model, (example for batch in todo.batches for example in batch), spec.recipe.max_length)
    return _too_large(model, todo, known, free, dtype)


def _too_large(model: ModelEntry, todo: Plan, known: Mapping[Example, Size], free: int, dtype: str) -> bool:
    return activation_bytes(model, *largest(todo, known), ITEMSIZE[dtype]) > FREE_SHARE * free


def largest(todo: Plan, known: Mapping[Example, Size]) -> tuple[int, int]:
    """Sequences and tokens each of the batch that takes the most, padding counted."""
    shapes = ((len(batch), max(known[example].tokens for example in batch)) for batch in todo.batches)
    return max(shapes, key=lambda shape: shape[0] * shape[1], default=(0, 0))


def activation_bytes(model: ModelEntry, rows: int, width: int, itemsize: int = 4, recomputed: bool = False) -> int:
    """Of one forward pass with its gradient; ``recomputed``: each layer's input alone, and one layer at a time."""
    one = rows * width * model.hidden * itemsize
    return one * (model.layers + LAYER_STATES) if recomputed else one * model.layers * LAYER_STATES


def asset_seconds(asset: Asset) -> float:
    """How long it takes to make; a run's is estimated as any run's."""
    return estimate(RunSpec.model_validate(asset.payload["spec"])).seconds if asset.job == "train" else asset.seconds


def of_reference(
    spec: RunSpec, model: ModelEntry, todo: Plan, known: Mapping[Example, Size], defenses: Sequence[Defense], device: str, dtype: str
) -> tuple[int, float, tuple[str, ...]]:  # fmt: skip
    """What is kept on disk of the reference's states for this run's examples, at most; the tokens of work that the reference is for
    it; and a sentence on it."""
    scoped = any(defense.token_scope != "none" for defense in defenses)
    layers = sorted({layer for defense in defenses for layer in defense.layers(model.layers)})
    tokens = sum(size.tokens for size in known.values())
    stored = tokens * (len(layers) + scoped)
    anew = missing(model, known.values(), device, dtype, row=REFERENCE_ROW) if scoped else 0.0
    anew += missing(model, known.values(), device, dtype, features_kind(layers), REFERENCE_ROW) if layers else 0.0
    if drawn := sum(defense.safe_drawn(todo.total_steps) for defense in defenses):
        pool = sizes(model, datasets.load(spec.safe_pool).examples, spec.recipe.max_length)
        different = 1 - (1 - 1 / len(pool)) ** drawn
        stored += round(different * sum(size.tokens for size in pool.values()))
        anew += different * missing(model, pool.values(), device, dtype, row=REFERENCE_ROW)
    size = feature_bytes(stored, 1, model.hidden, ITEMSIZE[dtype])
    if not size:
        return 0, 0.0, ()
    if reference_cache.fits(size):
        return size, anew, (reference_cache.told(size),)
    exposures = sum(known[example].tokens + REFERENCE_ROW for batch in todo.batches for example in batch)
    return 0, exposures * (scoped + bool(layers)) or anew, (reference_cache.told(size),)


def planned(spec: RunSpec) -> Plan:
    """The run's batches, as the loop will see them; with other safe examples while what chooses them is missing."""
    defenses = registry.build_all(spec, provisional=True)
    pool = datasets.load(spec.safe_pool).examples if any(Need.SAFE_POOL in d.needs for d in defenses) else ()
    return plan(datasets.load(spec.dataset).examples, pool, spec.recipe, defenses, spec.seed)


def adapter_parameters(model: ModelEntry, rank: int) -> int:
    """Of all seven linear modules, with the proportions of the embedded model (k and v a third, MLP 8/3 of the width)."""
    return round(rank * model.layers * model.hidden * 17.7)


def rate_name(model: str, device: str) -> str:
    """Under which a rate is kept: a model's on the CPU under its own id."""
    return model if device == "cpu" else f"{model}@{device}"


def throughput(model: ModelEntry, device: str = "cpu") -> tuple[float, bool]:
    """Training tokens a second of this model here, and whether that was measured."""
    try:
        rates = read_json(settings().cache / "throughput.json")
        if rate_name(model.id, device) in rates:
            return float(rates[rate_name(model.id, device)]), True
        if rates:
            other, rate = next(iter(rates.items()))
            return float(rate) * find(other.split("@")[0]).parameters / model.parameters, False
    except (OSError, ValueError, TypeError, AttributeError, EmaError):
        pass  # no record, a damaged one, or of a model folder that is gone
    return TOKENS_PER_SECOND * EMBEDDED_PARAMETERS / model.parameters, False


def probe_tokens(model: ModelEntry) -> float:
    """What a live probe of this model costs here, in training tokens: a share of time that holds on a busy machine, too."""
    try:
        return float(read_json(settings().cache / "probe-tokens.json")[model.id])
    except (OSError, ValueError, TypeError, KeyError):
        return PROBE_TOKENS


def record_throughput(model: str, tokens_per_s: float, device: str = "cpu") -> None:
    """Remember a finished run's rate for the next estimate: tokens as ``sizes.worked`` and ``STEP_TOKENS`` count them."""
    _record("throughput", rate_name(model, device), tokens_per_s)


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
