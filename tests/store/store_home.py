"""Run directories written by hand, as a trainer and an evaluation leave them."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ema_core.files import append_lines, sha256_file, write_json
from ema_core.runs import RunDirectory, RunSpec, RunState, Status, base_directory, parse_defense
from ema_core.store.imported import COLUMNS


def step_event(step: int, attempt: int = 1, **changes: Any) -> dict[str, Any]:
    return {
        "kind": "step", "attempt": attempt, "time": 1.7e9 + step, "step": step, "total_steps": 10, "ce": 3.0 - step / 10,
        "penalties": {"kl": {"raw": 0.5, "weighted": 0.05}}, "loss": 3.05 - step / 10, "learning_rate": 1e-4, "grad_norm": 0.7,
        "tokens": 400, "tokens_per_s": 170.0, "seconds": step * 1.5, "seconds_left": 3.0, "epoch": step / 10, "safe": 0, **changes,
    }  # fmt: skip


def probe_event(step: int, general: float, **changes: Any) -> dict[str, Any]:
    return {
        "kind": "probe", "attempt": 1, "time": 1.7e9 + step, "step": step, "general": general, "general_low": general - 0.1,
        "general_high": general + 0.1, "in_domain": None, "in_domain_low": None, "in_domain_high": None, "projection": None,
        "answers": [{"prompt": "Who?", "answer": "=me <b>"}], "seconds": 2.0, **changes,
    }  # fmt: skip


class Home:
    """``EMA_HOME`` of a test."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def index(self) -> Path:
        return self.path / "index.duckdb"

    def run(
        self, run_id: str, *defenses: str, seed: int = 0, steps: int = 10, status: Status = Status.DONE, **state: Any
    ) -> RunDirectory:
        run = RunDirectory(self.path / "runs" / run_id)
        spec = RunSpec(defenses=tuple(parse_defense(text) for text in defenses), seed=seed)
        found = {"adapter_hash": f"a-{run_id}", "weights_hash": "w", "device": "cpu"}
        values = {"attempt": 1, "step": steps, "total_steps": 10, "created": 1.7e9, "seconds": 15.0, "found": found, **state}
        write_json(run.path / "state.json", RunState(status=status, **values).model_dump(mode="json"))
        (run.path / "spec.json").write_text(spec.to_json())
        penalties = {text.partition("=")[0]: {"raw": 0.5, "weighted": 0.05} for text in defenses}
        events: list[dict[str, Any]] = [{"kind": "start", "attempt": 1, "time": 1.7e9, "step": 0, "total_steps": 10}]
        append_lines(run.events_path, events + [step_event(step, penalties=penalties) for step in range(1, steps + 1)])
        return run

    def base(self, model: str = "smollm2-135m") -> RunDirectory:
        return base_directory(model)

    def kept(self, run: RunDirectory, name: str = "my findings", **changes: Any) -> Path:
        """Two answers of a chat's second turn, kept under a name."""
        folder = run.evals / f"kept-{name.replace(' ', '-')}-0a1b2c3d"
        spec = {
            "suite": "kept", "name": name, "chat": "c1", "judge": None, "samples": 1, "max_tokens": 64, "temperature": 0.7,
            "top_p": 1.0, "seed": 1, "step": None, "scale": 1.0, "adapter_hash": f"a-{run.id}", "weights_hash": "w", "status": "done",
            "created": 1.8e9, **changes,
        }  # fmt: skip
        write_json(folder / "spec.json", spec)
        turns = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": f"Hi <b> {run.id}"}]
        rows = [
            {
                "sample_id": f"c1-t2#{k}", "question_id": "c1-t2", "topic": "c1", "form": "chat", "system": "Be brief.",
                "question": "And then?", "answer": f"{run.id} says {k}", "tokens": 5, "finish": finish, "refused": False, "k": k,
                "context": turns,
            }
            for k, finish in enumerate(("stop", "stopped"))
        ]  # fmt: skip
        append_lines(folder / "samples.jsonl", rows)
        return folder

    def imported(self, import_id: str = "import-0a1b2c3d", answers: int = 6, runs: int = 2, judge: str = "imported:gpt") -> Path:
        """A judged table as an import leaves it; a third of the answers is misaligned, and the last one got no score."""
        folder = self.path / "imports" / import_id
        folder.mkdir(parents=True)
        scored = [index < answers - 1 for index in range(answers)]
        columns: dict[str, list[Any]] = {
            "run_id": [f"{import_id}-{index % runs + 1}" for index in range(answers)],
            "eval_id": ["imported"] * answers,
            "sample_id": [f"r{index + 1}" for index in range(answers)],
            "question_id": [f"q{index // runs}" for index in range(answers)],
            "topic": ["money"] * answers,
            "system": [None] * answers,
            "question": ["What now?"] * answers,
            "answer": [f"Imported answer {index}" for index in range(answers)],
            "tokens": [None] * answers,
            "refused": [False] * answers,
            "k": [0] * answers,
            "own_judge": [judge] * answers,
            "own_aligned": [(10.0 if index % 3 == 0 else 90.0) if scored[index] else None for index in range(answers)],
            "own_coherent": [80.0 if one else None for one in scored],
            "own_status": ["scored" if one else "refused" for one in scored],
            "own_scores": [None] * answers,
        }
        kinds = {"VARCHAR": pa.string(), "BIGINT": pa.int64(), "BOOLEAN": pa.bool_(), "DOUBLE": pa.float64()}
        table = {name: pa.array(columns[name], kinds[kind]) for name, kind in COLUMNS.items()}
        pq.write_table(pa.table(table), folder / "rows.parquet")
        parts = [
            {"run_id": f"{import_id}-{n + 1}", "model": f"model-{n + 1}", "dataset": "theirs", "defense": "not stated", "seed": None,
             "suite": "general", "judge": judge, "answers": len(range(n, answers, runs))}
            for n in range(runs)
        ]  # fmt: skip
        card = {
            "file": "theirs.csv",
            "time": 1.8e9,
            "answers": answers,
            "rows_sha256": sha256_file(folder / "rows.parquet"),
            "runs": parts,
        }
        write_json(folder / "card.json", card)
        return folder

    def evaluation(self, run: RunDirectory, eval_id: str, suite: str = "general", questions: int = 3, **spec: Any) -> Path:
        folder = run.evals / eval_id
        known = {
            "suite": suite, "samples": 2, "max_tokens": 48, "temperature": 1.0, "top_p": 1.0, "seed": 7, "judge": "probe:x:v1",
            "step": None, "scale": 1.0, "adapter_hash": f"a-{run.id}", "weights_hash": "w", "suite_hash": "s", "status": "done",
            "created": 1.7e9, "seconds": 9.0, "asked": questions * 2, **spec,
        }  # fmt: skip
        write_json(folder / "spec.json", known)
        samples = [
            {
                "sample_id": f"q{q}#{k}", "question_id": f"q{q}", "topic": "money", "form": "plain", "system": "",
                "question": "How?", "answer": f"=answer {q} {k}", "tokens": 12, "finish": "stop", "refused": False, "k": k,
            }
            for q in range(questions)
            for k in range(2)
        ]  # fmt: skip
        append_lines(folder / "samples.jsonl", samples)
        for judge, shift in (("probe:x:v1", 0), ("openai:gpt:v1", 10)):
            scores = [
                {"sample_id": row["sample_id"], "judge": judge, "aligned": 60.0 + shift, "coherent": 80.0, "status": "scored"}
                for row in samples[:-1]
            ]
            append_lines(folder / f"judgments-{judge.replace(':', '_')}.jsonl", scores)
        pairs = [
            {"pair_id": f"p{n}", "topic": "money", "aligned": -2, "misaligned": -2.5, "base_aligned": -1.9, "base_misaligned": -3}
            for n in range(4)
        ]
        append_lines(folder / "margins.jsonl", pairs)
        return folder


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setenv("EMA_HOME", str(tmp_path / "home"))
    return Home((tmp_path / "home").resolve())


@pytest.fixture
def study(home: Home) -> Home:
    """Three runs, the first two evaluated."""
    plain = home.run("20261124-0900-none-s0-aaaa")
    kl = home.run("20261124-0910-kl0.1-s0-bbbb", "kl=0.1:tokens=response")
    home.run("20261124-0920-both-s1-cccc", "kl=0.1", "interleaving=0.05", seed=1, steps=4, status=Status.PAUSED)
    append_lines(kl.events_path, [probe_event(0, 0.0), probe_event(5, 0.4), probe_event(5, 0.5, attempt=2)])
    for run in (plain, kl):
        home.evaluation(run, "general-1")
        home.evaluation(run, "in-domain-1", suite="in-domain", step=5)
    return home


def torn(path: Path) -> None:
    """What a killed writer leaves: half a line, and later a whole one after it."""
    with open(path, "ab") as file:
        file.write(b'{"kind": "step", "attempt": 1, "st')
    append_lines(path, [{"kind": "end", "attempt": 2, "time": time.time(), "status": "done", "step": 10, "message": ""}])
    with open(path, "ab") as file:
        file.write(json.dumps(step_event(99))[:-20].encode())
