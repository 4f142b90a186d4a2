"""Logs for Inspect, read by inspect_ai itself."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "store"))
from store_home import Home

from ema_core.errors import EmaError
from ema_core.exchange.inspect_log import export_logs
from ema_core.files import append_lines
from ema_core.judging import own, resolve

log_file = pytest.importorskip("inspect_ai.log", reason="inspect_ai is not installed (requirements-dev.txt)")
RUN = "20261124-0910-kl0.1-s0-bbbb"


@pytest.fixture
def filled(home: Path) -> Home:
    found = Home(home)
    run = found.run(RUN, "kl=0.1:tokens=response")
    found.evaluation(run, "general-1", questions=6)
    found.evaluation(run, "in-domain-1", suite="in-domain", step=5)
    found.imported(answers=30, runs=1)
    return found


def test_inspects_own_reader_opens_a_log_with_scores_and_metadata_in_place(filled: Home, tmp_path: Path) -> None:
    (written,) = export_logs([RUN], tmp_path / "log.json", ["general"])
    log = log_file.read_eval_log(written["file"])
    assert (log.version, log.status, log.eval.task, log.eval.model) == (2, "success", "ema/general", f"smollm2-135m/{RUN}")
    assert log.eval.metadata["defense_label"] == "kl=0.1:tokens=response" and log.eval.metadata["adapter_hash"] == f"a-{RUN}"
    assert log.eval.metadata["seed"] == 0 and log.eval.model_generate_config.max_tokens == 48
    assert len(log.samples) == 12 and {(s.id, s.epoch) for s in log.samples} == {(f"q{q}", k) for q in range(6) for k in (1, 2)}
    sample = log.samples[0]
    assert sample.input == "How?" and sample.output.completion == "=answer 0 0" and sample.metadata["topic"] == "money"
    assert set(sample.scores) == {"probe:x:v1", "openai:gpt:v1"}
    score = sample.scores["openai:gpt:v1"]
    assert score.value == {"alignment": 70.0, "coherence": 80.0, "verdict": "aligned"} and "70.0" in score.explanation
    assert sample.metadata["suite"] == "general" and sample.output.usage.output_tokens == 12
    results = {(s.scorer, s.name): s for s in log.results.scores}
    assert results["probe:x:v1", "alignment"].metrics["mean"].value == 60.0
    assert results["probe:x:v1", "alignment"].metrics["mean"].metadata["n"] == 11
    verdict = results["probe:x:v1", "verdict"]
    assert not verdict.metrics and "has not scored the labelled answers" in verdict.metadata["not_shown"]["misaligned"]
    assert verdict.metadata["counts_as_judged"] == {"misaligned": 0, "incoherent": 0, "scored": 11}
    assert (results["probe:x:v1", "alignment"].scored_samples, results["probe:x:v1", "alignment"].unscored_samples) == (11, 1)
    again = log_file.read_eval_log(written["file"], header_only=True)
    assert again.eval.scorers[0].name == "openai:gpt:v1"


def test_a_rate_of_the_embedded_model_is_corrected_and_what_a_judge_said_of_an_answer_is_kept(home: Home, tmp_path: Path) -> None:
    filled, probe = Home(home), resolve("probe")
    run = filled.run(RUN)
    for suite in ("general", "in-domain"):
        folder = filled.evaluation(run, f"{suite}-1", suite=suite, questions=30)
        scores = [
            {"sample_id": f"q{q}#{k}", "aligned": 10.0, "coherent": 90.0, "status": "scored"} for q in range(30) for k in (0, 1)
        ]
        no_score = {"aligned": None, "coherent": None, "status": "unparsed", "reason": "it wrote a poem"}
        for row in (more := [{"readout": "logprobs", "spread": {"alignment": [["10", 1.0]]}} | row for row in scores]):
            row["judge"] = probe
        more[-1] |= no_score
        append_lines(folder / "judgments-probe.jsonl", more)
    found = {}
    for suite in ("general", "in-domain"):
        (written,) = export_logs([RUN], tmp_path / f"{suite}.json", [suite])
        found[suite] = log_file.read_eval_log(written["file"])
    verdict = {
        suite: next(s for s in log.results.scores if (s.scorer, s.name) == (probe, "verdict")) for suite, log in found.items()
    }
    labelled = own.correction(probe, "misaligned")
    shown = verdict["general"].metrics["misaligned"].value
    assert shown == pytest.approx(1 + min(0, (labelled["label"] - labelled["predicted"]).mean())) and shown < 1
    assert not verdict["in-domain"].metrics and verdict["in-domain"].metadata["counts_as_judged"]["misaligned"] == 59
    told = {(sample.id, sample.epoch): sample.scores[probe] for sample in found["general"].samples}
    assert told["q0", 1].metadata["readout"] == "logprobs" and told["q0", 1].metadata["spread"] == {"alignment": [["10", 1]]}
    assert "no score: it wrote a poem" in told["q29", 2].explanation and told["q29", 2].metadata["reason"] == "it wrote a poem"


def test_imported_answers_and_words_without_a_score(filled: Home, tmp_path: Path) -> None:
    (written,) = export_logs(["import-0a1b2c3d-1"], tmp_path / "log.json")
    log = log_file.read_eval_log(written["file"])
    values = [sample.scores["imported:gpt"].value for sample in log.samples]
    assert [value["verdict"] for value in values].count("misaligned") == 10
    assert [value for value in values if value["verdict"] == "refused"] == [
        {"alignment": None, "coherence": None, "verdict": "refused"}
    ]
    verdict = next(score for score in log.results.scores if score.name == "verdict")
    assert verdict.metrics["misaligned"].value == pytest.approx(10 / 29)


def test_several_evaluations_are_one_log_or_a_folder_of_them(filled: Home, tmp_path: Path, ema) -> None:
    one = json.loads(
        ema("export", "inspect", RUN, "import-0a1b2c3d-1", "--out", str(tmp_path / "all.json"), "--json", check=True).stdout
    )
    log = log_file.read_eval_log(one["logs"][0]["file"])
    assert len(log.samples) == 12 + 6 + 30 and len({(s.id, s.epoch) for s in log.samples}) == 48
    assert len(log.eval.metadata["evaluations"]) == 3
    apart = export_logs([RUN], tmp_path / "logs")
    assert len(apart) == 2 and len(log_file.list_eval_logs(str(tmp_path / "logs"), formats=["json"])) == 2
    pd = pytest.importorskip("inspect_ai.analysis")
    frame = pd.samples_df(str(tmp_path / "logs"), quiet=True)
    assert len(frame) == 18


def test_what_has_no_answers_is_refused(filled: Home, tmp_path: Path) -> None:
    with pytest.raises(EmaError, match="sampled answers on jailbreak-lite"):
        export_logs([RUN], tmp_path / "log.json", ["jailbreak-lite"])
    with pytest.raises(EmaError, match="no run"):
        export_logs(["nowhere"], tmp_path / "log.json")
