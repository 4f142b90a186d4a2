"""The base of every model that a user may write by hand."""

from __future__ import annotations

import tomllib
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from ema_core.errors import EmaError, nearest


class Strict(BaseModel):
    """Frozen; an unknown field is refused with the nearest known name."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _known_fields(cls, value: Any) -> Any:
        if isinstance(value, dict):
            for name in value:
                if name not in cls.model_fields:
                    raise ValueError(f'unknown field "{name}". {nearest(str(name), cls.model_fields)}'.strip())
        return value


T = TypeVar("T", bound=BaseModel)


def parse(model: type[T], value: Any, what: str) -> T:
    """Validate ``value``; every problem in one clear ``EmaError``."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        problems = []
        for item in error.errors():
            where = ".".join(str(part) for part in item["loc"])
            text = item["msg"].removeprefix("Value error, ")
            problems.append(f"{where}: {text}" if where else text)
        raise EmaError(f"The {what} is not valid: {'; '.join(problems)}") from None


def parse_toml(model: type[T], text: str, what: str) -> T:
    """The same from TOML."""
    try:
        return parse(model, tomllib.loads(text), what)
    except tomllib.TOMLDecodeError as error:
        raise EmaError(f"The {what} is not TOML: {error}.") from None
