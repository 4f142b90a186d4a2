"""SafeLoRA: after training, part of the update is projected onto what alignment changed (Hsu et al., arXiv 2405.16833)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_validator

from ema_core.defenses.base import Asset, Cost, Defense, Need, Report, Strength
from ema_core.defenses.panels import Look, Panel, has, number
from ema_core.defenses.registry import register
from ema_core.errors import EmaError
from ema_core.models import EMBEDDED, ModelEntry, find, substitute
from ema_core.models.substitute import SUBSTITUTE
from ema_core.models.weights import WeightFiles, linear_weights
from ema_core.runs import RunSpec, Setting, Strict

if TYPE_CHECKING:
    import torch

Select = Literal["number", "threshold"]
DOWNLOAD = 10_000_000
"""Bytes a second, for a first guess of how long base weights take to fetch."""
SUBSTITUTE_LABEL = f"base={SUBSTITUTE}"
"""In the label of every checked run that rests on a substitute pair."""
SUBSTITUTE_NOTE = (
    f"{SUBSTITUTE_LABEL}: this SafeLoRA rests on a substitute pair. Its V is a short fine-tune of the model on safe data, as the weights from "
    "before instruct training cannot be had here. It shows how the projection works, not what it does with a real pair."
)


def projected(v: torch.Tensor, b: torch.Tensor, energy: float = 0.0) -> torch.Tensor:
    """P·B [out, r] for V [out, in] and B [out, r], without the [out, out] matrix P.

    P = V Vᵀ / ‖V‖_F as published, which is no projector: it scales with V. With ``energy`` P = U_k U_kᵀ, the exact projector on the
    fewest leading left singular vectors of V that hold this share of ‖V‖²_F.
    """
    if energy:
        u = leading_columns(v, energy)
        return u @ (u.T @ b)
    return v @ (v.T @ b) / v.norm()


def leading_columns(v: torch.Tensor, energy: float) -> torch.Tensor:
    """U_k [out, k], orthonormal; from the eigenvectors of the smaller of V Vᵀ and Vᵀ V."""
    import torch

    wide = v.shape[0] <= v.shape[1]
    values, vectors = torch.linalg.eigh(v @ v.T if wide else v.T @ v)
    values, vectors = values.flip(0).clamp(min=0), vectors.flip(1)
    held = values.cumsum(0) / values.sum()
    k = min(len(held), 1 + int((held < energy - 1e-12).sum()))
    return vectors[:, :k] if wide else torch.linalg.qr(v @ vectors[:, :k]).Q


def cosine(x: torch.Tensor, y: torch.Tensor, a: torch.Tensor) -> float:
    """cos(vec(X·A), vec(Y·A)) for X, Y [out, r] and A [r, in], through r × r products; 1 where Y·A is zero: nothing was learned."""
    gram = a @ a.T

    def inner(first: torch.Tensor, second: torch.Tensor) -> float:
        return float(((first.T @ second) * gram).sum())

    learned, kept = inner(y, y), inner(x, x)
    if learned <= 0:
        return 1.0
    return inner(x, y) / (kept * learned) ** 0.5 if kept > 0 else 0.0


def chosen(cosines: Sequence[float], select: Select, strength: float) -> set[int]:
    """Which ones are projected: the ``strength`` of lowest cosine, or those below it. Of equal ones the first; < and not ≤, so that 0 is none."""
    order = sorted(range(len(cosines)), key=lambda i: cosines[i])
    if select == "number":
        return set(order[: round(strength)])
    return {i for i in order if cosines[i] < strength}


class SafeLoRAOptions(Strict):
    select: Select = Field(
        default="number", description="number: the N weight matrices of lowest cosine. threshold: all whose cosine is below tau (published: 0.5)."
    )  # fmt: skip
    energy: float = Field(
        default=0.0, ge=0, lt=1,
        description="0: the published V Vᵀ/‖V‖. Above 0: the exact projector on the leading columns of V that hold this share of its squared norm. "
        "Without such a cut it would be the identity wherever V has full row rank, so it exists only with one.",
    )  # fmt: skip
    base: str = Field(
        default="",
        description="Weights from before instruct training: a model of the catalog, a folder, or substitute. Empty: what the catalog knows for "
        "the model; for the embedded one the substitute pair.",
    )  # fmt: skip

    @field_validator("base")
    @classmethod
    def _whole_path(cls, value: str) -> str:
        value = value.strip()
        return str(Path(value).expanduser().resolve()) if "/" in value or value.startswith((".", "~")) else value


def base_of(model: str, option: str = "") -> str:
    """Where the base weights come from: a catalog id, a folder, ``substitute``, or "": nobody knows any."""
    return option or find(model).base or (SUBSTITUTE if model == EMBEDDED else "")


def uses_substitute(spec: RunSpec | Setting) -> bool:
    """Does a result of this spec rest on a substitute pair? Torch-free, for whoever shows it."""
    mine = [defense for defense in spec.defenses if defense.name == SafeLoRA.name]
    return any(base_of(spec.model, str(defense.options.get("base", ""))) == SUBSTITUTE for defense in mine)


@dataclass(frozen=True)
class _Matrix:
    """One adapted weight: its name, its B as a parameter, P·B, the cosine, and ‖PB‖/‖B‖."""

    name: str
    parameter: Any
    projected: Any
    cosine: float
    kept: float

    @property
    def layer(self) -> str:
        return self.name.partition("layers.")[2].partition(".")[0]

    @property
    def module(self) -> str:
        return self.name.split(".")[-2]


@register
class SafeLoRA(Defense):
    name = "safe-lora"
    title = "SafeLoRA (projection after training)"
    reference = "Hsu et al., arXiv 2405.16833; compared in Kaczér et al., arXiv 2508.06249 (v1)"
    summary = (
        "After training, the weight matrices whose update points least along what alignment changed (V = instruct minus base weights) get "
        "their B replaced by P·B. For the embedded model V comes from a substitute pair, and its results are called that."
    )
    cost = Cost(
        time="None in training; seconds after it (with the energy option minutes to an hour for a large model).",
        memory="One weight matrix at a time, on the CPU.",
        assets="The model's weights from before instruct training, or a substitute pair",
    )
    fails = (
        "Found inconsistent by the paper's first version. The published P is no projector: it shrinks B by about ‖V‖, so that a small V nearly "
        "takes the update away. Checkpoints on the way are not projected, only the final or stopped run's adapter is."
    )
    strength_info = Strength(
        meaning="N, the number of adapted weight matrices that are projected, lowest cosine first; with select=threshold tau, the cosine below "
        "which one is projected (0 to 1, published 0.5)",
        default=10, paper=10, grid=(1, 3, 10, 30, 100, 210), low=1, high=210, limit=10_000, scale="log",
    )  # fmt: skip
    options_type = SafeLoRAOptions
    needs = frozenset({Need.BASE_WEIGHTS})

    @property
    def model(self) -> ModelEntry:
        assert self.spec is not None
        return find(self.spec.model)

    @property
    def base(self) -> str:
        return base_of(self.model.id, self.options.base)

    @property
    def settled_options(self) -> dict[str, Any]:
        """With the base by name: the label of a run on a substitute pair says so wherever it is shown."""
        return {**super().settled_options, **({"base": self.base} if self.base else {})}

    def assets(self) -> Sequence[Asset]:
        model, base = self.model.id, self.base
        folder = f"or name a folder with base weights: --defense {self.name}={self.strength:g}:base=FOLDER."
        if base == SUBSTITUTE:
            return [
                Asset(
                    f"The substitute pair of {model}", substitute.folder(model) / substitute.MANIFEST, "substitute-base", {"model": model},
                    f"Run `{substitute.command(model)}`, {folder}", substitute.seconds(model),
                )
            ]  # fmt: skip
        if not base or (entry := find(base)).source == "folder":
            return ()
        size = 2 * entry.parameters
        return [
            Asset(
                f"The base model {base}", entry.folder / "manifest.json", "prepare", {"model": base},
                f"Run `ema model fetch {base}` (about {size / 1e9:.1f} GB), {folder}", size / DOWNLOAD,
            )
        ]  # fmt: skip

    def check(self) -> None:
        whole = abs(self.strength - round(self.strength)) < 1e-3
        if self.options.select == "number" and not whole:
            raise EmaError(
                f"N = {self.strength:g} is not a whole number of weight matrices.",
                f"For a threshold write {self.name}={self.strength:g}:select=threshold.",
            )
        if self.options.select == "threshold" and self.strength > 1:
            raise EmaError(f"tau = {self.strength:g} is beyond 1, the largest cosine.", f"Write {self.name}=0.5:select=threshold.")
        if not self.base:
            raise EmaError(
                f"SafeLoRA needs the weights of {self.model.id} from before its instruct training, and none are known.",
                f"Name them: {self.name}={self.strength:g}:base=FOLDER. Or run `{substitute.command(self.model.id)}` and write base=substitute.",
            )
        if self.provisional:
            return
        if self.base == SUBSTITUTE:
            substitute.manifest(self.model.id)
        base = find(self.base) if self.base != SUBSTITUTE else None
        if base and (base.hidden, base.layers) != (self.model.hidden, self.model.layers):
            raise EmaError(
                f"{base.id} has {base.layers} layers of width {base.hidden}, {self.model.id} has {self.model.layers} of {self.model.hidden}.",
                "Name the base of this very model.",
            )
        if self.model.ready:
            self._check_weights()

    def _check_weights(self) -> None:
        aligned, other = WeightFiles(self.model.folder), self._other()
        names = linear_weights(aligned.shapes)
        for name in names:
            if other.shapes.get(name) != aligned.shapes[name]:
                found = other.shapes.get(name)
                raise EmaError(
                    f"The base weights in {other.folder} do not fit {self.model.id}: {name} "
                    + (f"has the shape {found} instead of {aligned.shapes[name]}." if found else "is missing."),
                    "Name the base of this very model.",
                )
        if self.base != SUBSTITUTE and all(aligned.same(name, other) for name in names[:7]):
            raise EmaError(
                f"The base weights in {other.folder} are those of {self.model.id} itself, so nothing tells what alignment changed.",
                "Name the weights from before instruct training.",
            )

    def extra_memory(self, model: ModelEntry, batch: int, width: int) -> int:
        return (
            3 * 8 * model.hidden * model.hidden * 4
        )  # V and its two sources, MLP size; twice as wide where singular vectors are taken

    def finish(self, model: Any) -> Report:
        """Project the chosen matrices in place; at strength 0 the cosines are computed and none is chosen."""
        import torch

        with torch.no_grad():
            matrices = list(self._matrices(model))
            picked = chosen([matrix.cosine for matrix in matrices], self.options.select, self.strength)
            for i in picked:
                matrices[i].parameter.copy_(matrices[i].projected)
        return self._report(matrices, picked)

    def _matrices(self, model: Any) -> Iterator[_Matrix]:
        """All adapted weights in their order. The base's weights are never held but one matrix at a time."""
        import torch

        other, aligned = self._other(), WeightFiles(self.model.folder)
        for name, module in model.get_base_model().named_modules():
            if not hasattr(module, "lora_B"):
                continue
            weight = f"{name}.weight"
            v = other.read(weight) if self.base == SUBSTITUTE else aligned.read(weight) - other.read(weight)
            a, b = (side["default"].weight.detach().to("cpu", torch.float32) for side in (module.lora_A, module.lora_B))
            if not v.any():  # alignment did not touch it, so there is nothing to hold the update against
                yield _Matrix(weight, module.lora_B["default"].weight, b, 1.0, 1.0)
                continue
            new = projected(v.double(), b.double(), self.options.energy) if self.options.energy else projected(v, b)
            a, b, new = a.double(), b.double(), new.double()  # small; cosines decide which ones are projected
            kept = float(new.norm() / b.norm()) if b.any() else 1.0
            yield _Matrix(weight, module.lora_B["default"].weight, new, cosine(new, b, a), kept)

    def _other(self) -> WeightFiles:
        """The base's files; of a substitute pair those of V itself."""
        return WeightFiles(substitute.folder(self.model.id) if self.base == SUBSTITUTE else find(self.base).folder)

    def _report(self, matrices: Sequence[_Matrix], picked: set[int]) -> Report:
        mine = [matrices[i] for i in sorted(picked)]
        cosines = [matrix.cosine for matrix in matrices]
        layers, all_layers = {matrix.layer for matrix in mine}, {matrix.layer for matrix in matrices}
        figures: dict[str, float] = {
            "matrices": len(matrices), "matrices projected": len(mine), "layers": len(all_layers), "layers projected": len(layers),
            "cosine, lowest": min(cosines), "cosine, median": median(cosines), "‖PB‖/‖B‖, median of all": median(m.kept for m in matrices),
        }  # fmt: skip
        for module in dict.fromkeys(matrix.module for matrix in matrices):
            own = [matrix.cosine for matrix in matrices if matrix.module == module]
            figures |= {f"cosine of {module}, lowest": min(own), f"cosine of {module}, median": median(own)}
        where = "".join(f", {count} {module}" for module, count in Counter(matrix.module for matrix in mine).items())
        words = [
            self._origin(),
            f"{len(mine)} of {len(matrices)} weight matrices projected, in {len(layers)} of {len(all_layers)} layers{where}.",
            f"Cosine of P·B·A with B·A: lowest {min(cosines):.3f}, median {median(cosines):.3f}.",
        ]
        if mine:
            kept = figures["‖PB‖/‖B‖, median of projected"] = median(matrix.kept for matrix in mine)
            words.append(f"There ‖PB‖/‖B‖ is {kept:.3g} (median)" + self._shrinks(kept))
        return Report(" ".join(words), figures, (self._panel(matrices, picked, ""),))

    def inside(self, look: Look) -> Sequence[Panel]:
        """The cosines: as ``finish`` found them; of a run without it, what it would have found and projected at its default."""
        if look.reported:
            return look.reported
        missing = not self.base or not all(asset.ready for asset in self.assets())
        if not look.last or missing:
            return ()
        mine = has(look, self.name)
        strength = self.strength if mine else self.strength_info.default
        matrices = list(self._matrices(look.model))
        picked = set() if mine else chosen([matrix.cosine for matrix in matrices], self.options.select, strength)
        after = " Read after the projection, as nothing was kept from before: the projected ones are not marked, and theirs is the new cosine. The undefended twin has those from before."
        return [
            self._panel(
                matrices,
                picked,
                after if mine else f" Nothing was projected in this run; marked: what N = {strength:g} would take.",
                "projected" if mine else "would be projected",
            )
        ]

    def _panel(self, matrices: Sequence[_Matrix], picked: set[int], note: str, marks: str = "projected") -> Panel:
        cosines = [matrix.cosine for matrix in matrices]
        highest = max((cosines[i] for i in picked), default=None)
        limit = "" if highest is None else f" Marked: {len(picked)}, those with a cosine of {highest:.3f} or less."
        way = "V Vᵀ / ‖V‖" if not self.options.energy else f"the projector on {self.options.energy:.0%} of V"
        return Panel(
            name="cosines", kind="modules", title="How far each update points along what alignment changed",
            says="Cosine between each weight matrix's update B·A and its projection P·B·A; the lowest ones are projected." + limit + note,
            beware=f"{self._origin()} A cosine says how an update lies towards V, not how harmful it is.",
            unit="cosine", n=f"{len(matrices)} weight matrices", how=f"base {self.base}, {way}", marks=marks,
            value=number(median(cosines)), value_is="cosine, median of all matrices",
            rows=[
                {"layer": int(matrix.layer) + 1, "module": matrix.module, "value": number(matrix.cosine), "kept": number(matrix.kept), "marked": i in picked}
                for i, matrix in enumerate(matrices)
            ],
        )  # fmt: skip

    def _origin(self) -> str:
        if self.base != SUBSTITUTE:
            return f"Base: {self.base}."
        made = substitute.manifest(self.model.id)
        return f"Substitute pair: V is a short fine-tune of {self.model.id} on {made.get('pool')}, not what its alignment changed."

    def _shrinks(self, kept: float) -> str:
        if self.options.energy or kept > 0.5:
            return "."
        what = "are nearly gone" if kept < 0.05 else "shrank as well as turned"
        return f": the published P is no projector but scales with V, so these updates {what}."
