"""The project's vocabulary: RunSpec, Setting, run state, the run directory."""

from ema_core.runs.changes import Change, differences
from ema_core.runs.directory import (
    BASE,
    IMPORT,
    RunDirectory,
    answering_ids,
    base_directory,
    import_ids,
    new_run_id,
    origin_of,
    probes,
    run_ids,
    steps,
)
from ema_core.runs.label import Label, read_label, tags_of, write_label
from ema_core.runs.spec import (
    PRESETS,
    DefenseSpec,
    Probes,
    Recipe,
    RunSpec,
    Setting,
    options_text,
    parse_defense,
    parse_probes,
    recipe,
)
from ema_core.runs.state import RunState, Status
from ema_core.runs.strict import Strict, parse
from ema_core.runs.study import MANY_RUNS, StudyEvaluation, StudySpec

__all__ = [
    "BASE",
    "IMPORT",
    "MANY_RUNS",
    "PRESETS",
    "Change",
    "DefenseSpec",
    "Label",
    "Probes",
    "Recipe",
    "RunDirectory",
    "RunSpec",
    "RunState",
    "Setting",
    "Status",
    "Strict",
    "StudyEvaluation",
    "StudySpec",
    "answering_ids",
    "base_directory",
    "differences",
    "import_ids",
    "new_run_id",
    "options_text",
    "origin_of",
    "parse",
    "parse_defense",
    "parse_probes",
    "probes",
    "read_label",
    "recipe",
    "run_ids",
    "steps",
    "tags_of",
    "write_label",
]
