"""The rows that ``make bench`` writes: what is measured, which file measures it, and what it should reach."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Direction = Literal["higher", "lower", "faster", "at most"]
"""``higher``: ours / peer is to be at least the target (both are speeds); ``lower``: at most. ``faster``: peer / ours at least (both are
times). ``at most``: ours itself (a time, or a cost that is a ratio already)."""


@dataclass(frozen=True)
class Target:
    """A row. ``target`` None: reported beside another row, without one. ``quick``: measured by ``make bench-quick`` too.

    ``missed``: why the target was missed when it last was; shown only where it is.
    """

    name: str
    topic: str
    direction: Direction
    target: float | None
    quick: bool = True
    missed: str = ""


SFT = "LoRA SFT tokens/s, embedded model, same batches, same final loss to 1e-3"
SFT_HF = f"{SFT} · HF Trainer + PEFT"
KL = "cost of `kl` over plain SFT, all tokens, one run"
KL_SWEEP = "the same in a sweep of five strengths on the same data, per run"
KL_ALL, KL_RESPONSE = f"{KL_SWEEP} · all tokens", f"{KL_SWEEP} · response tokens"
LDIFS = "cost of `ldifs` in a sweep"
LIVE = "live probes and streaming events"
LIVE_PROBES, LIVE_EVENTS = f"{LIVE} · with probes", f"{LIVE} · events alone"
SAMPLING = "evaluation sampling: 4 adapters × 8 questions × 16 answers, up to 128 tokens, tokens/s"
CHAT = "side-by-side chat, 4 models: time to first token of the slowest, tokens/s together"
CHAT_FIRST, CHAT_RATE = f"{CHAT} · time to first token", f"{CHAT} · tokens/s"
JUDGING = "judging 1,000 answers with the probe judge"
VECTORS = "SafeLoRA, gap scores, persona vector on the embedded model"
SAFE_LORA, GAP, PERSONA = f"{VECTORS} · SafeLoRA", f"{VECTORS} · gap scores", f"{VECTORS} · persona vector"
LAUNCH = "launch to first loss point with a warm worker"
LAUNCH_FIRST, LAUNCH_AGAIN = f"{LAUNCH} · first time", f"{LAUNCH} · second time on the same model and data"
STORE = "filter, facets, one page of judged rows at 550 k"
STORE_MEMORY, STORE_CSV = f"{STORE} · pandas in memory", f"{STORE} · read_csv and filter each time"
STORE_SLOWEST, STORE_IMPORT = f"{STORE} · slowest of them", f"{STORE} · import"
SEARCH = "full-text search at 550 k"
SEARCH_DUCKDB, SEARCH_SLOWEST = f"{SEARCH} · DuckDB ILIKE scan", f"{SEARCH} · slowest of them"
PAGE = "a page with 100 and with 1,000 runs × 1,000 steps opens (browser, warm)"
PAGE_100, PAGE_1000, PAGE_TICK = f"{PAGE} · 100 runs", f"{PAGE} · 1,000 runs", f"{PAGE} · share of the events read at a tick"

TARGETS: tuple[Target, ...] = (
    Target(SFT, "training", "higher", 1.5),
    Target(SFT_HF, "training", "higher", None),
    Target(
        KL,
        "training",
        "at most",
        1.4,
        missed="The reference's forward pass alone is 0.45 of a plain step (each sequence by itself, so that what is made again is the same to the bit), the head on all positions for both another 0.2. The naive way costs as much in its first run; what is kept pays from the second on. Against a plain step a third slower, as it was before, it would be 1.4.",
    ),
    Target(
        KL_ALL,
        "training",
        "at most",
        1.2,
        quick=False,
        missed="A fifth of the first run's reference pass, 0.09, and the head on all positions for both models, about 0.2, beside plain steps that became faster. The parts swing by 0.2 from run to run on a shared machine.",
    ),
    Target(
        KL_RESPONSE,
        "training",
        "at most",
        1.05,
        quick=False,
        missed="A fifth of the first run's reference pass is 0.09 already; with the states kept a run costs about 1.05.",
    ),
    Target(
        LDIFS,
        "training",
        "at most",
        1.1,
        quick=False,
        missed="A fifth of the first run's reference pass is 0.09 already; with the features kept a run costs about 1.0.",
    ),
    Target(LIVE_PROBES, "training", "at most", 1.10, quick=False),
    Target(LIVE_EVENTS, "training", "at most", 1.02, quick=False),
    Target(SAMPLING, "sampling", "higher", 3),
    Target(CHAT_FIRST, "chat", "faster", 2),
    Target(
        CHAT_RATE,
        "chat",
        "higher",
        2,
        missed="A single row's products already read all weights at the memory's bandwidth; four adapters add 160 MB to read a token to 540 MB.",
    ),
    Target(
        JUDGING,
        "judging",
        "higher",
        5,
        missed="Both do the same products for the answer's tokens, near the machine's peak; what ours saves is the question read once, six layers of thirty, and the head.",
    ),
    Target(SAFE_LORA, "vectors", "faster", 3),
    Target(
        GAP,
        "vectors",
        "faster",
        3,
        missed="Both do the same products for the same tokens; ours saves the head on prompts, the common beginning of a batch, and the small products of single rows.",
    ),
    Target(
        PERSONA,
        "vectors",
        "faster",
        3,
        missed="As gap scores: the same products for the same tokens, less what rows begin with alike.",
    ),
    Target(LAUNCH_FIRST, "launch", "at most", 10, quick=False),
    Target(LAUNCH_AGAIN, "launch", "at most", 3, quick=False),
    Target(
        STORE_MEMORY,
        "store",
        "faster",
        1,
        missed="pandas answers from columns in memory and shows nothing; ours also sorts, counts every facet and reads the page's texts from disk.",
    ),
    Target(STORE_CSV, "store", "faster", 5),
    Target(STORE_SLOWEST, "store", "at most", 0.3),
    Target(STORE_IMPORT, "store", "faster", None),
    Target(SEARCH_DUCKDB, "search", "faster", 5),
    Target(SEARCH_SLOWEST, "search", "at most", 0.3),
    Target(
        PAGE_100,
        "pages",
        "at most",
        1.5,
        missed="Most of it is the browser drawing figures and tables of Compare.",
    ),
    Target(PAGE_1000, "pages", "at most", 3, quick=False),
    Target(PAGE_TICK, "pages", "at most", 0.01, quick=False),
)
TOPICS: tuple[str, ...] = tuple(dict.fromkeys(target.topic for target in TARGETS))
