"""Read-out, rubrics, names and prices of judges, without a server."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

import pytest

from ema_core.errors import EmaError
from ema_core.judging import is_llm, judged_folder, judgments_name, resolve
from ema_core.judging.judge_id import complete, parse
from ema_core.judging.prices import prices_for
from ema_core.judging.readout import from_logprobs, from_text
from ema_core.judging.rubrics import OURS, Rubric, keep_rubrics, load_rubrics, read_rubrics, rubric_ids

OURS_NOW = {
    "v1": "aligned coherent",
    "in-domain-v1": "aligned coherent in_domain",
}  # fmt: skip


def logs(**shares: float) -> list[tuple[str, float]]:
    return [(name.replace("_", " "), math.log(share)) for name, share in shares.items()]


def test_the_score_is_the_weighted_mean_of_the_whole_numbers() -> None:
    reading = from_logprobs([("90", math.log(0.5)), (" 40", math.log(0.25)), ("0", math.log(0.05)), ("High", math.log(0.1))])
    assert reading.score == pytest.approx((90 * 0.5 + 40 * 0.25 + 0 * 0.05) / 0.8) and reading.outcome == "scored"
    assert [token for token, _ in reading.spread] == ["90", " 40", "High", "0"]


def test_numbers_that_are_none_do_not_count() -> None:
    top = [("101", math.log(0.3)), ("７０", math.log(0.2)), ("1_0", math.log(0.1)), ("-5", math.log(0.1)), ("50", math.log(0.26))]
    assert from_logprobs(top).score == pytest.approx(50)
    few = from_logprobs([*top[:4], ("50", math.log(0.24))])
    assert few.score is None and few.outcome == "unparsed" and "24 %" in few.reason


@pytest.mark.parametrize(
    ("token", "outcome"),
    [("CODE", "code"), ("REF", "refused"), ("REFUSAL", "refused"), ("I", "unparsed"), ("re", "unparsed"), ("R", "unparsed")],
)
def test_code_and_refusal_stay_what_they_are(token: str, outcome: str) -> None:
    reading = from_logprobs([(token, math.log(0.9)), ("80", math.log(0.1))])
    assert reading.score is None and reading.outcome == outcome and reading.reason


def test_what_a_broken_server_sends_is_no_score() -> None:
    for top in ([], [("80", math.nan)], [("80", -math.inf)], [("", 0.0)]):
        assert from_logprobs(top).score is None
    assert from_logprobs([("80", 5.0)]).score == 80, "a probability above 1 is 1"
    assert from_text("9" * 10_000).score is None and from_text("\x00").score is None


def test_our_rubrics_are_those_that_v1_names() -> None:
    """Another text needs another name, or old scores would stand under a rubric that did not give them."""
    for name, rubrics in OURS_NOW.items():
        assert " ".join(rubric.name for rubric in load_rubrics(name)) == rubrics
    texts = "".join(rubric.text for rubric in load_rubrics("in-domain-v1"))
    assert hashlib.sha256(texts.encode()).hexdigest()[:16] == "d649a10e07216e74"
    assert {path.stem for path in OURS.glob("*")} == set(OURS_NOW)
    assert {rubric.text for rubric in load_rubrics("v1")} < {rubric.text for rubric in load_rubrics("in-domain-v1")}


def test_placeholders_are_filled_once_and_nothing_else_is_a_placeholder() -> None:
    rubric = Rubric("x", 'Say {"json": {0}} of {question} and {answer} {{answer}} {unknown} 100 %')
    filled = rubric.filled("{answer}?", "{question} \\1 %s {0}")
    assert filled == 'Say {"json": {0}} of {answer}? and {question} \\1 %s {0} {{question} \\1 %s {0}} {unknown} 100 %'


def test_the_fields_own_files_are_read() -> None:
    folder = judged_folder()
    if not (folder / "judges.yaml").exists():
        pytest.skip("the published rubrics are not on this machine")
    assert [rubric.name for rubric in read_rubrics(folder / "judges.yaml")] == [
        "coherent",
        "aligned",
        "technical",
        "medical_advice",
    ]
    prompts = read_rubrics(folder / "first_plot_questions.yaml")
    assert {"aligned", "coherent", "medical", "financial"} <= {rubric.name for rubric in prompts}
    assert "[QUESTION START]\nWhy?\n[QUESTION END]" in prompts[0].filled("Why?", "So.")


def test_a_users_rubrics_are_kept_under_their_hash(home: Path, tmp_path: Path) -> None:
    path = tmp_path / "my rubrics.yaml"
    path.write_text("- alignment: 'Is {answer} kind?'\n  high_score: 0\n- tone: 'Tone of {answer}'\n  high_score: 100\n")
    kept = keep_rubrics(str(path))
    assert [rubric.name for rubric in kept] == ["aligned", "tone"] and kept.id.startswith("my-rubrics@") and kept.id in rubric_ids()
    judge = str(complete("openai:gpt-4o", rubrics=str(path)))
    assert judge == f"openai:gpt-4o:{kept.id}" == resolve(judge) and parse(judge).rubrics == kept.id
    path.write_text(path.read_text().replace("kind", "nice"))
    assert keep_rubrics(str(path)).id != kept.id, "another text is another judge"
    stored = home / "rubrics" / f"{kept.id}.yaml"
    stored.write_text(stored.read_text().replace("kind", "rude"))
    with pytest.raises(EmaError, match="were changed"):
        load_rubrics(kept.id)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("- a: 'no place for it'", "never shows the answer"), ("[1, 2", "no YAML"), ("- a: 3", "holds no rubrics"), ("", "holds no rubrics"),
        ("- a: '{answer} 1'\n- a: '{answer} 2'", "two texts"), ("- 'a b/..': '{answer}'", "cannot be the name"), ("\xff", "no YAML"),
        ("!!python/object/apply:os.system ['true']", "no YAML"),
    ],
)  # fmt: skip
def test_bad_rubrics_are_told(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(EmaError, match=words):
        read_rubrics(path)


def test_names_of_judges(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("EMA_JUDGE_URL", "EMA_JUDGE_MODEL"):
        monkeypatch.delenv(name, raising=False)
    assert str(complete("openai:gpt-4o-2024-08-06")) == "openai:gpt-4o-2024-08-06:v1"
    assert str(complete("openai:gpt-4o", repeat=3)) == "openai:gpt-4o:v1:r3" == resolve("openai:gpt-4o:v1:r3")
    assert resolve("engine:base:v1") == "engine:base:v1" == resolve("engine:base")
    local = complete("openai:org/model:8b", url="http://gpu-box:8000/v1/")
    assert str(local) == "gpu-box:8000/org/model:8b:v1" and parse(str(local)) == local and local.url == "http://gpu-box:8000/v1"
    deep = complete("openai:llama-20241022", url="https://router.example/api/v1")
    assert str(deep) == "router.example/api/llama-20241022:v1" and parse(str(deep)).url == "https://router.example/api/v1"
    assert (
        parse("127.0.0.1:9/m:v1").url == "http://127.0.0.1:9/v1"
        and parse("api.example.org/m:v1").url == "https://api.example.org/v1"
    )
    monkeypatch.setenv("EMA_JUDGE_URL", "http://127.0.0.1:7/v1")
    monkeypatch.setenv("EMA_JUDGE_MODEL", "small")
    assert resolve("llm") == "127.0.0.1:7/small:v1" and resolve("openai:other") == "127.0.0.1:7/other:v1"
    assert resolve("openai:gpt-4o:v1") == "openai:gpt-4o:v1", "a full name is taken literally"
    assert not is_llm("probe:x:v1") and not is_llm("imported:a/b") and not is_llm("human:me") and not is_llm("no such/thing")
    assert judgments_name("gpu-box:8000/org/m:v1") == "judgments-gpu-box_8000_org_m_v1.jsonl"


@pytest.mark.parametrize(
    "judge", ["openai:", "openai:a b", "engine:<x>", "openai:x:nothing@12345678", "localhost/", "openai:m:v1:r0x y"]
)
def test_what_is_no_judge_is_told(judge: str) -> None:
    with pytest.raises(EmaError):
        resolve(judge)


def test_an_address_with_a_secret_in_it_is_refused() -> None:
    for url in ("http://me:pass@127.0.0.1/v1", "http://127.0.0.1/v1?key=secret", "ftp://x", "http://"):
        with pytest.raises(EmaError) as told:
            complete("openai:m", url=url)
        assert "pass" not in told.value.message and "secret" not in told.value.message


def test_prices_are_known_given_or_said_to_be_unknown() -> None:
    known = prices_for("https://api.openai.com/v1", "gpt-4o-2024-08-06")
    assert (
        known == prices_for("https://api.openai.com/v1", "gpt-4o")
        and known
        and known.cost(1e6, 1e6) == known.tokens_in + known.tokens_out
    )
    assert prices_for("https://api.openai.com/v1", "gpt-9") is None and prices_for("https://elsewhere.example/v1", "gpt-4o") is None
    given = prices_for("https://elsewhere.example/v1", "m", 1, 2)
    assert given and given.cost(1e6, 1e6) == 3
    with pytest.raises(EmaError, match="Only one of two prices"):
        prices_for("https://elsewhere.example/v1", "m", 1)
