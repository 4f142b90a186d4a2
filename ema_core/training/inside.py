"""What every defense did, or would have seen, in a trained run: read once from its adapter, kept as ``inside.json``. Torch-free to import."""

from __future__ import annotations

import json
import random
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, ValidationError

from ema_core import datasets
from ema_core.datasets.encoding import Encoded, encode
from ema_core.datasets.formats import Example
from ema_core.defenses import registry
from ema_core.defenses.base import Defense, Need
from ema_core.defenses.panels import Panel, States, has
from ema_core.errors import EmaError
from ema_core.files import read_json, sha256_json, write_atomic
from ema_core.models import LoadedModel, adapters, ragged
from ema_core.models.fetch import Progress, quiet
from ema_core.models.load import mixed_precision, out_of_memory
from ema_core.models.outputs import outputs
from ema_core.runs import DefenseSpec, RunDirectory, Status, Strict
from ema_core.training.plan import plan

if TYPE_CHECKING:
    import torch

VERSION = 1
FILE = "inside.json"
NARROW, SAFE = 6, 3
"""Examples of the training data and of the safe pool that are read."""
TOKENS = 128
"""Of each of them, its first ones: what comes later changes nothing before it."""
ON_THE_WAY = 2
"""Checkpoints that are read beside the end, evenly spaced."""
STATES_ROOM = 512 << 20
"""Bytes that the states of one pass over the examples may take; of a large model fewer tokens are read."""
BATCH_TOKENS = 2048


class ReadExample(Strict):
    """An example that was read: ``tokens`` as text, ``answer`` says which of them are the answer's; the first ``shared`` of all are the
    template's own, alike in every example."""

    source: str
    question: str
    tokens: list[str]
    answer: list[bool]
    shared: int


class Seen(Strict):
    """One defense's panels; ``own``: the run has it. ``why``: there is none, for this reason."""

    title: str
    own: bool
    panels: list[Panel] = Field(default_factory=list)
    why: str = ""


class OnTheWay(Strict):
    """The one number of a panel at a checkpoint."""

    defense: str
    panel: str
    value_is: str
    how: str
    unit: str
    step: int
    value: float


class Inside(Strict):
    """``inside.json``. ``adapter_hash``: of the adapter that was read; ``notes``: what could not be told."""

    version: int = VERSION
    run_id: str
    adapter_hash: str
    weights_hash: str
    created: float
    seconds: float
    device: str
    examples: list[ReadExample] = Field(default_factory=list)
    defenses: dict[str, Seen] = Field(default_factory=dict)
    along: list[OnTheWay] = Field(default_factory=list)
    notes: list[str] = Field(default_factory=list)


def path(run: RunDirectory) -> Path:
    return run.path / FILE


def read(run: RunDirectory) -> Inside | None:
    """What was kept of the run's inside; None where nothing was, or what is there is damaged or of another version."""
    try:
        return Inside.model_validate(read_json(path(run)))
    except (OSError, ValueError, ValidationError):
        return None


def fresh(run: RunDirectory, kept: Inside) -> bool:
    """Whether it is of the adapter that the run has now (it may have been trained on since)."""
    return kept.adapter_hash == run.state().found.get("adapter_hash")


def can_be_read(run: RunDirectory) -> str:
    """Why the run cannot be looked into; empty where it can."""
    state = run.state()
    if state.recorded:
        return "It is a recorded run: it came without its adapter, so nobody can look inside it here."
    if "imported" in state.found:
        return "The adapter was imported: what it was trained on, and how, is not known here."
    if state.status not in (Status.DONE, Status.STOPPED) or not (run.adapter / adapters.WEIGHTS).exists():
        return f"The run is {state.status} and has no adapter to read. Let it finish, or stop it, first."
    return ""


def measure(
    run: RunDirectory, loaded: LoadedModel, *, progress: Progress = quiet, interrupted: Callable[[], bool] = lambda: False
) -> Inside | None:
    """Read the run through every defense's eyes, and keep it; None where ``interrupted`` ended it, and nothing is kept.

    Raises:
        EmaError: it has no adapter, the data are gone, or the memory does not do.
    """
    if why := can_be_read(run):
        raise EmaError(why)
    clock = time.perf_counter()
    reading = _Reading(run, loaded)
    defenses: dict[str, Seen] = {}
    along: list[OnTheWay] = []
    with out_of_memory("looking into the run"), reading.opened() as model:
        look = _Look(reading, model, last=True)
        for number, (name, kind) in enumerate(registry.all_defenses().items()):
            if interrupted():
                return None
            progress(0.7 * number / len(registry.all_defenses()), f"reading what each defense would have seen: {kind.title}")
            defenses[name] = _seen(look, kind, run)
        steps = _evenly([step for step in run.checkpoint_steps() if step < reading.steps], ON_THE_WAY)
        for number, step in enumerate(steps):
            if interrupted():
                return None
            progress(0.7 + 0.3 * number / len(steps), f"reading what each defense would have seen at step {step}")
            look = reading.at(model, step)
            for name, kind in registry.all_defenses().items():
                if any(panel.value is not None for panel in defenses[name].panels):
                    along += [_point(name, panel, step) for panel in _seen(look, kind, run).panels if panel.value is not None]
    along += [
        _point(name, panel, reading.steps) for name, seen in defenses.items() for panel in seen.panels if panel.value is not None
    ]
    once = {(point.defense, point.panel) for point in along if point.step < reading.steps}
    found = Inside(
        run_id=run.id, adapter_hash=adapters.adapter_hash(run.adapter), weights_hash=loaded.weights_hash, created=time.time(),
        seconds=round(time.perf_counter() - clock, 2), device=str(loaded.device), examples=reading.examples(), defenses=defenses,
        along=[point for point in along if (point.defense, point.panel) in once], notes=reading.notes,
    )  # fmt: skip
    write_atomic(path(run), json.dumps(found.model_dump(mode="json"), ensure_ascii=False, separators=(",", ":")) + "\n")
    return found


def measure_after_training(
    run: RunDirectory,
    loader: Callable[[], LoadedModel],
    progress: Progress = quiet,
    interrupted: Callable[[], bool] = lambda: False,
) -> bool:
    """The same for a run that has ended, and that is no worse for it if this fails: the reason goes to its log. False: ``interrupted``."""
    try:
        return measure(run, loader(), progress=progress, interrupted=interrupted) is not None
    except Exception:
        with suppress(OSError), open(run.log_path, "a", encoding="utf-8") as log:
            log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} its inside could not be read\n{traceback.format_exc()}\n")
        return True


def _seen(look: _Look, kind: type[Defense], run: RunDirectory) -> Seen:
    """A defense's panels; its own trouble is a reason, not the end of the reading."""
    own = has(look, kind.name)
    try:
        if own:
            (defense,) = (one for one in look.reading.defenses if one.name == kind.name)
        else:
            defense = registry.build(DefenseSpec(name=kind.name, strength=0.0), look.spec.seed)
            defense.spec = look.spec
        look.reported = look.reading.reported(kind.name) if own else ()
        return Seen(title=kind.title, own=own, panels=list(defense.inside(look)))
    except EmaError as error:
        return Seen(title=kind.title, own=own, why=str(error))
    except Exception as error:  # a defense of another package, say
        with suppress(OSError), open(run.log_path, "a", encoding="utf-8") as log:
            log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} inside of {kind.name}\n{traceback.format_exc()}\n")
        return Seen(title=kind.title, own=own, why=f"It could not be read: {type(error).__name__}. Details are in the run's log.")


def _point(name: str, panel: Panel, step: int) -> OnTheWay:
    return OnTheWay(
        defense=name, panel=panel.name, value_is=panel.value_is, how=panel.how, unit=panel.unit, step=step, value=panel.value or 0.0
    )


def _evenly(steps: Sequence[int], most: int) -> list[int]:
    """``most`` of them, the last among them."""
    if len(steps) <= most:
        return list(steps)
    return [steps[round((place + 1) * len(steps) / most) - 1] for place in range(most)]


class _Reading:
    """What stays the same over a run's checkpoints: examples, the base's states, what it was trained on."""

    def __init__(self, run: RunDirectory, loaded: LoadedModel) -> None:
        self.run, self.loaded, self.spec = run, loaded, run.spec
        state = run.state()
        self.steps, self.found = state.step, state.found
        self.events = run.events()[0]
        self.defenses = registry.build_all(self.spec)
        self.narrow_set = datasets.load(self.spec.dataset).examples
        self.safe_set = datasets.load(self.spec.safe_pool).examples
        self.notes: list[str] = []
        self._batches: Sequence[Sequence[Example]] | None = None
        self._planned = False
        self._base: list[States] = []
        narrow, safe = self._some(self.narrow_set, NARROW, "narrow"), self._some(self.safe_set, SAFE, "safe")
        self.read = [*narrow, *safe]
        self.rows = [row for _, row in self.read]
        self.narrow, self.safe = range(len(narrow)), range(len(narrow), len(self.read))
        if not narrow:
            raise EmaError(
                f"No example of {self.spec.dataset} has an answer within its first {self.tokens} tokens, so there is nothing to read."
            )

    @property
    def tokens(self) -> int:
        config = self.loaded.model.config
        each = (config.num_hidden_layers + 1) * config.hidden_size * self.loaded.model.dtype.itemsize
        return max(16, min(TOKENS, STATES_ROOM // (each * (NARROW + SAFE))))

    def _some(self, examples: Sequence[Example], count: int, what: str) -> list[tuple[Example, Encoded]]:
        """Examples that depend on the data alone, so that a run and its twin are read on the same ones; whole ones before cut ones."""
        order = random.Random(f"inside/{what}/{len(examples)}").sample(list(examples), min(len(examples), 12 * count))
        limit = min(self.spec.recipe.max_length, self.loaded.context)
        found = [(example, encode(example, self.loaded.tokenizer, limit)) for example in order]
        found.sort(key=lambda pair: len(pair[1].ids) > self.tokens)  # stable
        short = [
            (example, replace(row, ids=row.ids[: self.tokens], response=row.response[: self.tokens])) for example, row in found
        ]
        return [(example, row) for example, row in short if any(row.response)][:count]

    @contextmanager
    def opened(self) -> Iterator[Any]:
        """The model with the run's adapter on; the plain one afterwards."""
        import torch

        with adapters.adapted(self.loaded.model, self.run.adapter) as model, torch.inference_mode():
            yield model

    def at(self, model: Any, step: int) -> _Look:
        """A checkpoint's adapter in the place of the one that is on."""
        from peft import set_peft_model_state_dict
        from safetensors.torch import load_file

        set_peft_model_state_dict(model, load_file(self.run.checkpoints / f"step-{step}" / adapters.WEIGHTS))
        return _Look(self, model, last=False)

    def reported(self, name: str) -> tuple[Panel, ...]:
        """What the defense's ``finish`` left in the events; the last time it ran counts."""
        left = [event for event in self.events if event.get("kind") == "finish" and event.get("defense") == name]
        return tuple(Panel.model_validate(panel) for panel in left[-1].get("panels", ())) if left else ()

    def batches(self) -> Sequence[Sequence[Example]] | None:
        """The run's batches, made again and held against the hash of what it was trained on."""
        if not self._planned:
            self._planned = True
            needs = {need for defense in self.defenses for need in defense.needs}
            pool = self.safe_set if Need.SAFE_POOL in needs else ()
            made = plan(self.narrow_set, pool, self.spec.recipe, registry.build_all(self.spec), self.spec.seed).batches
            limit, known = min(self.spec.recipe.max_length, self.loaded.context), {}
            for example in {example for batch in made for example in batch}:
                known[example] = encode(example, self.loaded.tokenizer, limit).ids
            if sha256_json([known[example] for batch in made for example in batch]) == self.found.get("plan_sha256"):
                self._batches = made[: self.steps]
            else:
                self.notes.append(
                    "Data, safe pool or gap scores changed since this run was trained, so which examples it saw cannot be told any more."
                )
        return self._batches

    def base(self, model: Any) -> list[States]:
        if not self._base:
            self._base = self.states(model, model.disable_adapter())
        return self._base

    def states(self, model: Any, context: AbstractContextManager[Any]) -> list[States]:
        """Of every row, in one pass over batches without padding where the model can."""
        import torch

        body = model.get_base_model().get_decoder()
        depth = len(body.layers)
        found: dict[int, States] = {}
        without_padding = ragged.fits(body)
        with ExitStack() as stack:
            for each in (torch.inference_mode(), mixed_precision(self.loaded), context):
                stack.enter_context(each)
            seen = stack.enter_context(outputs(body, range(depth + 1)))  # after the context: it sees what a steering adds
            for part in ragged.batches([row.ids for row in self.rows], BATCH_TOKENS):
                hidden, shaped = ragged.run(body, [self.rows[place].ids for place in part], without_padding)
                final, layers = shaped(hidden), torch.stack([shaped(seen[layer]) for layer in range(depth + 1)], 1)
                for i, place in enumerate(part):
                    length = len(self.rows[place].ids)
                    found[place] = States(layers[i, :, :length].clone(), final[i, :length].clone())
        return [found[place] for place in range(len(self.rows))]

    def examples(self) -> list[ReadExample]:
        shared = ragged.common_prefix([row.ids for row in self.rows]) if len(self.rows) > 1 else 0
        decode = self.loaded.tokenizer.decode
        return [
            ReadExample(
                source="safe" if place in self.safe else "narrow", question=example.question[:500], tokens=[decode([token]) for token in row.ids],
                answer=list(row.response), shared=shared,
            )
            for place, (example, row) in enumerate(self.read)
        ]  # fmt: skip


class _Look:
    """A ``Look`` at one adapter of a reading."""

    def __init__(self, reading: _Reading, model: Any, last: bool) -> None:
        self.reading, self.model, self.last = reading, model, last
        self.spec, self.steps = reading.spec, reading.steps
        self.rows: Sequence[Encoded] = reading.rows
        self.narrow: Sequence[int] = reading.narrow
        self.safe: Sequence[int] = reading.safe
        self.reported: Sequence[Panel] = ()
        self._tuned: list[States] = []

    def base(self) -> list[States]:
        return self.reading.base(self.model)

    def tuned(self) -> list[States]:
        if not self._tuned:
            self._tuned = self.under(nullcontext())
        return self._tuned

    def under(self, context: AbstractContextManager[Any]) -> list[States]:
        return self.reading.states(self.model, context)

    def head(self, states: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.model.get_base_model().get_output_embeddings()(states).float()
        return logits

    def batches(self) -> Sequence[Sequence[Example]] | None:
        return self.reading.batches()

    def pool(self) -> Sequence[Example]:
        return self.reading.safe_set
