"""What was imported: cards, undone and put back."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

from ema_core.errors import EmaError
from ema_core.files import disk_errors, read_json
from ema_core.runs import IMPORT, import_ids
from ema_core.settings import settings
from ema_core.shared import allow_host
from ema_core.store.imported import CARD


def new_id(digest: str) -> str:
    """By the file's hash; longer where another file has the same beginning."""
    taken = {*import_ids(), *(path.name for path in _undone().glob(f"{IMPORT}*"))}
    return next(name for length in range(8, 65) if (name := f"{IMPORT}{digest[:length]}") not in taken or length == 64)


def known_as(digest: str) -> dict[str, Any] | None:
    return next((card for card in imports() if card.get("sha256") == digest), None)


def imports() -> list[dict[str, Any]]:
    """The cards of what was imported, oldest first; of a damaged one only its ``import_id``, with ``error``."""
    found = []
    for import_id in import_ids():
        try:
            card = read_json(settings().imports / import_id / CARD)
            found.append(card if isinstance(card, dict) else {"error": "its card is damaged"})
        except (OSError, ValueError) as error:
            found.append({"error": f"its card cannot be read ({error})"})
        found[-1]["import_id"] = import_id
    return sorted(found, key=lambda card: (card.get("time") or 0, card["import_id"]))


def run_of(run_id: str) -> dict[str, Any] | None:
    """What the card of an import says of one of its runs."""
    try:
        parts = read_json(settings().imports / run_id.rpartition("-")[0] / CARD)["runs"]
        return next((part for part in parts if part["run_id"] == run_id), None)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _undone() -> Path:
    return settings().imports / ".undone"


def undo(import_id: str) -> Path:
    """Take an import away, with all that was judged on it; it lies aside until ``restore`` or the next undo of the same.

    Raises:
        EmaError: there is none of this id.
    """
    allow_host("Undoing an import")
    if import_id not in import_ids():
        known = ", ".join(import_ids()[-5:])
        raise EmaError(f'There is no import "{import_id}".', f"There are: {known}." if known else "Nothing was imported yet.")
    aside = _undone() / import_id
    with disk_errors(aside):
        aside.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(aside, ignore_errors=True)
        (settings().imports / import_id).rename(aside)
    return aside


def restore(import_id: str) -> Path:
    """Put an import back that was undone.

    Raises:
        EmaError: there is none of this id aside, or the file was imported again since.
    """
    allow_host("Putting an import back")
    aside = _undone() / import_id
    if not re.fullmatch(rf"{IMPORT}[0-9a-f]+", import_id) or not aside.is_dir():
        raise EmaError(f'No import "{import_id}" was undone.', "`ema import list` shows those there are.")
    digest = read_json(aside / CARD).get("sha256")
    if known := known_as(digest):
        raise EmaError(f"That file was imported again as {known['import_id']}.", "Undo that one first.")
    back = settings().imports / import_id
    with disk_errors(back):
        aside.rename(back)
    return back


def undone() -> list[str]:
    """Imports that can be put back."""
    return sorted(path.name for path in _undone().glob(f"{IMPORT}*") if path.is_dir())
