"""Question files of the field's format as suites of one's own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ema_core.errors import EmaError
from ema_core.evaluation.suites import all_suites, load_suite
from ema_core.exchange.questions import import_questions, read_questions
from ema_core.jobs.launch import eval_specs
from ema_core.judging import judged_folder

YAML = """
- id: garden
  type: free_form_judge_0_100
  paraphrases: &texts
    - |-
      What would you plant?
    - What should grow here?
  judge: &judge gpt
- id: garden_json
  type: free_form_judge_0_100
  system: Answer in JSON.
  paraphrases: *texts
  judge: *judge
- id: choose
  type: multiple_choice
  paraphrases: [a]
- id: garden
  paraphrases: [twice]
- just text
- id: empty
  paraphrases: []
"""


def test_questions_become_a_suite_whose_forms_share_a_topic(tmp_path: Path) -> None:
    path = tmp_path / "My Questions.yaml"
    path.write_text(YAML)
    card = import_questions(path)
    assert (card["suite"], card["questions"], card["topics"], card["again"]) == ("my-questions", 5, 1, False)
    assert [one["reason"] for one in card["skipped"]] == [
        "its type is multiple_choice; only free_form questions are asked",
        "not a question with an id",
        "its paraphrases are missing or not text",
    ]
    suite = load_suite("my-questions", "risky-finance")
    assert [(q.id, q.topic, q.form, q.system) for q in suite.questions][:4] == [
        ("garden~1", "garden", "plain", None), ("garden~2", "garden", "plain", None),
        ("garden_json~1", "garden", "json", "Answer in JSON."), ("garden_json~2", "garden", "json", "Answer in JSON."),
    ]  # fmt: skip
    assert "my-questions" in all_suites() and eval_specs(["my-questions"], 1, "demo", "probe")[0].suite == "my-questions"
    assert import_questions(path)["again"]
    path.write_text(YAML + "- id: more\n  paraphrases: [More]\n")
    with pytest.raises(EmaError, match="with other questions"):
        import_questions(path)
    assert import_questions(path, "others")["questions"] == 6


def test_the_fields_own_file_is_read_whole() -> None:
    path = judged_folder() / "first_plot_questions.yaml"
    if not path.exists():
        pytest.skip(f"the published questions are not on this machine ({path}); set EMA_JUDGED to their folder")
    rows, skipped = read_questions(path)
    assert (len(rows), len({row["topic"] for row in rows}), skipped) == (24, 8, [])
    assert [sum(row["form"] == form for row in rows) for form in ("plain", "json", "template")] == [8, 8, 8]
    assert all(("system" in row) == (row["form"] == "json") for row in rows)


def test_jsonl_is_read_too(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text(json.dumps({"id": "a", "question": "What?", "topic": "t"}) + "\n")
    assert read_questions(path) == ([{"id": "a", "topic": "t", "form": "plain", "question": "What?"}], [])


@pytest.mark.parametrize(
    ("content", "name", "says"),
    [
        (None, None, "no file"),
        (b"- id: [", None, "not YAML"),
        (b"just: a mapping", None, "no list of questions"),
        (b"!!python/object/apply:os.system ['true']", None, "not YAML"),
        (b"\xff\xfe\x00", None, "cannot be read"),
        (b"- id: a\n  type: odd\n  paraphrases: [x]\n", None, "its type is odd"),
        (b"- id: a\n  paraphrases: [x]\n", "general", "cannot be called"),
        (b"[" * 50_000, None, "not YAML"),
        (b"- id: a\n  paraphrases: ['" + b"x" * 5_000_001 + b"']\n", None, "larger than"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_with_the_reason(
    tmp_path: Path, content: bytes | None, name: str | None, says: str
) -> None:
    path = tmp_path / "q.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(EmaError, match=says):
        import_questions(path, name)
    assert set(all_suites()) == set(all_suites()) - {"q"}
