"""Where the time goes in a KL run and in evaluation sampling, and how near both come to what the machine can do.

    python -m benchmarks.profile            # writes PROFILE.md beside this file; needs an idle machine

The machine's peak is the best of some large float32 products, its bandwidth that of reading a tensor that no cache holds, both measured here
with the same number of threads. torch's profiler says how long each operation took by itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.bench import machine
from benchmarks.work import DATASET, demo_batches, demo_recipe, loaded, own_home, trained

OUT = Path(__file__).resolve().parent / "PROFILE.md"
ROOMS = (
    ("products of matrices", ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm")),
    ("attention's own kernel", ("dot_product",)),
    ("softmax, exponentials and sums of logits", ("softmax", "aten::exp", "vecdot", "argmax", "cross_entropy", "nll_loss")),
    ("optimiser and gradient norm", ("adamw", "vector_norm", "aten::stack")),
    (
        "copies and shapes",
        ("copy", "aten::cat", "index", "fill", "clone", "aten::pad", "slice", "view", "empty", "zero", "gather", "stride"),
    ),
)


@dataclass(frozen=True)
class Profile:
    """``seconds`` in all; of them by kind of operation; ``flops`` of the products; ``bytes`` that have to be read at least."""

    what: str
    seconds: float
    by_kind: dict[str, float]
    flops: float
    bytes: float | None = None


def peak() -> tuple[float, float]:
    """float32 operations a second, and bytes read a second."""
    import torch

    a, b = torch.randn(2048, 2048), torch.randn(2048, 2048)
    large = torch.randn(128 << 20)

    def best(work: Callable[[], object]) -> float:
        found = []
        for _ in range(8):
            start = time.perf_counter()
            work()
            found.append(time.perf_counter() - start)
        return min(found)

    return 2 * 2048**3 / best(lambda: a @ b), large.nbytes / best(large.sum)


def profiled(what: str, work: Callable[[], object], read: float | None = None) -> Profile:
    import torch
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as seen:
        start = time.perf_counter()
        work()
        seconds = time.perf_counter() - start
    assert not torch.cuda.is_available()
    by_kind: dict[str, float] = {}
    flops = 0.0
    for event in seen.key_averages(group_by_input_shape=True):
        kind = next((room for room, words in ROOMS if any(word in event.key.lower() for word in words)), "other arithmetic")
        by_kind[kind] = by_kind.get(kind, 0.0) + event.self_cpu_time_total / 1e6
        flops += operations(event.key, event.input_shapes) * event.count
    by_kind["between operations (Python, the profiler itself)"] = max(0.0, seconds - sum(by_kind.values()))
    return Profile(what, seconds, by_kind, flops, read)


def operations(name: str, shapes: Sequence[Sequence[int]]) -> int:
    """Of a product of matrices."""
    if name in ("aten::mm", "aten::bmm"):
        (*many, n, k), (*_, m) = shapes[0], shapes[1]
    elif name in ("aten::addmm", "aten::addmm_", "aten::baddbmm"):
        (*many, n, k), (*_, m) = shapes[1], shapes[2]
    else:
        return 0
    return 2 * n * k * m * (many[0] if many else 1)


def kl_run(batch_size: int) -> Profile:
    """Six steps of the demo's data with KL over all tokens, after two that fill the caches."""
    import torch

    from ema_core.defenses.registry import build_all
    from ema_core.models import adapters
    from ema_core.runs import RunSpec, parse_defense
    from ema_core.training.step import Stepper

    recipe = demo_recipe(8 * batch_size).model_copy(update={"batch_size": batch_size})
    rows = [row for batch in demo_batches(4 * batch_size) for row in batch]
    batches = [rows[i : i + batch_size] for i in range(0, len(rows), batch_size)][:8]
    spec = RunSpec(dataset=DATASET, recipe=recipe, defenses=(parse_defense("kl=0.1"),))
    model = adapters.attach(loaded().model, recipe, 0)
    try:
        parameters = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(parameters, lr=1e-4, fused=True)
        stepper = Stepper(loaded(), model, recipe, build_all(spec))
        model.train()
        for _ in range(2):  # the reference's states of all of them are kept after the first time
            for number, batch in enumerate(batches):
                stepper.step(optimizer, parameters, batch, number, len(batches))
        tokens = sum(len(row.ids) for batch in batches[:6] for row in batch)
        return profiled(
            f"KL 0.1 over all tokens, six steps of {batch_size} sequences, {tokens:,} tokens, the reference's states kept",
            lambda: [stepper.step(optimizer, parameters, batch, n, len(batches)) for n, batch in enumerate(batches[:6])],
        )
    finally:
        adapters.detach(model)
        loaded().model.requires_grad_(False).eval()


def sampling() -> Profile:
    """Eight tokens of a full batch of four adapters, after forty."""
    from ema_core.generation.chat_template import encode_turns
    from ema_core.generation.decoder import Decoder, Row
    from ema_core.generation.sampling import MOST_PLACES, SamplingSettings
    from ema_core.models.lora import On, load_adapter

    runs = [trained(4, seed=seed) for seed in range(4)]
    adapters = [load_adapter(run.adapter, loaded().model) for run in runs]
    decoder = Decoder(loaded().model, loaded().tokenizer, MOST_PLACES)
    decoder.stops = set()  # the batch stays full
    how = SamplingSettings(max_tokens=128)
    each = MOST_PLACES // len(adapters)
    texts = questions()
    decoder.add(
        [
            Row(tuple(encode_turns(loaded().tokenizer, [{"role": "user", "content": texts[k % len(texts)]}])), how, 1000 * place + k, On(one))
            for place, one in enumerate(adapters)
            for k in range(each)
        ]
    )  # fmt: skip
    while len(decoder.rows) < MOST_PLACES or decoder.reading or len(decoder.rows[-1].tokens) < 40:
        decoder.step()
    steps = 8
    cache = sum(layer.keys.numel() + layer.values.numel() for layer in decoder.cache.layers)
    lora = sum(a.numel() + b.numel() for one in adapters for a, b in one.modules.values())
    weights = sum(p.numel() for p in loaded().model.parameters()) - loaded().model.get_input_embeddings().weight.numel()
    return profiled(
        f"Sampling, {steps} tokens of each of {len(decoder.rows)} rows with four adapters, {decoder.cache.get_seq_length()} columns",
        lambda: [decoder.step() for _ in range(steps)],
        4.0 * steps * (weights + lora + cache),
    )


def questions() -> list[str]:
    from ema_core.evaluation.suites import load_suite

    return [one.question for one in load_suite("general", DATASET).questions][:8]


def table(found: Profile, flops: float, bandwidth: float) -> list[str]:
    products = found.by_kind["products of matrices"]
    lines = [f"## {found.what}", "", f"{found.seconds:.2f} s under the profiler.", "", "| what | s | share |", "|---|---|---|"]
    for kind, seconds in sorted(found.by_kind.items(), key=lambda one: -one[1]):
        lines.append(f"| {kind} | {seconds:.2f} | {seconds / found.seconds:.0%} |")
    lines += [
        "",
        f"- {found.flops / 1e9:,.0f} billion operations in products: {found.flops / products / 1e9:,.0f} a second while they run "
        f"({found.flops / products / flops:.0%} of the peak), {found.flops / found.seconds / 1e9:,.0f} over the whole ({found.flops / found.seconds / flops:.0%}).",
    ]
    if found.bytes:
        lines.append(
            f"- At least {found.bytes / 1e9:.1f} GB have to be read (weights and adapters once a token, keys and values): "
            f"{found.bytes / found.seconds / 1e9:.1f} GB/s, {found.bytes / found.seconds / bandwidth:.0%} of the bandwidth."
        )
    return [*lines, ""]


def main() -> None:
    with own_home():
        flops, bandwidth = peak()
        found = [kl_run(2), kl_run(16), sampling()]
        flops, bandwidth = max(flops, (again := peak())[0]), max(bandwidth, again[1])
    lines = [
        "# Where the time goes", "", "Written by `python -m benchmarks.profile`. " + machine(), "",
        f"Measured here: {flops / 1e9:,.0f} billion float32 operations a second (2,048³ products), {bandwidth / 1e9:.1f} GB/s read.", "",
    ]  # fmt: skip
    for one in found:
        lines += table(one, flops, bandwidth)
    OUT.write_text("\n".join(lines), encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
