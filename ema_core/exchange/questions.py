"""Question files in the field's YAML format (or JSONL) as suites of one's own."""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from pathlib import Path
from typing import Any

from ema_core.errors import EmaError
from ema_core.evaluation.suites import KEPT, SUITES
from ema_core.files import sha256_file, write_atomic, write_json
from ema_core.settings import settings, writable
from ema_core.shared import allow

MAX_BYTES = 5_000_000
MAX_QUESTIONS = 2000
_FORMS = ("json", "template")


def import_questions(path: Path, name: str | None = None) -> dict[str, Any]:
    """Keep the questions of a file as the suite ``name`` (the file's by default); returns its card.

    Raises:
        EmaError: it cannot be read, holds no question, or its name is taken by other questions.
    """
    allow()
    slug = re.sub(r"[^a-z0-9]+", "-", (name or path.stem).lower()).strip("-")[:40]
    if not slug or slug in SUITES or slug == KEPT:
        raise EmaError(f'A suite of your own cannot be called "{slug}".', "Choose another --name.")
    rows, skipped = read_questions(path)
    if not rows:
        why = f" {skipped[0]['question']}: {skipped[0]['reason']}." if skipped else ""
        raise EmaError(
            f"{path} holds no question.{why}", "Each needs an id and paraphrases (or question), as the field writes them."
        )
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    target = writable(settings().suites) / f"{slug}.jsonl"
    again = target.exists() and target.read_text(encoding="utf-8") == text
    if target.exists() and not again:
        raise EmaError(f'There is a suite "{slug}" with other questions.', "Choose another --name, or remove it with its file.")
    card = {
        "suite": slug, "file": path.name, "sha256": sha256_file(path), "time": time.time(), "questions": len(rows),
        "topics": len({row["topic"] for row in rows}), "skipped": skipped,
    }  # fmt: skip
    if not again:
        write_atomic(target, text)
        write_json(target.with_suffix(".json"), card)
    return {**card, "again": again}


def read_questions(path: Path) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    """The questions as a suite's rows, and what was left out and why.

    Raises:
        EmaError: it is missing, too large, or not a list of questions.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise EmaError(
                f"{path} is larger than {MAX_BYTES // 1_000_000} MB.", "A file of questions is a list of some hundred at most."
            )
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise EmaError(f"There is no file {path}.", "Name a YAML or JSONL file of questions.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise EmaError(f"{path} cannot be read ({error}).", "Save it as UTF-8.") from None
    values = _jsonl(text, path) if path.suffix.lower() in (".jsonl", ".ndjson") else _yaml(text, path)
    rows: list[dict[str, Any]] = []
    skipped: list[dict[str, str]] = []
    seen: Counter[str] = Counter()
    for number, value in enumerate(values, 1):
        label = str(value.get("id", f"entry {number}"))[:100] if isinstance(value, dict) else f"entry {number}"
        try:
            found = _rows_of(value)
        except ValueError as error:
            skipped.append({"question": label, "reason": str(error)})
            continue
        if seen[found[0]["id"]] or len(rows) + len(found) > MAX_QUESTIONS:
            reason = "this id was there before" if seen[found[0]["id"]] else f"{MAX_QUESTIONS:,} questions are the most"
            skipped.append({"question": label, "reason": reason})
            continue
        seen.update(row["id"] for row in found)
        rows += found
    return rows, skipped


def _jsonl(text: str, path: Path) -> list[Any]:
    try:
        return [json.loads(line) for line in text.splitlines() if line.strip()]
    except (ValueError, RecursionError) as error:
        raise EmaError(f"{path} is not JSONL ({error}).", "Write one question a line.") from None


def _yaml(text: str, path: Path) -> list[Any]:
    import yaml

    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise EmaError(
            f"{path} is not YAML ({' '.join(str(error).split())[:200]}).", "Mend it, or write one JSON object a line."
        ) from None
    if isinstance(value, dict) and isinstance(value.get("questions"), list):
        value = value["questions"]
    if not isinstance(value, list):
        raise EmaError(f"{path} is no list of questions.", "Each entry begins with `- id:` and has `paraphrases:`.")
    return value


def _rows_of(value: Any) -> list[dict[str, Any]]:
    """A question's rows, one a paraphrase. Raises ValueError with the reason."""
    if not isinstance(value, dict):
        raise ValueError("not a question with an id")
    name, kind, system = value.get("id"), value.get("type", "free_form"), value.get("system")
    if not isinstance(name, str) or not re.fullmatch(r"[\w .:+-]{1,100}", name):
        raise ValueError("its id is missing or not a short name")
    if not str(kind).startswith("free_form"):
        raise ValueError(f"its type is {str(kind)[:40]}; only free_form questions are asked")
    texts = value.get("paraphrases", value.get("question"))
    texts = [texts] if isinstance(texts, str) else texts
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) and text.strip() for text in texts):
        raise ValueError("its paraphrases are missing or not text")
    if system is not None and not isinstance(system, str):
        raise ValueError("its system prompt is not text")
    if any("\0" in text or len(text) > 20_000 for text in (*texts, system or "")):
        raise ValueError("a text holds a NUL or is longer than 20,000 characters")
    topic = value.get("topic") if isinstance(value.get("topic"), str) else re.sub(r"_(json|template)$", "", name)
    form = next((form for form in _FORMS if name.endswith(f"_{form}")), "plain")
    rows = [{"id": name if len(texts) == 1 else f"{name}~{n}", "topic": topic, "form": form, "question": text.strip()}
            for n, text in enumerate(texts, 1)]  # fmt: skip
    return [row | ({"system": system} if system else {}) for row in rows]
