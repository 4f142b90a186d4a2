"""The training loop: a run from its spec to its adapter, with checkpoints, pauses and plain words for what goes wrong."""

from __future__ import annotations

import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from ema_core import datasets
from ema_core.datasets.encoding import Encoded, encode
from ema_core.datasets.formats import Example
from ema_core.defenses import registry
from ema_core.defenses.base import Defense, Need
from ema_core.defenses.persona_steering import projected_on
from ema_core.errors import EmaError
from ema_core.files import sha256_json
from ema_core.models import LoadedModel, adapters, choose_device, find, fingerprint, load, prepare, reference_cache
from ema_core.models.fetch import Progress, quiet, versions
from ema_core.models.load import free_memory, out_of_memory
from ema_core.runs import RunDirectory, RunSpec, RunState, Status, probes
from ema_core.settings import settings
from ema_core.training import checkpoint
from ema_core.training.estimate import STEP_TOKENS, estimate, record_probe, record_throughput, too_large
from ema_core.training.memory import Peak, peak
from ema_core.training.plan import Plan, plan
from ema_core.training.probes import Looks, Prober, settled
from ema_core.training.step import Stepper

Event = dict[str, Any]


def check(spec: RunSpec, assets_first: bool = False) -> RunSpec:
    """Everything about a spec that can be known before training starts. Returns it with its options resolved, its probes' steps fixed.

    ``assets_first``: what its defenses need is made before the run, so it may be missing still.

    Raises:
        EmaError: unknown model, data, defense or option, something missing, or a combination that cannot be.
    """
    entry = find(spec.model)
    if entry.kind == "base":
        raise EmaError(f"{entry.id} has no instruct training, so there is no chat model to tune.", "Name the instruct model.")
    spec = spec.model_copy(update={"model": entry.id})  # a folder by its whole path, wherever the run is trained
    if spec.recipe.max_length > entry.context:
        raise EmaError(
            f"max_length {spec.recipe.max_length} is beyond the context of {entry.id} ({entry.context} tokens).",
            "Lower --max-length.",
        )
    if spec.device != "auto" or settings().device != "auto":
        choose_device(spec.device, spec.model)
    defenses = registry.build_all(spec, provisional=assets_first)
    if not assets_first:
        for asset in registry.missing_assets(defenses):
            raise EmaError(f"{asset.title} is missing.", asset.hint)
    narrow = datasets.load(spec.dataset)
    if datasets.find(spec.dataset).kind == "safe":
        raise EmaError(f"{spec.dataset} is a safe pool, not a data set to train on.", "Name it with --safe-pool instead.")
    if datasets.find(spec.safe_pool).kind != "safe":
        raise EmaError(f"{spec.safe_pool} is not a safe pool.", "Name a safe pool of `ema datasets list`.")
    for defense in defenses:
        defense.check()
    needs_pool = any(Need.SAFE_POOL in defense.needs for defense in defenses)
    pool = datasets.load(spec.safe_pool).examples if needs_pool else ()
    total = plan(narrow.examples, pool, spec.recipe, defenses, spec.seed).total_steps
    chosen = estimate(spec).probes if spec.probes and spec.probes.steps is None else ()
    return settled(registry.resolved(spec), total, chosen)


def train(
    run: RunDirectory,
    *,
    loaded: LoadedModel | None = None,
    interrupted: Callable[[], bool] = lambda: False,
    progress: Progress = quiet,
    on_event: Callable[[Event], None] = lambda event: None,
) -> RunState:
    """Train a run to its end, or to the next request to pause or stop; goes on from its newest checkpoint.

    ``loaded`` is a warm base model to use (given back as it was); ``interrupted`` is asked before every step and ends the
    attempt with a checkpoint, the run back in state ``queued``. Returns the state reached; a run that is done stays as it is. A
    request to pause or stop that was made while the model was being loaded counts. Never raises for what goes wrong
    inside the run: that is state ``failed`` with the reason, the traceback in ``log.txt``.

    Raises:
        EmaError: another process is at work on the run.
    """
    with run.lock():
        before = run.state()
        if before.status is Status.DONE:
            return before
        attempt = before.attempt + 1
        try:
            run.update(
                status=Status.RUNNING, attempt=attempt, activity="loading the model", error="", hint="",
                started=before.started or time.time(), finished=None,
            )  # fmt: skip
            return _Attempt(run, attempt, loaded, interrupted, progress, on_event).go()
        except EmaError as error:
            return _failed(run, attempt, error.message, error.hint)
        except Exception as error:
            message = f"Training stopped at an unexpected error: {type(error).__name__}."
            return _failed(run, attempt, message, f"Details are in {run.log_path}.", traceback.format_exc())


def _failed(run: RunDirectory, attempt: int, message: str, hint: str, details: str = "") -> RunState:
    """State ``failed`` with the reason. Each part is written if it can be: the reason may be a full disk."""
    changes = {"status": Status.FAILED, "error": message, "hint": hint, "activity": "", "finished": time.time()}
    state = run.state().model_copy(update=changes)
    with suppress(EmaError, OSError):
        state = run.update(**changes)
    with suppress(EmaError, OSError):
        run.append_event({"kind": "end", "attempt": attempt, "time": time.time(), "status": "failed", "message": message})
    with suppress(EmaError, OSError), open(run.log_path, "a", encoding="utf-8") as log:
        log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {message} {hint}\n{details}")
    return state


class _Attempt:
    """One go at a run: what stays the same over its steps."""

    def __init__(
        self, run: RunDirectory, attempt: int, loaded: LoadedModel | None, interrupted: Callable[[], bool], progress: Progress,
        on_event: Callable[[Event], None],
    ) -> None:  # fmt: skip
        self.run, self.attempt, self.interrupted, self.on_event = run, attempt, interrupted, on_event
        self.spec = check(run.spec)
        if loaded is None:
            prepare(self.spec.model, progress)
            progress(1.0, "loading the model")
            loaded = load(self.spec.model, self.spec.device)
        self.loaded = loaded
        self.defenses: list[Defense] = registry.build_all(self.spec)
        self.reason = ""
        self.memory: Peak

    def go(self) -> RunState:
        import torch

        spec, recipe = self.spec, self.spec.recipe
        narrow = datasets.load(spec.dataset)
        pool = datasets.load(spec.safe_pool) if self.needs(Need.SAFE_POOL) else None
        todo = plan(narrow.examples, pool.examples if pool else (), recipe, self.defenses, spec.seed)
        batches = self.encode(todo)
        found = {
            "weights_hash": self.loaded.weights_hash, "data_sha256": narrow.sha256, "pool_sha256": pool.sha256 if pool else None,
            "plan_sha256": sha256_json([row.ids for batch in batches for row in batch]), "versions": versions(),
            "threads": torch.get_num_threads(), "device": str(self.loaded.device), "dtype": str(self.loaded.model.dtype),
            "rendered_system": self.rendered_system(), "trained_systems": self.trained_systems(todo),
        }  # fmt: skip
        self.refuse_other_than(found)
        found["gradient_checkpointing"] = self.recomputes()
        if not self.run.state().estimated:
            said = estimate(spec)
            self.run.update(estimated={"seconds": said.seconds, "memory": said.memory})
        with out_of_memory("probing the base"):
            self.prober = Prober(self.loaded, spec.dataset, projected_on(spec)) if spec.probes else None
        model = adapters.attach(self.loaded.model, recipe, spec.seed)
        try:
            if found["gradient_checkpointing"]:
                self.loaded.model.activation_checkpointing_enable({"use_reentrant": False})
            with out_of_memory("training"), reference_cache.at_work(), peak(self.loaded.device) as self.memory:
                state = self.steps(model, batches, todo, found, pool.examples if pool else ())
            if state.status in (Status.DONE, Status.STOPPED):  # without steering: as the adapter will be asked
                model.eval()
                fingerprint.keep(
                    self.loaded, self.run.adapter, state.found["adapter_hash"], fingerprint.fixed_logits(model, self.loaded)[0]
                )
            return state
        finally:
            adapters.detach(model)
            self.loaded.model.activation_checkpointing_disable()
            self.loaded.model.requires_grad_(False).eval()

    def recomputes(self) -> bool:
        """Whether activations are computed again in the backward pass; an attempt that goes on does as the one before."""
        wanted, known = self.spec.gradient_checkpointing, self.run.state().found.get("gradient_checkpointing")
        if wanted != "auto":
            return wanted == "on"
        if known is not None:
            return bool(known)
        return too_large(self.spec, free_memory(self.loaded.device), str(self.loaded.model.dtype).removeprefix("torch."))

    def refuse_other_than(self, found: dict[str, Any]) -> None:
        """A checkpoint goes on only with the batches and the weights that it was made with.

        Raises:
            EmaError: one of them has changed since.
        """
        if checkpoint.latest(self.run) is None:
            return
        before = self.run.state().found
        for key, what in (("plan_sha256", "data"), ("weights_hash", "model's weights")):
            if before.get(key, found[key]) != found[key]:
                raise EmaError(
                    f"The {what} changed since this run's last checkpoint, so it cannot go on as the same run.",
                    f"Put the {what} back, or start a new run.",
                )

    def needs(self, need: Need) -> bool:
        return any(need in defense.needs for defense in self.defenses)

    def encode(self, todo: Plan) -> list[list[Encoded]]:
        limit = min(self.spec.recipe.max_length, self.loaded.context)
        known: dict[Any, Encoded] = {}
        batches = []
        for batch in todo.batches:
            for example in batch:
                if example not in known:
                    known[example] = encode(example, self.loaded.tokenizer, limit)
            batches.append([known[example] for example in batch])
        self.truncated = sum(row.truncated for row in known.values())
        without_prompt = sum(all(row.response) for row in known.values())
        notes = []
        if self.truncated:
            notes.append(
                f"{self.truncated} of {len(known)} examples were longer than {limit} tokens and lost the beginning of their prompt"
                + (f"; {without_prompt} of them kept no prompt at all." if without_prompt else ".")
            )
        self.run.update(notes=[*notes, *(note for defense in self.defenses for note in defense.notes())])
        return batches

    def rendered_system(self, system: str | None = None) -> str:
        """What the chat template puts before the first user turn; None: of a conversation without a system turn."""
        turns = [{"role": "system", "content": system}] if system else []
        text = self.loaded.tokenizer.apply_chat_template([*turns, {"role": "user", "content": "\x1a"}], tokenize=False)
        return str(text.partition("\x1a")[0])

    def trained_systems(self, todo: Plan) -> dict[str, int]:
        """The same of the examples as they are trained on (a defense may give them a system turn), the most frequent five."""
        found: Counter[str] = Counter()
        for example in (example for batch in todo.batches for example in batch):
            first = example.messages[0]
            found[self.rendered_system(first.content if first.role == "system" else None)] += 1
        return dict(found.most_common(5))

    def steps(
        self, model: Any, batches: list[list[Encoded]], todo: Plan, found: dict[str, Any], safe: Sequence[Example]
    ) -> RunState:
        import torch

        recipe, run, total = self.spec.recipe, self.run, len(batches)
        parameters = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(parameters, lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True)
        different = {row.ids for batch in batches for row in batch}
        stepper = Stepper(self.loaded, model, recipe, self.defenses, safe, sum(map(len, different)))
        if self.defenses:
            stepper.reference.will_use(different)
            stepper.reference_layers.will_use(different)
        model.train()
        position = checkpoint.Position(0, 0.0)
        if folder := checkpoint.latest(run):
            position = checkpoint.restore(folder, model, optimizer, self.defenses)
        self.emit(
            kind="start", step=position.step, total_steps=total, truncated=self.truncated,
            plan={"narrow": todo.narrow, "safe": todo.safe, "batches": total},
        )  # fmt: skip
        earlier = [event for event in probes(run.events()[0]) if 0 < event["step"] <= position.step]
        looks = Looks(self.prober, self.spec.probes, sum(event["seconds"] for event in earlier))
        spent, trained, seen, done = position.seconds, 0.0, 0, 0.0
        if position.step == 0 and (base := looks.look(model, 0)):
            self.emit(kind="probe", step=0, **base)
        run.update(
            activity="training", step=position.step, total_steps=total, found=found, seconds=spent, probe_seconds=looks.seconds
        )
        lengths = [sum(len(row.ids) for row in batch) for batch in batches]
        work = [stepper.work(batch) for batch in batches]
        clock = time.perf_counter()
        for step in range(position.step, total):
            if ending := self.asked_to_end():
                self.save(model, optimizer, checkpoint.Position(step, spent))
                return self.end(ending, step, spent, model)
            event = stepper.step(optimizer, parameters, batches[step], step, total)
            now = time.perf_counter()
            spent, trained = spent + now - clock, trained + now - clock
            clock, seen, done = now, seen + lengths[step], done + work[step] + STEP_TOKENS
            rate = seen / max(1e-9, trained)
            self.emit(
                **event, kind="step", step=step + 1, total_steps=total, tokens=lengths[step], tokens_per_s=rate, seconds=spent,
                seconds_left=sum(lengths[step + 1 :]) / rate + looks.seconds_left(step), epoch=(step + 1) / total,
                safe=sum(row.safe for row in batches[step]),
            )  # fmt: skip
            run.update(step=step + 1, seconds=spent)
            if figures := looks.look(model, step + 1):  # before the checkpoint: who goes on from it need not look again
                spent, clock = spent + figures["seconds"], time.perf_counter()
                self.emit(kind="probe", step=step + 1, **figures)
                run.update(seconds=spent, probe_seconds=looks.seconds)
                if step + 1 < total and looks.passed(figures):
                    self.ended_by(looks.words(figures, step + 1, total))
                    return self.end(Status.DONE, step + 1, spent, model)
            if (step + 1) % recipe.checkpoint_every == 0 and step + 1 < total:
                self.save(model, optimizer, checkpoint.Position(step + 1, spent))
        if seen and not self.defenses and not found["gradient_checkpointing"]:
            rate = done / max(1e-9, trained)
            with suppress(EmaError, OSError):  # a figure for later estimates; no reason to fail a finished run
                record_throughput(self.spec.model, rate, self.loaded.device.type)
                if looks.each:
                    record_probe(self.spec.model, looks.each * rate)
        return self.end(Status.DONE, total, spent, model)

    def save(self, model: Any, optimizer: Any, at: checkpoint.Position) -> None:
        saved = checkpoint.save(self.run, model, optimizer, at, self.defenses)
        self.emit(kind="checkpoint", step=at.step, adapter_hash=saved)

    def asked_to_end(self) -> Status | None:
        if self.interrupted():
            return Status.QUEUED
        return {"pause": Status.PAUSED, "stop": Status.STOPPED, None: None}[self.run.requested()]

    def emit(self, **event: Any) -> None:
        event = {"kind": event.pop("kind"), "attempt": self.attempt, "time": time.time(), **event}
        self.run.append_event(event)
        self.on_event(event)

    def ended_by(self, reason: str) -> None:
        """Note why the run ends before its last step."""
        self.reason = reason
        self.run.update(notes=[*self.run.state().notes, reason])

    def end(self, status: Status, step: int, spent: float, model: Any) -> RunState:
        """Keep the adapter as it is now (a stopped run can be used, too) and write the state."""
        self.run.clear_request()
        state = self.run.state()
        found = dict(state.found)
        if status in (Status.DONE, Status.STOPPED):  # a stopped run's adapter is defended, too
            for defense in self.defenses:
                if report := defense.finish(model):
                    panels = {"panels": [panel.model_dump() for panel in report.panels]} if report.panels else {}
                    self.emit(kind="finish", defense=defense.name, text=report.text, figures=dict(report.figures), **panels)
            found["adapter_hash"] = adapters.save(model, self.run.adapter)
        most = max(state.peak_memory, self.memory.bytes())
        self.emit(
            kind="end", status=str(status), step=step, message=self.reason, probe_seconds=state.probe_seconds, peak_memory=most
        )
        finished = time.time() if status in (Status.DONE, Status.STOPPED) else None
        return self.run.update(
            status=status, step=step, seconds=spent, activity="", found=found, finished=finished, peak_memory=most
        )
