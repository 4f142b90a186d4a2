"""Finding defenses by name: our files, and other packages' through the entry-point group ``ema.defenses``."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import TypeVar

import ema_core.defenses as package
from ema_core.defenses.base import Asset, Defense
from ema_core.errors import EmaError, nearest
from ema_core.runs import DefenseSpec, RunSpec, parse

D = TypeVar("D", bound=type[Defense])
_registry: dict[str, type[Defense]] = {}


def register(defense: D) -> D:
    """Class decorator: makes a defense known by its ``name``."""
    _registry[defense.name] = defense
    return defense


@cache
def _discover() -> None:
    for module in pkgutil.iter_modules(package.__path__):
        with _named(f"{package.__name__}.{module.name}"):
            importlib.import_module(f"{package.__name__}.{module.name}")
    for point in entry_points(group="ema.defenses"):
        with _named(point.value):
            point.load()


@contextmanager
def _named(module: str) -> Iterator[None]:
    """A defense that cannot be imported is named, with its own error."""
    try:
        yield
    except Exception as error:
        raise EmaError(
            f"The defense in {module} cannot be imported ({type(error).__name__}: {error}).", "Mend that file, or take it away."
        ) from error


def all_defenses() -> dict[str, type[Defense]]:
    """Every defense by name."""
    _discover()
    return dict(sorted(_registry.items()))


def find(name: str) -> type[Defense]:
    """A defense by name.

    Raises:
        EmaError: no such defense.
    """
    known = all_defenses()
    if name not in known:
        raise EmaError(f'There is no defense "{name}".', nearest(name, known))
    return known[name]


def build(spec: DefenseSpec, seed: int) -> Defense:
    """A defense ready for a run.

    Raises:
        EmaError: unknown name or option, or a strength beyond what makes sense.
    """
    kind = find(spec.name)
    if spec.strength > kind.strength_info.limit:
        raise EmaError(
            f"The strength {spec.strength:g} of {spec.name} is beyond {kind.strength_info.limit:g}.",
            f"It means: {kind.strength_info.meaning}. Usual values: {', '.join(f'{v:g}' for v in kind.strength_info.grid)}.",
        )
    return kind(spec.strength, parse(kind.options_type, spec.options, f"options of {spec.name}"), seed)


def build_all(spec: RunSpec, provisional: bool = False) -> list[Defense]:
    """The run's defenses, in their order; ``provisional``: for an estimate, where assets may be missing.

    Raises:
        EmaError: one is not valid, or two cannot be combined.
    """
    defenses = [build(defense, spec.seed) for defense in spec.defenses]
    names = {defense.name for defense in defenses}
    for defense in defenses:
        defense.spec = spec
        defense.provisional = provisional and not all(asset.ready for asset in defense.assets())
    for defense in defenses:
        for other, reason in defense.refuses.items():
            if other in names:
                raise EmaError(f"{defense.name} cannot be combined with {other}: {reason}.", "Leave one of them out.")
    return defenses


def missing_assets(defenses: Sequence[Defense]) -> list[Asset]:
    """What is not there yet of what they need, each once, in the order in which it has to be made."""
    return missing(asset for defense in defenses for asset in defense.assets())


def missing(assets: Iterable[Asset]) -> list[Asset]:
    """The same of some assets."""
    found: dict[Path, Asset] = {}

    def add(asset: Asset) -> None:
        if not asset.ready:
            for earlier in asset.after:
                add(earlier)
            found.setdefault(asset.path, asset)

    for asset in assets:
        add(asset)
    return list(found.values())


def resolved(spec: RunSpec) -> RunSpec:
    """The same spec with every option read by its defense and defaults left out, so that equal runs have equal specs."""
    settled = {defense.name: defense.settled_options for defense in build_all(spec, provisional=True)}
    changed = [defense.model_copy(update={"options": settled[defense.name]}) for defense in spec.defenses]
    return spec.model_copy(update={"defenses": tuple(changed)})
