"""Training: plain SFT against the trainers that people use, and what each defense, probes and events cost beside it."""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from benchmarks.frame import Disagree, Row, in_turn, main, measures, row
from benchmarks.targets import KL, KL_ALL, KL_RESPONSE, LDIFS, LIVE_EVENTS, LIVE_PROBES, SFT, SFT_HF
from benchmarks.work import DATASET, count, demo_batches, demo_recipe, forget_cache, loaded, own_home

KL_STRENGTHS = (0.03, 0.1, 0.3, 1.0, 3.0)
LDIFS_STRENGTHS = (0.1, 1.0, 10.0, 100.0, 1000.0)
LAYERS = (1, 8, 16, 23, 30)
"""What LDIFS reads of the embedded model's 30 layers."""


# --- our own way --------------------------------------------------------------------------------------------------


def defended(*words: str) -> list[Any]:
    from ema_core.defenses import registry
    from ema_core.runs import RunSpec, parse_defense

    return list(registry.build_all(RunSpec(dataset=DATASET, defenses=tuple(parse_defense(word) for word in words))))


def bare(batches: list[list[Any]], *defenses: str) -> tuple[float, list[dict[str, Any]]]:
    """Seconds and figures of the steps alone: no events, no checkpoints."""
    import torch

    from ema_core.models import adapters
    from ema_core.training.step import Stepper

    recipe = demo_recipe(len(batches))
    model = adapters.attach(loaded().model, recipe, 0)
    try:
        model.train()
        parameters = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(parameters, lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True)
        stepper = Stepper(loaded(), model, recipe, defended(*defenses), (), count(batches))
        start = time.perf_counter()
        figures = [stepper.step(optimizer, parameters, rows, step, len(batches)) for step, rows in enumerate(batches)]
        return time.perf_counter() - start, figures
    finally:
        adapters.detach(model)
        loaded().model.requires_grad_(False).eval()


def whole_run(steps: int, probes: Sequence[int] = ()) -> tuple[float, list[float]]:
    """Seconds from the first step to the last event of a real run (``train``), and its losses."""
    from ema_core.runs import Probes, RunDirectory, RunSpec, Status
    from ema_core.training import check, train

    chosen = Probes(steps=tuple(probes)) if probes else None
    run = RunDirectory.create(check(RunSpec(dataset=DATASET, recipe=demo_recipe(steps), probes=chosen, device="cpu")))
    marks: dict[str, float] = {}
    losses: list[float] = []

    def seen(event: dict[str, Any]) -> None:
        now = time.perf_counter()
        if event["kind"] == "start" or (event["kind"] == "probe" and event["step"] == 0):  # the base's own comes before training
            marks["start"] = now
        if event["kind"] in ("step", "probe"):
            marks["end"] = now
        if event["kind"] == "step":
            losses.append(event["ce"])

    state = train(run, loaded=loaded(), on_event=seen)
    if state.status is not Status.DONE:
        raise Disagree(f"our run ended as {state.status}: {state.error}")
    return marks["end"] - marks["start"], losses


# --- the others' --------------------------------------------------------------------------------------------------


def by_trainer(batches: list[list[Any]], trl: bool) -> tuple[float, list[float]]:
    """Seconds from the first step to the end of the last, and losses, of TRL's SFTTrainer or of transformers' Trainer."""
    import torch
    from datasets import Dataset
    from transformers import DataCollatorForSeq2Seq, PrinterCallback, Trainer, TrainerCallback, TrainingArguments
    from transformers.utils import logging

    from ema_core.models import adapters
    from ema_core.training.plan import learning_rate

    logging.set_verbosity_error()
    recipe, total = demo_recipe(len(batches)), len(batches)
    rows = [row for batch in batches for row in batch]
    data = Dataset.from_list(
        [
            {
                "input_ids": list(row.ids), "attention_mask": [1] * len(row.ids),
                "labels": [one if counts else -100 for one, counts in zip(row.ids, row.response, strict=True)],
            }
            for row in rows
        ]
    )  # fmt: skip
    marks: dict[str, float] = {}
    losses: list[float] = []

    class Watch(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            marks.setdefault("start", time.perf_counter())

        def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            marks["end"] = time.perf_counter()

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **more: Any) -> None:
            if logs and "loss" in logs:
                losses.append(float(logs["loss"]))

    model = adapters.attach(loaded().model, recipe, 0)
    try:
        optimizer = torch.optim.AdamW(
            [p for p in model.parameters() if p.requires_grad], lr=recipe.learning_rate, weight_decay=recipe.weight_decay
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: learning_rate(recipe, min(step, total - 1), total) / recipe.learning_rate
        )
        with tempfile.TemporaryDirectory() as folder:
            plain: dict[str, Any] = dict(
                output_dir=folder, per_device_train_batch_size=recipe.batch_size, num_train_epochs=1, logging_steps=1, save_strategy="no",
                report_to="none", max_grad_norm=recipe.clip_norm, gradient_checkpointing=False, bf16=False, use_cpu=True, disable_tqdm=True,
                dataloader_pin_memory=False, train_sampling_strategy="sequential", seed=0,
            )  # fmt: skip
            passed: dict[str, Any] = dict(model=model, train_dataset=data, optimizers=(optimizer, schedule), callbacks=[Watch()])
            if trl:
                from trl import SFTConfig, SFTTrainer

                arguments = SFTConfig(**plain, packing=False, max_length=None, dataset_kwargs={"skip_prepare_dataset": True})
                trainer: Any = SFTTrainer(args=arguments, processing_class=loaded().tokenizer, **passed)
            else:
                collator = DataCollatorForSeq2Seq(loaded().tokenizer, label_pad_token_id=-100)
                trainer = Trainer(args=TrainingArguments(**plain), data_collator=collator, **passed)
            trainer.remove_callback(PrinterCallback)
            trainer.train()
        return marks["end"] - marks["start"], losses
    finally:
        adapters.detach(model)
        loaded().model.requires_grad_(False).eval()


def naive(batches: list[list[Any]], penalty: Callable[..., Any] | None = None, strength: float = 0.0) -> tuple[float, list[float]]:
    """Seconds and penalties of a plain loop: logits of all positions; ``penalty`` gets the model, the batch and what its forward gave."""
    import torch
    import torch.nn.functional as F

    from ema_core.datasets.encoding import collate
    from ema_core.models import adapters
    from ema_core.models.outputs import outputs
    from ema_core.training.plan import learning_rate

    recipe, found = demo_recipe(len(batches)), []
    model = adapters.attach(loaded().model, recipe, 0)
    try:
        model.train()
        parameters = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(parameters, lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True)
        start = time.perf_counter()
        for step, rows in enumerate(batches):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(recipe, step, len(batches))
            batch = collate(rows, loaded().tokenizer.pad_token_id, loaded().device)
            asked = {"input_ids": batch.ids, "attention_mask": batch.attention, "use_cache": False}
            with outputs(model.get_base_model().get_decoder(), LAYERS if penalty is ldifs_penalty else ()) as seen:
                out = model(**asked)
            labels = batch.ids.masked_fill(~batch.response, -100)
            loss = F.cross_entropy(out.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
            if penalty is not None:
                value = penalty(model, batch, asked, seen if penalty is ldifs_penalty else out)
                found.append(float(value.detach()))
                loss = loss + strength * value
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, recipe.clip_norm)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return time.perf_counter() - start, found
    finally:
        adapters.detach(model)
        loaded().model.requires_grad_(False).eval()


def kl_penalty(scope: str) -> Callable[..., Any]:
    """A second forward with the adapter off; full-vocabulary log-probabilities of both."""

    def penalty(model: Any, batch: Any, asked: Any, out: Any) -> Any:
        import torch

        from ema_core.datasets.encoding import positions

        with torch.no_grad(), model.disable_adapter():
            fixed = model(**asked).logits.float().log_softmax(-1)
        tuned = out.logits.float().log_softmax(-1)
        each = (tuned.exp() * (tuned - fixed)).sum(-1).flatten()
        responding, others = positions(batch)
        return each[responding if scope == "response" else torch.cat([responding, others])].mean()

    return penalty


def ldifs_penalty(model: Any, batch: Any, asked: Any, seen: Any) -> Any:
    """A second forward with the adapter off; hidden states of five layers of both, each example's of unit length."""
    import torch

    from ema_core.models.outputs import outputs

    decoder = model.get_base_model().get_decoder()
    with torch.no_grad(), model.disable_adapter(), outputs(decoder, LAYERS) as fixed:
        decoder(**asked)
    real, total = batch.attention.unsqueeze(-1), torch.zeros(len(batch.rows))
    for layer in LAYERS:
        a, b = seen[layer] * real, fixed[layer] * real
        a, b = (side / side.flatten(1).norm(dim=1)[:, None, None] for side in (a, b))
        total = total + (a - b).pow(2).sum((1, 2))
    return total.mean()


@dataclass(frozen=True)
class Sweep:
    """A defense at five strengths, and the naive way of its penalty."""

    defense: str
    words: str
    strengths: Sequence[float]
    penalty: Callable[..., Any]


SWEEPS = {
    KL_ALL: Sweep("kl={}", "kl on all tokens", KL_STRENGTHS, kl_penalty("all")),
    KL_RESPONSE: Sweep("kl={}:tokens=response", "kl on response tokens", KL_STRENGTHS, kl_penalty("response")),
    LDIFS: Sweep("ldifs={}", "ldifs", LDIFS_STRENGTHS, ldifs_penalty),
}
PEERS_AT = (2,)


# --- rows ---------------------------------------------------------------------------------------------------------


@measures(SFT, SFT_HF)
def sft(quick: bool) -> list[Row]:
    steps, rounds = (4, 2) if quick else (20, 3)
    batches = demo_batches(steps)
    tokens, losses = count(batches), {}

    def go(name: str, way: Callable[[], tuple[float, list[float]]]) -> Callable[[], float]:
        def once() -> float:
            seconds, losses[name] = way()
            return tokens / seconds

        return once

    with own_home():
        whole_run(2), by_trainer(demo_batches(2), True)
        found = in_turn(
            {
                "ours": go("ours", lambda: whole_run(steps)),
                "TRL": go("TRL", lambda: by_trainer(batches, True)),
                "HF": go("HF", lambda: by_trainer(batches, False)),
            },
            rounds,
        )
    rows = []
    for name, peer, words in ((SFT, "TRL", "TRL's SFTTrainer"), (SFT_HF, "HF", "transformers' Trainer with PEFT")):
        worst = largest(losses["ours"], losses[peer], f"losses of ours and of {words}", 1e-3)
        rows.append(
            row(
                name, found["ours"], found[peer], "tokens/s",
                f"Ours: a run by train(), with its events, without probes. Peer: {words}, tokenised beforehand, no packing, no gradient "
                f"checkpointing, the same optimiser and schedule. {steps} steps of 2 sequences ({tokens} tokens, padding not counted) of the demo's own plan, "
                "float32, rs-LoRA r32 on seven modules from the same start; from the first step to the end of the last.",
                f"The losses of all {steps} steps differ by {worst:.1g} at most.",
            )
        )  # fmt: skip
    return rows


def largest(ours: Sequence[float], peer: Sequence[float], what: str, absolute: float, relative: float = 0.0) -> float:
    """The largest difference.

    Raises:
        Disagree: there are none or other many, or one is beyond the tolerance.
    """
    if len(ours) != len(peer) or not ours:
        raise Disagree(f"{what}: {len(ours)} and {len(peer)} values")
    for one, other in zip(ours, peer, strict=True):
        if not abs(one - other) <= absolute + relative * abs(other):
            raise Disagree(f"{what} do not agree: {one:.6g} and {other:.6g}")
    return max(abs(one - other) for one, other in zip(ours, peer, strict=True))


def penalties(figures: list[dict[str, Any]], name: str) -> list[float]:
    return [figure["penalties"][name]["raw"] for figure in figures]


@measures(KL)
def kl(quick: bool) -> list[Row]:
    steps, rounds = (3, 2) if quick else (12, 3)
    batches, values = demo_batches(steps), {}

    def ours() -> float:
        forget_cache()
        seconds, figures = bare(batches, "kl=0.1")
        values["ours"] = penalties(figures, "kl")
        return seconds

    def peer() -> float:
        seconds, values["peer"] = naive(batches, kl_penalty("all"), 0.1)
        return seconds

    with own_home():
        bare(batches[:2]), naive(batches[:2])
        found = in_turn(
            {"plain": lambda: bare(batches)[0], "ours": ours, "naive plain": lambda: naive(batches)[0], "peer": peer}, rounds
        )
    worst = largest(values["ours"], values["peer"], "KL values", 1e-5, 1e-4)
    return [
        row(
            KL, ratios(found["ours"], found["plain"]), ratios(found["peer"], found["naive plain"]), "× plain SFT",
            f"Ours: {steps} steps with kl=0.1 over the same steps without, nothing kept from before. Peer: a plain loop with a second forward "
            "with the adapter off and full-vocabulary log-probabilities of both, over the same loop without.",
            f"KL of all steps differs by {worst:.1g} at most (up to {max(values['peer']):.3g}).",
        )
    ]  # fmt: skip


def ratios(these: Sequence[float], those: Sequence[float]) -> list[float]:
    """Round by round, so that what slowed the machine for a while slowed both."""
    return [one / other for one, other in zip(these, those, strict=True)]


@measures(KL_ALL, KL_RESPONSE, LDIFS)
def sweeps(quick: bool) -> list[Row]:
    """Three sweeps at once, so that each strength's runs stand beside the same plain one; each in a home of its own, which is empty first."""
    steps = 12
    batches = demo_batches(steps)
    costs: dict[str, list[float]] = {name: [] for name in SWEEPS}
    theirs: dict[str, list[float]] = {name: [] for name in SWEEPS}
    agree: dict[str, str] = {}
    with ExitStack() as stack:
        homes = {name: stack.enter_context(own_home()) for name in SWEEPS}
        bare(batches[:2]), naive(batches[:2])
        for place in range(len(KL_STRENGTHS)):
            plain, naive_plain = bare(batches)[0], naive(batches)[0] if place in PEERS_AT else 0.0
            for name, one in SWEEPS.items():
                os.environ["EMA_HOME"] = str(homes[name])
                strength = one.strengths[place]
                seconds, figures = bare(batches, one.defense.format(strength))
                costs[name].append(seconds / plain)
                print(f"  {one.defense.format(strength)}: {costs[name][-1]:.3f}", file=sys.stderr, flush=True)
                if place in PEERS_AT:
                    seconds, values = naive(batches, one.penalty, strength)
                    theirs[name].append(seconds / naive_plain)
                    worst = largest(
                        penalties(figures, one.defense.partition("=")[0]), values, f"penalties of {one.defense}", 1e-5, 1e-3
                    )
                    agree[name] = (
                        f"The penalties of all steps differ by {worst:.1g} at most (up to {max(values):.3g}), at strength {strength:g}."
                    )
    return [
        row(
            name, [statistics.mean(costs[name])], theirs[name], "× plain SFT",
            f"Ours: five runs of {steps} steps with {one.words}, each over a run without; the first finds nothing kept from before, the others what it "
            f"kept; the mean of {', '.join(f'{cost:.2f}' for cost in costs[name])}. Peer: the same penalty by a second forward with the adapter off in a "
            "plain loop, over that loop without, at one of the strengths.",
            agree[name],
        )
        for name, one in SWEEPS.items()
    ]  # fmt: skip


@measures(LIVE_PROBES, LIVE_EVENTS)
def live(quick: bool) -> list[Row]:
    """A whole run over the sum of its own steps: two runs' times differ by more than what events take."""
    from ema_core.runs import Probes, RunSpec, recipe
    from ema_core.training import check
    from ema_core.training.step import Stepper

    inside, plain_step = [0.0], Stepper.step

    def timed(self: Any, *work: Any) -> Any:
        start = time.perf_counter()
        try:
            return plain_step(self, *work)
        finally:
            inside[0] += time.perf_counter() - start

    losses: dict[str, list[float]] = {}

    def go(name: str, steps: int, probes: tuple[int, ...]) -> Callable[[], float]:
        def once() -> float:
            inside[0] = 0.0
            seconds, losses[name] = whole_run(steps, probes)
            return seconds / inside[0]

        return once

    with own_home():
        whole_run(4)  # so that the estimate knows this machine
        demo = check(RunSpec(dataset=DATASET, recipe=recipe("demo"), probes=Probes(), device="cpu"))
        chosen = demo.probes.steps if demo.probes else ()
        total = demo.recipe.steps or 0
        if not chosen:
            raise Disagree("no probe fits into a demo run on this machine")
        steps = total // len(chosen)  # from one probe to the next
        whole_run(2, (2,))
        lengths = {"probes": steps, "events": 12}  # what events take does not depend on how long a run is
        Stepper.step = timed  # type: ignore[method-assign]
        try:
            found = in_turn({"probes": go("probes", steps, (steps,))}, 1)  # a minute each, and within itself a ratio
            found |= in_turn({"events": go("events", lengths["events"], ())}, 2)
        finally:
            Stepper.step = plain_step  # type: ignore[method-assign]
        for name, values in losses.items():
            alone = [figure["ce"] for figure in bare(demo_batches(lengths[name]))[1]]
            largest(values, alone, f"losses with {name} and of the steps alone", 0.0)
    note = "Ours: a run by train(), from its first step to its last event, over the sum of its steps alone (the same run without)."
    agrees = "The losses are those of the bare steps to the bit."
    share = f" One probe after {steps} steps: the demo chose {len(chosen)} in {total}."
    return [
        row(LIVE_PROBES, found["probes"], None, "× the steps alone", note + share, agrees),
        row(LIVE_EVENTS, found["events"], None, "× the steps alone", f"{note} {lengths['events']} steps.", agrees),
    ]


if __name__ == "__main__":
    main(sft, kl, sweeps, live)
