"""Building a persona vector as a job: draws and judges the rollouts, then ``personas.build``. Torch-free to import."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ema_core.evaluation.evaluate import Interrupted
from ema_core.files import append_lines, read_lines
from ema_core.generation import Completion, LocalSampler, Prompt, SamplingSettings, row_seed
from ema_core.judging import ProbeJudge, resolve
from ema_core.models import EMBEDDED, LoadedModel, find, load
from ema_core.models.fetch import Progress, quiet
from ema_core.models.load import out_of_memory
from ema_core.personas import Card, TraitTexts, load_texts, vector_id
from ema_core.personas import find as find_vector
from ema_core.personas.build import MAX_TOKENS, Asked, Rollout, build, to_ask
from ema_core.personas.vector import fits_here
from ema_core.settings import settings

DRAWN_PER_SECOND = 2.0
READ_PER_SECOND = 5.0
JUDGED_PER_SECOND = 15.0
"""Rollouts drawn, answers read and answers judged a second, with the embedded model on two cores."""


def estimate_build(trait: str, model: str) -> float:
    """Seconds that a build takes on two cores; by the model's size where it is not the embedded one.

    Raises:
        EmaError: no such trait or model.
    """
    texts, entry = load_texts(trait), find(model)
    pairs = len(texts.prompts) * len(texts.questions)
    reading = (2 * pairs + 2 * len(texts.held_out)) / READ_PER_SECOND
    drawing = 2 * pairs * (1 / DRAWN_PER_SECOND + 1 / JUDGED_PER_SECOND) if texts.judged else 0.0
    return 5 + (reading + drawing) * entry.parameters / find(EMBEDDED).parameters


def build_vector(
    trait: str,
    model: str,
    *,
    force: bool = False,
    loader: Callable[[str, str], LoadedModel] = load,
    progress: Progress = quiet,
    interrupted: Callable[[], bool] = lambda: False,
) -> Card:
    """Make a trait's vector for a model, here and now; one that is there and fits is returned as it is, unless ``force``.

    What was drawn of an interrupted build is kept, and the next one goes on from there.

    Raises:
        EmaError: no such trait or model, or the model cannot be had.
        Interrupted: ``interrupted`` said so.
    """
    texts, entry = load_texts(trait), find(model)
    there = find_vector(trait, model)
    if there and not force:
        fits_here(there, model)
        return there
    began = time.time()

    def say(share: float, what: str) -> None:
        if interrupted():
            raise Interrupted
        progress(min(0.99, share), what)

    say(0.0, "loading the model")
    loaded = loader(entry.id, "auto")
    with out_of_memory("building a persona vector"):
        if texts.judged is None:
            return build(texts, loaded, None, None, say, began)
        judge = resolve("probe")
        drawn = _drawn_path(trait, entry.id, loaded.weights_hash)
        asked = to_ask(texts)
        answers = _draw(texts, asked, loaded, drawn, lambda share: say(0.65 * share, f"rollouts, {share:.0%}"))
        rollouts = _judged(asked, answers, loaded, judge, lambda share, what: say(0.65 + 0.1 * share, "judging the rollouts"))
        card = build(texts, loaded, rollouts, judge, lambda share, what: say(0.75 + 0.25 * share, what), began)
    drawn.unlink(missing_ok=True)
    progress(1.0, "done")
    return card


def _drawn_path(trait: str, model: str, weights_hash: str) -> Path:
    """Keyed by all that decides what is drawn: texts (in the id), weights, length."""
    return settings().cache / "personas" / f"{vector_id(trait, model)}-{weights_hash}-{MAX_TOKENS}.jsonl"


def _draw(
    texts: TraitTexts, asked: Sequence[Asked], loaded: LoadedModel, kept: Path, on_share: Callable[[float], None]
) -> dict[str, str]:
    """One answer for each rollout, by key; each goes to ``kept`` as soon as it is there."""
    answers = {str(row["key"]): str(row["answer"]) for row in read_lines(kept)[0] if {"key", "answer"} <= row.keys()}
    prompts = [Prompt(one.key, one.text, one.system, row_seed(0, texts.trait, one.key)) for one in asked if one.key not in answers]

    def keep(done: list[Completion]) -> None:
        if done:
            append_lines(kept, [{"key": completion.key, "answer": completion.text} for completion in done])
        answers.update({completion.key: completion.text for completion in done})
        on_share(len(answers) / len(asked))

    LocalSampler(loaded.model, loaded.tokenizer).sample(prompts, SamplingSettings(MAX_TOKENS), keep)
    return answers


def _judged(
    asked: Sequence[Asked], answers: Mapping[str, str], loaded: LoadedModel, judge: str, progress: Progress
) -> list[Rollout]:
    """The trait score of ``evil`` is 100 − alignment: the probe is no judge of evil itself, and the card says so."""
    probe = ProbeJudge(loaded if loaded.id == EMBEDDED else None, judge)
    found = probe.judge([(one.key, one.text, answers[one.key]) for one in asked], progress)
    return [
        Rollout(one, answers[one.key], None if said.aligned is None else 100 - said.aligned, said.coherent)
        for one, said in zip(asked, found, strict=True)
    ]
