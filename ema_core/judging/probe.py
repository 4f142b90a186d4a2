"""The probe judge: scores by a small head on the pristine embedded model's hidden state; no key, no network."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ema_core.errors import EmaError, nearest
from ema_core.judging.features import answer_features, cached_features
from ema_core.judging.head import CARD, load_head, read_card
from ema_core.judging.judge_id import FORMS, complete, is_llm
from ema_core.judging.judgment import Item, Judgment, Progress, quiet
from ema_core.settings import DATA, settings

if TYPE_CHECKING:
    from ema_core.models import LoadedModel

ALIAS = "probe"
SHIPPED = DATA / "judges" / "probe"


def known_judges() -> dict[str, Path]:
    """Full judge ids that can be used here, with their folders: the shipped head first, then those shipped before it, then those
    under ``EMA_HOME/judges``.

    Raises:
        EmaError: the shipped head's card is missing or damaged. A damaged one of the user's is passed over.
    """
    found = {str(read_card(SHIPPED)["judge"]): SHIPPED}
    for path in sorted(SHIPPED.parent.glob(f"*/{CARD}")) + sorted((settings().home / "judges").glob(f"*/{CARD}")):
        with contextlib.suppress(EmaError):
            found.setdefault(str(read_card(path.parent)["judge"]), path.parent)
    return found


def resolve(judge: str) -> str:
    """The full id of a judge that can be asked; ``probe`` stands for the shipped head, a language model's name is completed.

    Raises:
        EmaError: there is no such judge; the message has the nearest name.
    """
    if judge == ALIAS:
        return str(read_card(SHIPPED)["judge"])
    if is_llm(judge):
        return str(complete(judge))
    known = known_judges()
    if judge not in known:
        raise EmaError(f'There is no judge "{judge}".', f"{nearest(judge, [ALIAS, *known])} A language model is {FORMS}.")
    return judge


def read_name(judge: str) -> str:
    """The full id of a judge whose scores are read: people and imported tables are judges, too, though nobody can ask them.

    Raises:
        EmaError: as ``resolve``.
    """
    return judge if judge.startswith(("human:", "imported:")) else resolve(judge)


class ProbeJudge:
    """A head together with the model that it reads.

    Args:
        loaded: the pristine embedded model, shared with whoever holds it. Left out, it is loaded here; so it is where the
            shared one is in half precision (on CUDA), because the head's scores belong to float32.
        judge: the alias or a full id.
        keep: keep what the model reads on disk, for a table that is judged again and again.

    Raises:
        EmaError: no such judge, or the model is not the one that the head was fitted on.
    """

    alias = ALIAS

    def __init__(self, loaded: LoadedModel | None = None, judge: str = ALIAS, keep: bool = False) -> None:
        from ema_core.models import choose_device, load

        self.id = resolve(judge)
        self.head = load_head(SHIPPED if judge == ALIAS else known_judges()[self.id])
        model = str(self.head.card["model"])
        if loaded is None or (loaded.id == model and str(loaded.model.dtype) != "torch.float32"):
            device = loaded.device if loaded is not None else choose_device()
            whole = load(model, device="cpu", dtype="float32")
            loaded = replace(whole, model=whole.model.to(device), device=whole.model.device)
        if loaded.weights_hash != self.head.card["weights_hash"]:
            raise EmaError(
                f"The judge {self.id} was fitted on {model} with weights {self.head.card['weights_hash']}; "
                f"{loaded.id} here has {loaded.weights_hash}.",
                "Make a head for this model with `ema judge fit`.",
            )
        self._loaded = loaded
        self._read = cached_features if keep else answer_features

    def judge(self, items: Sequence[Item], progress: Progress = quiet) -> list[Judgment]:
        """A judgment for each item, in order. An answer without a word in it is ``unparsed`` and has no score."""
        if not items:
            return []
        features = self._read(self._loaded, [(question, answer) for _, question, answer in items], self.head.layers, progress)
        scores = self.head.scores(features)
        return [self._judgment(sample_id, row) for (sample_id, _, _), row in zip(items, scores, strict=True)]

    def _judgment(self, sample_id: str, scores: np.ndarray) -> Judgment:
        if np.isnan(scores).any():
            return Judgment(sample_id, self.id, None, None, "unparsed")
        return Judgment(sample_id, self.id, round(float(scores[0]), 3), round(float(scores[1]), 3), "scored")
