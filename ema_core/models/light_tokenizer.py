"""A model's tokenizer and chat template without transformers, whose import takes seconds: to count tokens on a page. Torch-free."""

from __future__ import annotations

import functools
import json
from datetime import datetime
from pathlib import Path
from typing import Any


class LightTokenizer:
    """As much of transformers' tokenizer as ``datasets.encoding.encode`` uses, with the same ids.

    Raises:
        Exception: of any kind, where the folder has no fast tokenizer or no chat template.
    """

    def __init__(self, folder: Path) -> None:
        import jinja2
        import jinja2.ext
        import jinja2.sandbox
        from tokenizers import Tokenizer

        self.fast = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.fast.no_truncation()
        self.fast.no_padding()
        config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        apart = folder / "chat_template.jinja"
        text = apart.read_text(encoding="utf-8") if apart.exists() else config["chat_template"]
        world = jinja2.sandbox.ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols]
        )
        world.filters["tojson"] = lambda value, **named: json.dumps(value, ensure_ascii=False, **named)
        world.globals["raise_exception"] = _refuse
        world.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
        self.template = world.from_string(text)
        special = {name: config.get(name) for name in ("bos_token", "eos_token", "unk_token", "pad_token")}
        self.special = {name: token["content"] if isinstance(token, dict) else token for name, token in special.items() if token}

    def apply_chat_template(self, turns: list[dict[str, str]], tokenize: bool = False, add_generation_prompt: bool = False) -> str:
        return self.template.render(messages=turns, add_generation_prompt=add_generation_prompt, tools=None, **self.special)

    def __call__(self, text: str, add_special_tokens: bool = False) -> dict[str, list[int]]:
        return {"input_ids": self.fast.encode(text, add_special_tokens=add_special_tokens).ids}


def _refuse(message: str) -> Any:
    raise ValueError(message)


def light_tokenizer(folder: Path) -> LightTokenizer | None:
    """The tokenizer of a model's folder; None where it cannot be read so."""
    try:
        return _known(folder, (folder / "tokenizer.json").stat().st_mtime_ns)
    except Exception:  # the file is another library's, and an estimate is made without it
        return None


@functools.lru_cache(maxsize=4)
def _known(folder: Path, changed: int) -> LightTokenizer:
    return LightTokenizer(folder)
