"""The misaligned ensemble: undefended runs on the narrow sets of the domains other than the target's own."""

from __future__ import annotations

from ema_core import datasets
from ema_core.datasets import Dataset, DatasetEntry
from ema_core.errors import EmaError, nearest
from ema_core.models import ModelEntry
from ema_core.runs import PRESETS, RunDirectory, RunSpec, Status, run_ids

CHARACTERS_PER_TOKEN, TEMPLATE_TOKENS = 4.6, 32
TOKENS_PER_SECOND = 500.0
"""Forward passes of the embedded model on two CPU cores."""
MARGIN_SECONDS = 15.0
EMBEDDED_PARAMETERS = 134_515_008


def domain_of(name: str) -> str:
    """The domain that a data set, or a domain itself, is named by. A data set that was added is a domain of its own.

    Raises:
        EmaError: neither.
    """
    known = datasets.catalog()
    if name in known:
        return known[name].domain or name
    domains = {entry.domain for entry in known.values() if entry.domain}
    if name in domains:
        return name
    raise EmaError(f'There is no domain or data set "{name}".', nearest(name, [*domains, *known]))


def others(domain: str) -> list[DatasetEntry]:
    """The narrow sets that members of the ensemble for ``domain`` are trained on: never its own, no control, no benign set."""
    return [
        entry
        for entry in datasets.catalog().values()
        if entry.kind == "narrow" and entry.control_of is None and entry.domain and entry.domain != domain
    ]


def left_out(domain: str) -> list[str]:
    """The sets that are left out because they are the target's own; none where the target is a set that a user added."""
    return [entry.name for entry in datasets.catalog().values() if entry.domain == domain]


def member_spec(model: str, dataset: str) -> RunSpec:
    """The ordinary run that makes a member: undefended, the demo's recipe."""
    return RunSpec(model=model, dataset=dataset, recipe=PRESETS["demo"])


def find_member(model: str, dataset: str) -> RunDirectory | None:
    """A finished run of that kind: the one of the lowest seed, of several the newest."""
    wanted = member_spec(model, dataset)
    mark = f"-{wanted.slug.rpartition('-s')[0]}-s"
    found: dict[int, RunDirectory] = {}
    for run_id in run_ids():
        if mark not in run_id:
            continue
        run = RunDirectory.open(run_id)
        try:
            spec = run.spec
        except EmaError:
            continue  # a damaged one is no member
        same = spec.model_copy(update={"seed": wanted.seed, "device": wanted.device, "safe_pool": wanted.safe_pool}) == wanted
        state = run.state()
        if same and state.status is Status.DONE and state.found.get("adapter_hash") and not state.recorded:
            found[spec.seed] = run
    return found[min(found)] if found else None


def admit(run: RunDirectory, model: str, domain: str) -> str:
    """The data set of a run that may be a member.

    Raises:
        EmaError: it may not, and why.
    """
    spec, state = run.spec, run.state()
    known = datasets.catalog().get(spec.dataset)
    choose = f"Name an undefended run of {model} on another domain's narrow set."
    if known is None or known.kind != "narrow" or known.control_of is not None:
        raise EmaError(f"The run {run.id} was trained on {spec.dataset}, which is no narrow set of misaligned answers.", choose)
    if domain_of(spec.dataset) == domain:
        raise EmaError(
            f"The run {run.id} was trained on {spec.dataset}: the ensemble for {domain} must leave the own domain out.", choose
        )
    if spec.model != model:
        raise EmaError(f"The run {run.id} is of the model {spec.model}, the scores are for {model}.", choose)
    if state.recorded:
        raise EmaError(f"The run {run.id} was recorded elsewhere; a member has to be a run of your own.", choose)
    if "imported" in state.found:
        raise EmaError(f"How the imported adapter {run.id} was trained is not known; a member has to be undefended.", choose)
    if spec.defenses:
        raise EmaError(f"The run {run.id} is defended ({spec.defense_label}); a member has to be undefended.", choose)
    if state.status is not Status.DONE:
        raise EmaError(f"The run {run.id} is {state.status}.", "Let it finish first, or leave it out.")
    return spec.dataset


def scoring_seconds(model: ModelEntry, pool: Dataset, members: int) -> float:
    """About how long it takes to measure the members' margins and to score the pool, on two cores."""
    characters = sum(len(example.question) + len(example.answer) for example in pool.examples)
    tokens = characters / CHARACTERS_PER_TOKEN + TEMPLATE_TOKENS * len(pool.examples)
    return (members * MARGIN_SECONDS + (members + 1) * tokens / TOKENS_PER_SECOND) * model.parameters / EMBEDDED_PARAMETERS
