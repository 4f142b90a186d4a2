"""Writes docs/reference/ and the facts of each page in docs/defenses/ from the code: ``python scripts/reference.py [--check]``.

``--check`` writes nothing and fails where a file is not as it would be written; a test calls it.
"""

from __future__ import annotations

import argparse
import re
import sys
import types
import typing
from pathlib import Path
from typing import Any

from pydantic import BaseModel

PROJECT = Path(__file__).resolve().parent.parent
REFERENCE, PAGES = PROJECT / "docs" / "reference", PROJECT / "docs" / "defenses"
BEGIN, END = "<!-- facts: written by scripts/reference.py -->", "<!-- end of facts -->"
MADE = "*Written by `scripts/reference.py` from the code; do not edit.*"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    old = []
    for path, text in pages().items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            old.append(str(path.relative_to(PROJECT)))
            if not check:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8")
    for name in old:
        print(f"{'differs' if check else 'written'}: {name}")
    if check and old:
        sys.exit("Run `make reference`.")


def pages() -> dict[Path, str]:
    """Every written file with its text."""
    from ema_core.defenses.registry import all_defenses

    found = {REFERENCE / "spec.md": spec(), REFERENCE / "cli.md": commands(), REFERENCE / "schema.md": schema()}
    for name, kind in all_defenses().items():
        page = PAGES / f"{name}.md"
        if not page.exists():
            continue
        text = page.read_text(encoding="utf-8")
        if text.count(BEGIN) != 1 or text.count(END) != 1:
            sys.exit(f"docs/defenses/{name}.md needs one line {BEGIN} and one {END}.")
        before, rest = text.split(BEGIN)
        found[page] = f"{before}{BEGIN}\n{facts(kind)}\n{END}{rest.split(END)[1]}"
    return found


def spec() -> str:
    """The fields of what a user can write as TOML."""
    from ema_core.runs import DefenseSpec, Probes, Recipe, RunSpec
    from ema_core.runs.study import StudyEvaluation, StudySpec

    parts = [
        "# Specs", MADE,
        "A run is a `RunSpec`, a study a `StudySpec`; both are TOML files (`ema train --spec FILE`, `ema study run FILE`) or JSON. A field that is not known is refused.",
    ]  # fmt: skip
    for model in (RunSpec, Recipe, DefenseSpec, Probes, StudySpec, StudyEvaluation):
        parts += [f"## {model.__name__}", _doc(model), _fields(model)]
    return "\n\n".join(parts) + "\n"


def _doc(model: type) -> str:
    return re.sub(r"``([^`]*)``", r"`\1`", re.sub(r"\s*\n\s+", " ", (model.__doc__ or "").strip()))


def _fields(model: type[BaseModel]) -> str:
    rows = ["| field | type | default | bounds |", "|---|---|---|---|"]
    for name, field in model.model_fields.items():
        bounds = ", ".join(_bound(one) for one in field.metadata if _bound(one))
        if field.is_required():
            default = "required"
        else:
            value = field.get_default(call_default_factory=True)
            default = f"see {type(value).__name__}" if isinstance(value, BaseModel) else f"`{_cell(repr(value))}`"
        described = f" {field.description}" if field.description else ""
        rows.append(f"| `{name}` | {_cell(_type(field.annotation))} | {default} | {bounds}{described} |")
    return "\n".join(rows)


def _bound(one: Any) -> str:
    for sign, name in (("≥", "ge"), (">", "gt"), ("≤", "le"), ("<", "lt")):
        if (value := getattr(one, name, None)) is not None:
            return f"{sign} {value:,}"
    return ""


def _type(annotation: Any) -> str:
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return ", ".join(f"`{part}`" for part in parts)
    if origin in (typing.Union, types.UnionType):
        return " or ".join("none" if part is type(None) else _type(part) for part in parts)
    if origin is tuple:
        return f"list of {_type(parts[0])}"
    if origin is dict:
        return "table"
    return getattr(annotation, "__name__", str(annotation))


def commands() -> str:
    """Every command with its options, as ``--help`` has them."""
    from typer import Context
    from typer.cli import get_docs_for_click
    from typer.main import get_command

    from ema_core.cli.main import app

    command = get_command(app)
    text = get_docs_for_click(obj=command, ctx=Context(command, info_name="ema"), name="ema", title="The command `ema`")
    title, rest = text.split("\n", 1)
    return f"{title}\n\n{MADE}\n{rest.rstrip()}\n"


def schema() -> str:
    """The tables of the index."""
    sql = (PROJECT / "ema_core" / "store" / "schema.sql").read_text(encoding="utf-8").strip()
    return (
        f"# The index\n\n{MADE}\n\n`EMA_HOME/index.duckdb` is made from the files ([architecture](../architecture.md) has them) and may be "
        f"deleted at any time; `ema index` makes it again. The app only reads it, so `duckdb -readonly index.duckdb` may, too.\n\n```sql\n{sql}\n```\n"
    )


def facts(kind: Any) -> str:
    """Strength, options, needs and price of a defense."""
    info = kind.strength_info
    paper = "none of its own" if info.paper is None else f"{info.paper:g}"
    rows = [
        ("name", f"`{kind.name}`"), ("source", kind.reference), ("what it does", kind.summary), ("strength", info.meaning),
        ("default, the paper's", f"{info.default:g}, {paper}"), ("sweep", ", ".join(f"{value:g}" for value in info.grid)),
        ("time", kind.cost.time), ("memory", kind.cost.memory), ("needs first", kind.cost.assets), ("how it fails", kind.fails),
        ("refused with", "; ".join(f"`{name}` ({why})" for name, why in sorted(kind.refuses.items())) or "nothing"),
    ]  # fmt: skip
    table = ["| | |", "|---|---|", *(f"| {name} | {_cell(text)} |" for name, text in rows)]
    if kind.options_type.model_fields:
        table += ["", _fields(kind.options_type)]
    return "\n".join(table)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    main()
