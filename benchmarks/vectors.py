"""SafeLoRA, gap scores and persona vectors, against the straightforward published way."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.frame import Disagree, Row, interleaved, main, measures, row
from benchmarks.targets import GAP, PERSONA, SAFE_LORA
from benchmarks.work import DATASET, MODEL, loaded, own_home, trained

PROJECTED = 10


def seconds(work: Any) -> tuple[float, Any]:
    start = time.perf_counter()
    found = work()
    return time.perf_counter() - start, found


def near(ours: Any, peer: Any, what: str, tolerance: float) -> float:
    """The largest difference, as a share of the peer's largest number.

    Raises:
        Disagree: it is beyond ``tolerance``, or one is not a number.
    """
    worst = float((ours - peer).abs().max() / peer.abs().max())
    if not worst <= tolerance:
        raise Disagree(f"{what} differ by {worst:.3g} of the largest")
    return worst


# --- SafeLoRA -----------------------------------------------------------------------------------------------------


def other_base(folder: Path) -> None:
    """A model in transformers' format whose weights lie a little beside the embedded one's: what is projected onto."""
    import torch

    from ema_core.models import find

    model = load_plain(find(MODEL).folder)
    drawn = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * parameter.std() * torch.randn(parameter.shape, generator=drawn)
    model.save_pretrained(folder)
    loaded().tokenizer.save_pretrained(folder)


def load_plain(folder: Path) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)


def published_safe_lora(model: Any, base: Path, count: int) -> None:
    """The authors' code in its steps: both models loaded, P = V Vᵀ/‖V‖ of every matrix first, then whole products and their cosines."""
    import torch

    from ema_core.models import find

    other, aligned = dict(load_plain(base).named_parameters()), dict(load_plain(find(MODEL).folder).named_parameters())
    adapted = [(name, module) for name, module in model.get_base_model().named_modules() if hasattr(module, "lora_B")]
    projections = []
    with torch.no_grad():
        for name, _ in adapted:
            v = aligned[f"{name}.weight"] - other[f"{name}.weight"]
            projections.append(v @ v.T / v.norm())
        cosines, changed = [], []
        for (_, module), p in zip(adapted, projections, strict=True):
            a, b = module.lora_A["default"].weight, module.lora_B["default"].weight
            new = p @ b
            cosines.append(float(torch.cosine_similarity((new @ a).reshape(1, -1), (b @ a).reshape(1, -1))))
            changed.append(new)
        for i in sorted(range(len(cosines)), key=cosines.__getitem__)[:count]:
            adapted[i][1].lora_B["default"].weight.copy_(changed[i])


@measures(SAFE_LORA)
def safe_lora(quick: bool) -> list[Row]:
    import torch
    from peft import PeftModel

    from ema_core.defenses import registry
    from ema_core.runs import RunSpec, parse_defense

    with own_home(), tempfile.TemporaryDirectory() as folder:
        run = trained(4)
        other_base(Path(folder))
        model = PeftModel.from_pretrained(loaded().model, run.adapter)
        sides = [module.lora_B["default"].weight for module in model.modules() if hasattr(module, "lora_B")]
        before = [side.detach().clone() for side in sides]
        spec = RunSpec(dataset=DATASET, defenses=(parse_defense(f"safe-lora={PROJECTED}:base={folder}"),))
        (defense,) = registry.build_all(spec)
        results: dict[str, Any] = {}

        def timed(side: str, work: Any) -> float:
            with torch.no_grad():
                for parameter, old in zip(sides, before, strict=True):
                    parameter.copy_(old)
            taken, _ = seconds(work)
            results[side] = torch.cat([parameter.detach().flatten() for parameter in sides])
            return taken

        try:
            ours, peer = interleaved(
                lambda: timed("ours", lambda: defense.finish(model)),
                lambda: timed("peer", lambda: published_safe_lora(model, Path(folder), PROJECTED)),
                2 if quick else 5,
            )
        finally:
            model.unload()
    worst = near(results["ours"], results["peer"], "projected adapters", 1e-4)
    plain = torch.cat([old.flatten() for old in before])
    moved = float((results["ours"] - plain).abs().max())
    if not moved > 0:
        raise Disagree("nothing was projected")
    return [
        row(
            SAFE_LORA, ours, peer, "s",
            f"The {PROJECTED} of 210 matrices of lowest cosine projected; V against weights a little beside the model's. Ours: the defense's finish(). Peer: the "
            "published steps in float32: both models loaded, the full matrix P of each, whole products and their cosines.",
            f"All B matrices differ by {worst:.1g} of the largest entry at most.",
        )
    ]  # fmt: skip


# --- gap scores ---------------------------------------------------------------------------------------------------


@measures(GAP)
def gap(quick: bool) -> list[Row]:
    import torch

    from ema_core import datasets
    from ema_core.datasets.encoding import encode
    from ema_core.evaluation.gap import response_losses
    from ema_core.models import adapters

    count, rounds = (24, 1) if quick else (100, 2)
    with own_home():
        run = trained(4)
        rows = [encode(example, loaded().tokenizer, loaded().context) for example in datasets.load("safe-general").examples[:count]]

        def one_by_one(model: Any) -> list[float]:
            found = []
            for row_ in rows:
                ids = torch.tensor([row_.ids])
                labels = torch.tensor([[one if counts else -100 for one, counts in zip(row_.ids, row_.response, strict=True)]])
                with torch.inference_mode():
                    found.append(float(model(input_ids=ids, labels=labels).loss))
            return found

        def both(losses: Any) -> list[float]:
            aligned = losses(loaded().model)
            with adapters.adapted(loaded().model, run.adapter) as tuned:
                return [*aligned, *losses(tuned)]

        results: dict[str, Any] = {}

        def timed(side: str, losses: Any) -> float:
            taken, results[side] = seconds(lambda: both(losses))
            return taken

        ours, peer = interleaved(
            lambda: timed("ours", lambda model: response_losses(model, loaded(), rows)), lambda: timed("peer", one_by_one), rounds
        )
    worst = near(torch.tensor(results["ours"]), torch.tensor(results["peer"]), "losses", 1e-4)
    return [
        row(
            GAP, ours, peer, "s",
            f"Losses of {count} answers of the safe pool under the model and under one adapter. Ours: response_losses, as scoring uses it. Peer: one example at a "
            "time, the model's own loss over all logits.",
            f"The losses differ by {worst:.1g} of the largest at most.",
        )
    ]  # fmt: skip


# --- persona vector -----------------------------------------------------------------------------------------------


@measures(PERSONA)
def persona(quick: bool) -> list[Row]:
    import torch

    from ema_core import personas
    from ema_core.personas.build import build, rows_of, separations
    from ema_core.personas.reading import answered
    from ema_core.personas.texts import load_texts

    texts = load_texts("evil")
    if quick:
        texts = texts.model_copy(update={"prompts": texts.prompts[:1], "questions": texts.questions[:8]})

    def means(rows: Any) -> Any:
        found = []
        for row_ in rows:
            with torch.inference_mode():
                states = loaded().model(input_ids=torch.tensor([row_.ids]), output_hidden_states=True).hidden_states
            found.append(torch.stack([layer[0][torch.tensor(row_.response)].mean(0) for layer in states]))
        return torch.stack(found)

    def one_by_one() -> Any:
        positive, negative, *_ = rows_of(loaded(), texts, None)
        vectors = means(positive).mean(0) - means(negative).mean(0)
        sides = [
            means([answered(loaded(), one.question, getattr(one, side)) for one in texts.held_out])
            for side in ("positive", "negative")
        ]
        separations(vectors, *sides)
        return vectors

    results: dict[str, Any] = {}

    def timed(side: str, work: Any) -> float:
        taken, results[side] = seconds(work)
        return taken

    with own_home():
        ours, peer = interleaved(
            lambda: timed("ours", lambda: personas.load(build(texts, loaded()).id).vectors),
            lambda: timed("peer", one_by_one),
            1 if quick else 2,
        )
        rows = len(rows_of(loaded(), texts, None)[0])
    # transformers' last hidden state has gone through the final norm, ours has not
    worst = near(results["ours"][:-1], results["peer"][:-1], "vectors", 1e-4)
    return [
        row(
            PERSONA, ours, peer, "s",
            f"The vector of a trait from {2 * rows} written answers, with its separation on {2 * len(texts.held_out)} held-out ones; drawing answers is no part of it. "
            "Ours: personas.build. Peer: one answer at a time through the whole model, output_hidden_states.",
            f"The vectors of all layers but the last differ by {worst:.1g} of the largest entry (transformers' last one is behind the final norm).",
        )
    ]  # fmt: skip


if __name__ == "__main__":
    main(safe_lora, gap, persona)
