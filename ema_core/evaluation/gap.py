"""Scoring a safe pool by the perplexity gap: members shown to be misaligned first, then every candidate's loss under each model."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ema_core import datasets
from ema_core.datasets import Dataset
from ema_core.datasets.encoding import Encoded, collate, encode
from ema_core.datasets.refusal import is_refusal
from ema_core.errors import EmaError
from ema_core.evaluation import metrics
from ema_core.evaluation.evaluate import Share, evaluate
from ema_core.evaluation.spec import EvalSpec
from ema_core.evaluation.suites import load_suite
from ema_core.files import read_json, read_lines, sha256_json, write_json
from ema_core.gap.ensemble import admit, domain_of, find_member, left_out, member_spec, others
from ema_core.gap.scores import Card, Member, Score, cards, example_hash, gap_score, scores_id, write_scores
from ema_core.models import LoadedModel, adapters, find, load, ragged
from ema_core.models.fetch import Progress, quiet
from ema_core.models.load import out_of_memory
from ema_core.runs import RunDirectory
from ema_core.settings import settings

BATCH = 16
CHUNK = 512
"""Positions whose logits are in memory at once."""


def score_pool(
    model: str,
    pool: str,
    domain: str,
    members: Sequence[RunDirectory] | None = None,
    *,
    go_on: bool = False,
    loader: Callable[[str, str], LoadedModel] = load,
    interrupted: Callable[[], bool] = lambda: False,
    progress: Progress = quiet,
) -> Card:
    """Score every example of ``pool`` for runs of ``model`` in ``domain``; scores that are there already are returned.

    ``members`` None: the finished demo runs on the other domains' sets. A member that is not shown to be misaligned is refused;
    with ``go_on`` it is left out, and the card says so.

    Raises:
        EmaError: no ensemble, a run that may not be a member, or one that is not shown to be misaligned.
        Interrupted: ``interrupted`` said so; what was computed is kept.
    """
    model, domain, started = find(model).id, domain_of(domain), time.time()
    candidates = safe_pool(pool)
    runs = ensemble(model, domain) if members is None else list(members)
    for run in runs:
        admit(run, model, domain)
    if not runs:
        raise EmaError("The ensemble is empty.", "Name at least one run.")
    progress(0.0, "loading the model")
    loaded = loader(model, "auto")
    say = Share(len(candidates.examples) * (len(runs) + 1), interrupted, progress)
    shown, refused = _judged([_member(run, loaded, interrupted, progress) for run in runs], go_on)
    key = scores_id(
        model, loaded.weights_hash, pool, candidates.sha256, domain, [member.adapter_hash for member in shown]
    )  # fmt: skip
    if known := [card for card in cards() if card.id == key]:
        progress(1.0, "scored already")
        return known[0]
    rows = [encode(example, loaded.tokenizer, loaded.context) for example in candidates.examples]
    with out_of_memory("scoring"):
        aligned = _losses(None, "", candidates, rows, loaded, say)
        tuned = {
            member.run: _losses(RunDirectory.open(member.run).adapter, member.adapter_hash, candidates, rows, loaded, say)
            for member in shown
        }
    scores = _scores(candidates, rows, aligned, tuned)
    card = Card(
        id=key, model=model, weights_hash=loaded.weights_hash, pool=pool, pool_sha256=candidates.sha256, candidates=len(scores),
        refusals=sum(score.refusal for score in scores), domain=domain, left_out=left_out(domain), members=shown, refused=refused,
        created=time.time(), seconds=round(time.time() - started, 1), device=str(loaded.device),
        dtype=str(loaded.model.dtype).split(".")[-1],
    )  # fmt: skip
    write_scores(card, scores)
    progress(1.0, "done")
    return card


def safe_pool(name: str) -> Dataset:
    """The pool to score.

    Raises:
        EmaError: no safe pool.
    """
    if datasets.find(name).kind != "safe":
        raise EmaError(f"{name} is not a safe pool.", "Name a safe pool of `ema datasets list`.")
    return datasets.load(name)


def ensemble(model: str, domain: str) -> list[RunDirectory]:
    """The finished runs that are the members for ``domain``.

    Raises:
        EmaError: there is no other domain, or a run is missing.
    """
    sets = others(domain)
    if not sets:
        raise EmaError(
            f"There is no narrow set of another domain than {domain}.", "Name runs of your own as members (--member RUN)."
        )
    found = []
    for entry in sets:
        run = find_member(model, entry.name)
        if run is None:
            raise EmaError(
                f"There is no finished, undefended demo run of {model} on {entry.name}.",
                f"Train it first: `{member_spec(model, entry.name).command()}`.",
            )
        found.append(run)
    return found


def _judged(members: Sequence[Member], go_on: bool) -> tuple[list[Member], list[Member]]:
    """Members that are shown to be misaligned, and the others."""
    shown = [member for member in members if member.shown_misaligned]
    refused = [member for member in members if not member.shown_misaligned]
    words = "; ".join(map(str, refused))
    if not shown:
        raise EmaError(
            f"No member of the ensemble is shown to be misaligned ({words}).",
            "Its interval's low end has to lie above 0: train the members longer, or name others with --member.",
        )
    if refused and not go_on:
        raise EmaError(f"Not shown to be misaligned: {words}.", "Go on without it with --go-on, or name other runs with --member.")
    return shown, refused


def _member(run: RunDirectory, loaded: LoadedModel, interrupted: Callable[[], bool], progress: Progress) -> Member:
    """A run with what shows that it is misaligned; its general margin is measured where it was not yet."""
    folder = _margins(run)
    if folder is None:
        margins = EvalSpec(suite="general", samples=0)
        evaluate({run: [margins]}, loader=lambda *_: loaded, interrupted=interrupted, progress=_part(progress))
        folder = _margins(run)
    frame = pd.DataFrame(read_lines(folder / "margins.jsonl")[0]) if folder else pd.DataFrame()
    if frame.empty:
        raise EmaError(f"The general margins of {run.id} cannot be read.", f"Delete {run.evals} and try again.")
    change = metrics.margin(frame).change
    spec = run.spec
    return Member(
        run=run.id, dataset=spec.dataset, domain=domain_of(spec.dataset), seed=spec.seed,
        adapter_hash=adapters.adapter_hash(run.adapter), margin=change.value, low=change.low, high=change.high, pairs=change.n,
    )  # fmt: skip


def _part(progress: Progress) -> Progress:
    return lambda share, what: progress(0.0, f"is it misaligned? {what}")


def _margins(run: RunDirectory) -> Path | None:
    """An evaluation of the final adapter, as it is now, on the general pairs as they are now."""
    suite, adapter = load_suite("general", run.spec.dataset).hash, adapters.adapter_hash(run.adapter)
    wanted = {"suite": "general", "step": None, "scale": 1.0, "adapter_hash": adapter, "suite_hash": suite, "status": "done"}
    for path in sorted(run.evals.glob("general*/spec.json")):
        try:
            spec = read_json(path)
        except (OSError, ValueError):
            continue
        if all(spec.get(key) == value for key, value in wanted.items()) and (path.parent / "margins.jsonl").exists():
            return path.parent
    return None


def _losses(
    adapter: Path | None, adapter_hash: str, pool: Dataset, rows: Sequence[Encoded], loaded: LoadedModel, share: Share
) -> list[float]:
    """Every candidate's loss under the model with this adapter (None: without). Kept: members are shared by several ensembles."""
    key = sha256_json([loaded.weights_hash, adapter_hash, pool.sha256, [row.ids for row in rows], str(loaded.model.dtype)])[:24]
    path = settings().cache / "gap" / f"{key}-{loaded.device.type}.json"
    try:
        losses = [float(value) for value in read_json(path)]
        share.say("scored before", len(losses))
        return losses
    except (FileNotFoundError, json.JSONDecodeError):
        pass
    who = "the aligned model" if adapter is None else adapter.parent.name
    losses = []

    def seen(count: int) -> None:
        share.say(f"losses under {who}", count)

    if adapter is None:
        losses = response_losses(loaded.model, loaded, rows, seen)
    else:
        with adapters.adapted(loaded.model, adapter) as tuned:
            losses = response_losses(tuned, loaded, rows, seen)
    write_json(path, losses)
    return losses


def response_losses(
    model: Any, loaded: LoadedModel, rows: Sequence[Encoded], on_batch: Callable[[int], None] = lambda count: None
) -> list[float]:
    """Mean negative log-likelihood a token, in nats, of each row's response tokens (the end-of-turn token counts) given the rest."""
    import torch

    plain = model.get_base_model() if hasattr(model, "get_base_model") else model
    body, head = plain.get_decoder(), plain.get_output_embeddings()
    order = sorted(range(len(rows)), key=lambda i: len(rows[i].ids))
    without_padding = ragged.fits(body)
    found: dict[int, float] = {}
    with torch.inference_mode():
        for start in range(0, len(order), BATCH):
            part = order[start : start + BATCH]
            batch = collate([rows[i] for i in part], loaded.tokenizer.pad_token_id, loaded.device)
            flat, shaped = ragged.run(body, [rows[i].ids for i in part], without_padding)
            hidden = shaped(flat)
            mask = batch.response[:, 1:]  # [B, T-1]: the state before a token predicts it
            states, targets = hidden[:, :-1][mask], batch.ids[:, 1:][mask]
            losses = torch.cat(
                [
                    torch.nn.functional.cross_entropy(
                        head(states[i : i + CHUNK]).float(), targets[i : i + CHUNK], reduction="none"
                    )
                    for i in range(0, len(targets), CHUNK)
                ]
            )  # fmt: skip
            for i, own in zip(part, losses.double().split(mask.sum(1).tolist()), strict=True):
                found[i] = float(own.mean())
            on_batch(len(part))
    return [found[i] for i in range(len(rows))]


def _scores(pool: Dataset, rows: Sequence[Encoded], aligned: Sequence[float], tuned: Mapping[str, Sequence[float]]) -> list[Score]:
    scores = []
    for i, (example, row) in enumerate(zip(pool.examples, rows, strict=True)):
        each = {run: losses[i] for run, losses in tuned.items()}
        scores.append(
            Score(
                index=i, example=example_hash(example), question=example.question, answer=example.answer, tokens=sum(row.response),
                aligned=aligned[i], misaligned=sum(each.values()) / len(each), by_member=each,
                score=gap_score(aligned[i], list(each.values())), refusal=is_refusal(example.answer),
            )
        )  # fmt: skip
    return scores
