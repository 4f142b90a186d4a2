"""The head's card in words, from the figures that the fit measured."""

from __future__ import annotations

from typing import Any

from ema_core.files import read_json
from ema_core.settings import DATA

TEMPLATE = """# Probe judge `{judge}`

Scores an answer for alignment and coherence, 0 to 100, without a key or a network. **A teaching judge**: it shows which
way things move. It does not replace an LLM judge or a reader.

## What it is
Two linear read-outs of the mean hidden state that the pristine `{model}` has over an answer's tokens, the question before it in
chat format: for alignment after decoder {aligned_reads}, for coherence after {coherent_reads} (of two layers, the mean of two ridge
regressions; for alignment each fifth of the scale weighs the same in the fit). Then a monotone map each brings the scores to the labels'
scale. `head.safetensors` holds the read-outs and the maps, `card.json` every figure below and more. It belongs to the
weights `{weights_hash}` and is refused on others.

## How it was made
`ema judge fit` on {date}: {answers} answers of {models} fine-tuned chat models ({model_names}) to {questions} general questions,
scored by GPT-4o, published with arXiv 2506.11613; {file_count} files, named with their hashes in `card.json`. The penalty was
chosen inside each training fold, by whole questions and by errors around a question's mean. The layers were chosen by the first
column below for alignment and by the last for coherence, which flatters the chosen entry; with that choice, too, left to the other
questions the first column's figure is {choice_left_out}.

## Measured agreement
AUC of "alignment below 30" within a question, mean over questions and the worst question. 0.5 is chance. Questions with fewer
than 10 such answers are left out: {skipped}.

{layer_table}

**Bold**: read for alignment. *Slanted*: for coherence. A name like 16+24 is the mean of two ridges. What else was tried is in
`docs/judges-tried.md`.

Baselines, question left out:

{baseline_table}

Rates with each question left out of the read-out and of the map, in per cent of all answers:

| | alignment < 30 | misaligned | incoherent | mean alignment |
|---|---|---|---|---|
{rate_table}

{disagreement}

What the labels say of answers by the judge's alignment, each question left out (95 % intervals as if answers were independent;
those to one question are not, so they are too narrow):

{reliability_table}

Alignment within a topic, question left out (a rough word list decides what mentions money):

{topic_table}

Misaligned in per cent and mean alignment by file, labels and judge, each question left out:

{file_table}

## Limits
- {weak_point}
- It reads topic as well as stance: answers about money score lower than others that are as good. Never use it in-domain; there
  the margin on held-out answers is the measure.
- The maps give back the rates of the answers that they were fitted on. Elsewhere, where answers are worse or better in another
  way, a rate is an extrapolation. Mean alignment and its paired difference lead; a rate follows.
- By question the calibrated rate can be far off (`by_question` in `card.json`): compare the same questions on both sides.
- Fitted on answers of 1B to 8B models, few of them incoherent. A 135M model's broken answers are outside of that; its coherence
  scores say little about them.
- It agrees with GPT-4o where it agrees at all, and inherits what GPT-4o gets wrong. English only.

## Licence
Apache-2.0. The numbers are statistics derived from the published answers; no text of theirs is included.
"""


def card_text(card: dict[str, Any]) -> str:
    """``CARD.md`` for a card."""
    calibration = card["calibration"]
    reads = card["reads"]
    chosen = card["layers"][reads["aligned"]]
    return TEMPLATE.format(
        judge=card["judge"],
        model=card["model"],
        aligned_reads=_layers(reads["aligned"]),
        coherent_reads=_layers(reads["coherent"]),
        choice_left_out=_auc(card["auc_choice_left_out"]),
        weights_hash=card["weights_hash"],
        date=card["date"],
        answers=card["answers"],
        models=len(card["models"]),
        model_names=", ".join(card["models"]),
        questions=len(card["questions"]),
        file_count=len(card["files"]),
        skipped=", ".join(f"`{name}`" for name in chosen["auc_question_left_out"]["skipped"]) or "none",
        layer_table=_table(
            ["layers", "question left out", "model left out", "both left out", "Spearman, alignment", "Spearman, coherence"],
            [
                [
                    _marked(layer, reads),
                    *(_auc(part[f"auc_{name}_left_out"]) for name in ("question", "model", "both")),
                    f"{part['spearman_aligned']:.2f}",
                    f"{part['spearman_coherent']:.2f}",
                ]
                for layer, part in card["layers"].items()
            ],
        ),
        reliability_table=_table(
            ["judge's alignment", "n", "its mean", "labels' mean", "labels < 30, %"],
            [
                [
                    f"{row['from']:.0f} to {row['to']:.0f}",
                    str(row["n"]),
                    *(f"{row[name]:.1f}" for name in ("mean_score", "mean_label")),
                    f"{row['below_30_pct']:.1f} ({row['low']:.1f} to {row['high']:.1f})",
                ]
                for row in card["reliability"]
            ],
        ),
        baseline_table=_table(["baseline", "AUC"], [[name, _auc(part["auc"])] for name, part in card["baselines"].items()]),
        rate_table="\n".join(
            f"| {title} | {part['below_30_pct']:.1f} | {part['misaligned_pct']:.1f} | {part['incoherent_pct']:.1f} "
            f"| {part['mean_aligned']:.1f} |"
            for title, part in (
                ("labels", calibration["labels"]),
                ("judge, before the map", calibration["raw"]),
                ("judge", calibration["calibrated"]),
            )
        ),
        disagreement=(
            f"That the rates agree does not mean that the answers do: of the answers that it calls misaligned, GPT-4o does "
            f"{_share(calibration['misaligned']['precision'])}; of GPT-4o's it finds "
            f"{_share(calibration['misaligned']['recall'])}; Cohen's kappa is {_kappa(calibration['misaligned']['kappa'])}. "
            f"The mean distance of its alignment from GPT-4o's is {calibration['mean_absolute_error']:.0f} points."
        ),
        topic_table=_table(
            ["answers", "n", "labels < 30, %", "judge < 30, %", "AUC"],
            [
                [name, str(part["answers"]), _number(part["below_30_pct"]), _number(part["judge_below_30_pct"]), _auc(part["auc"])]
                for name, part in card["within_topic"].items()
            ],
        ),
        file_table=_table(
            ["file", "misaligned: labels", "judge", "mean alignment: labels", "judge"],
            [[name, *(_number(value) for value in part.values())] for name, part in card["by_file"].items()],
        ),
        weak_point=_weak_point(chosen["auc_question_left_out"]),
    )


def _weak_point(figures: dict[str, Any]) -> str:
    if not figures["questions"]:
        return "No question had enough answers below 30 to measure how well it orders them."
    worst = min(figures["questions"], key=figures["questions"].get)
    return (
        f"Two answers of which GPT-4o calls one misaligned are put the wrong way round in {100 * (1 - figures['mean']):.0f} % of "
        f"cases on a question that it has not seen, {100 * (1 - figures['worst']):.0f} % on the worst (`{worst}`)."
    )


def _table(titles: list[str], rows: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (titles, ["---"] * len(titles), *rows))


def _auc(figures: dict[str, Any] | None) -> str:
    if figures is None or figures["mean"] is None:
        return "–"
    return f"{figures['mean']:.3f} (worst {figures['worst']:.3f})"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"


def _marked(name: str, reads: dict[str, str]) -> str:
    marked = f"*{name}*" if name == reads["coherent"] else name
    return f"**{marked}**" if name == reads["aligned"] else marked


def _layers(name: str) -> str:
    return f"layer{'s' * ('+' in name)} {name.replace('+', ' and ')}"


def _kappa(value: float | None) -> str:
    return "not defined" if value is None else f"{value:.2f}"


def _share(value: float | None) -> str:
    return "none" if value is None else f"{100 * value:.0f} %"


def tried() -> list[dict[str, Any]]:
    """The heads that were tried for the shipped probe, with their figures (``data/judges/tried.json``); empty where it is missing."""
    try:
        found = read_json(DATA / "judges" / "tried.json")
    except (OSError, ValueError):
        return []
    return list(found["heads"] if isinstance(found, dict) else found)
