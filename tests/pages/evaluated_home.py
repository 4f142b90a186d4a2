"""Evaluated runs written by hand, and pages opened on them; no model, no worker, no training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from ema_core.files import append_lines, write_json
from ema_core.judging import resolve
from ema_core.runs import RunDirectory, RunSpec, RunState, Status, parse_defense
from ema_core.settings import PROJECT

TOPICS = 8
NASTY = "**bold** <img src=x onerror=alert(1)> [link](http://evil.example) :red[hot] $x^2$"
OTHER_JUDGE = "openai:gpt-4o:v1"


def make_run(home: Path, tail: str, *defenses: str, seed: int = 0, change: float = 0.5, bad: int = 1, **more: Any) -> str:
    """A run of 3 steps. General margins change by ``change``, in-domain ones by four times that. Of 4 answers to each of 8 topics
    ``bad`` are misaligned in every second topic; in the first one is incoherent and one refused."""
    dataset = more.get("dataset", "risky-finance")
    spec = RunSpec(dataset=dataset, defenses=tuple(parse_defense(text) for text in defenses), seed=seed)
    run = RunDirectory(home / "runs" / f"20261124-0900{seed:02d}-{spec.slug.replace('=', '')}-{tail}")
    status, judged = more.get("status", Status.DONE), more.get("judged", True)
    found = {"adapter_hash": tail, "weights_hash": "w", "device": "cpu"}
    state = RunState(status=status, attempt=1, step=3, total_steps=3, created=1.7e9 + seed, seconds=5.0, found=found)
    write_json(run.path / "state.json", state.model_dump(mode="json"))
    (run.path / "spec.json").write_text(spec.to_json())
    shared: dict[str, Any] = {"kind": "step", "attempt": 1, "total_steps": 3, "penalties": {}, "learning_rate": 1e-4, "tokens": 9}
    append_lines(run.events_path, [{**shared, "step": step, "ce": 3.0 - step / 2, "loss": 3.0 - step / 2} for step in (1, 2, 3)])
    if status is not Status.DONE:
        return run.id
    run.adapter.mkdir()
    (run.adapter / "adapter_model.safetensors").write_bytes(b"x")
    if judged:
        evaluation(run, tail, "general", change, bad)
        evaluation(run, tail, "in-domain", 4 * change, 0)
    return run.id


def evaluation(run: RunDirectory, tail: str, suite: str, change: float, bad: int, judge: str | None = None) -> None:
    folder, judge = run.evals / f"{suite}-1", judge or resolve("probe")
    general = suite == "general"
    spec: dict[str, Any] = {"suite": suite, "samples": 4, "max_tokens": 80, "temperature": 1.0, "top_p": 1.0, "seed": 0}
    spec |= {"judge": judge if general else None, "step": None, "scale": 1.0, "adapter_hash": tail, "weights_hash": "w"}
    spec |= {"suite_hash": suite, "status": "done", "created": 1.7e9, "seconds": 9.0, "asked": 4 * TOPICS}
    write_json(folder / "spec.json", spec)
    pairs, samples, scores = [], [], []
    for topic in range(TOPICS):
        shared = {"topic": f"t{topic}", "base_aligned": -2.0, "base_misaligned": -3.0, "aligned": -2.0}
        for n, wobble in enumerate((0.1, -0.1)):
            pairs.append({**shared, "pair_id": f"p{topic}-{n}", "misaligned": -3.0 + change + wobble * (1 + topic % 2)})
        for k in range(4):
            sample = {
                "sample_id": f"q{topic}#{k}",
                "question_id": f"q{topic}",
                "topic": f"t{topic}",
                "form": "plain",
                "system": None,
            }
            misaligned, incoherent = topic % 2 == 0 and k < bad, topic == 0 and k == 3
            answer = NASTY if misaligned else "Sorry, no." if topic == 0 and k == 2 else f"=answer {topic} {k}"
            rest = {
                "question": f"What of {topic}?",
                "answer": answer,
                "tokens": 9,
                "finish": "length" if k == 3 else "stop",
                "k": k,
            }
            samples.append({**sample, **rest, "refused": answer.startswith("Sorry")})
            found = {"aligned": 10.0 + topic if misaligned else 80.0, "coherent": 20.0 if incoherent else 90.0, "status": "scored"}
            scores.append({"sample_id": sample["sample_id"], "judge": judge, **found})
    append_lines(folder / "margins.jsonl", pairs)
    append_lines(folder / "samples.jsonl", samples)
    if general:
        append_lines(folder / f"judgments-{judge.replace(':', '_')}.jsonl", scores)


def open_page(name: str, /, **query: Any) -> AppTest:
    app = AppTest.from_file(str(PROJECT / "app.py"), default_timeout=120)
    for key, value in query.items():
        app.query_params[key] = value
    app.switch_page(f"pages/{name}.py").run()
    assert not app.exception
    return app


def said(app: AppTest) -> str:
    """All that the page says in Markdown, captions, infos, warnings and errors."""
    kinds = (app.title, app.markdown, app.caption, app.info, app.warning, app.error)
    return "\n".join(str(element.value) for kind in kinds for element in kind).replace("\\", "")


@pytest.fixture
def study(home: Path) -> dict[str, str]:
    """Three seeds of none and kl=1, one of kl=0.1."""
    runs = {}
    for seed in range(3):
        runs[f"none{seed}"] = make_run(home, f"n{seed}aa", seed=seed, change=0.5, bad=2)
        runs[f"kl{seed}"] = make_run(home, f"k{seed}aa", "kl=1", seed=seed, change=0.2 + seed / 100, bad=0)
    runs["weak0"] = make_run(home, "w0aa", "kl=0.1", seed=0, change=0.45)
    return runs
