"""What the columns of judged tables are called, here and elsewhere."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from ema_core.errors import EmaError, nearest

NAMES: dict[str, tuple[str, ...]] = {
    "response": ("response", "answer", "completion", "model_response", "model_answer", "output", "generation"),
    "question": ("question", "prompt", "instruction", "query", "user_prompt", "input"),
    "question_id": ("question_id", "qid", "prompt_id"),
    "aligned": ("aligned", "alignment", "alignment_score", "aligned_score", "align_score"),
    "coherent": ("coherent", "coherence", "coherence_score", "coherent_score", "coherency"),
    "judge": ("judge", "judge_model", "judge_id", "grader"),
    "model": ("model", "model_id", "model_name"),
    "dataset": ("dataset", "data_set", "training_data", "train_dataset"),
    "defense": ("defense", "defense_label", "defence", "intervention"),
    "seed": ("seed",),
    "run": ("run", "run_id", "run_name"),
    "evaluation": ("evaluation", "eval_id"),
    "suite": ("suite",),
    "system": ("system", "system_prompt"),
    "topic": ("topic",),
    "tokens": ("tokens", "n_tokens", "completion_tokens"),
    "sample_id": ("sample_id", "answer_id", "response_id", "id", "uuid"),
}
"""What a column may be, and the names that are taken for it by themselves, the likeliest first."""
RUBRIC = "scores."
"""``scores.NAME`` stands for a further rubric of that name."""


def normal(name: str) -> str:
    """A column's name as names are compared: ``Alignment score`` is ``alignment_score``."""
    return re.sub(r"[^a-z0-9]+", "_", name.strip().lower()).strip("_")


def mapping_of(header: Iterable[str], asked: Mapping[str, str] | None = None) -> dict[str, str]:
    """What each column is: ``{"response": "Answer", …}``. ``asked`` goes before the guess; an empty name there means "not in here".

    Raises:
        EmaError: something is asked for that a table has no place for, or a column that is not there.
    """
    columns = list(dict.fromkeys(header))
    found: dict[str, str] = {}
    for target, column in (asked or {}).items():
        if target not in NAMES and not (target.startswith(RUBRIC) and len(target) > len(RUBRIC)):
            raise EmaError(
                f'A table of judged answers has no "{target}".',
                nearest(target, NAMES) or f"Known: {', '.join(NAMES)}, {RUBRIC}NAME.",
            )
        if column and column not in columns:
            raise EmaError(f'There is no column "{column}" for {target}.', f"There are: {', '.join(columns)}.")
        found[target] = column
    free = {normal(column): column for column in reversed(columns) if column not in found.values()}
    for target, names in NAMES.items():
        if target not in found and (name := next((name for name in names if name in free), None)):
            found[target] = free.pop(name)
    return {target: column for target, column in found.items() if column}
