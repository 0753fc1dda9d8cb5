"""What the training data of a fit teach about preparing data; all later data are prepared by it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Self

import torch
from torch import Tensor

from ppvae import require
from ppvae.data.readers import Label
from ppvae.data.treatment import TREATMENTS, VALUES, holds, treatments
from ppvae.errors import PpvaeError

#: the most steps of single precision that a column's standard deviation may be worth: below it, rounding matters
_STEPS = 100


@dataclass(frozen=True)
class Preparation:
    """How untreated values become data: learned once, from training data, and kept with a fit.

    Attributes:
        treatment: the name of the treatment.
        columns: the names of the columns of x in a .csv, in the order of x, or None where they have none.
        labels: the column of labels, by name or number, or None.
        classes: the labels that became 0 … K − 1, or None.
        divisor: 255 where 8-bit intensities were divided by it, else 1.
        shift, scale: of each number of a datum: x = shift + scale · prepared x. None where values keep their units.
    """

    treatment: str
    columns: tuple[str, ...] | None = None
    labels: str | int | None = None
    classes: tuple[Label, ...] | None = None
    divisor: float = 1.0
    shift: tuple[float, ...] | None = None
    scale: tuple[float, ...] | None = None

    @property
    def discrete(self) -> bool:
        """Whether prepared data have a probability rather than a density."""
        return VALUES[TREATMENTS[self.treatment][1]].discrete

    def log_volume(self, size: int) -> float:
        """log |dx / d prepared x| of a datum of `size` numbers, in nats.

        log p of x in the units of the file is log p of prepared x minus this.
        """
        if self.discrete:
            return 0.0
        return size * math.log(self.divisor) + (0.0 if self.scale is None else sum(map(math.log, self.scale)))

    def learned(self, train: Tensor) -> Self:
        """This preparation, with what its treatment learns from untreated training data [N, *event]."""
        if self.treatment != "standardised":
            return self
        rows = train.flatten(1)
        constant = rows.amin(0) == rows.amax(0)  # whose deviation may be slightly above 0 by rounding
        rows = rows.double()
        std = rows.std(0, correction=0).masked_fill(constant, 1.0)
        return replace(self, shift=tuple(rows.mean(0).tolist()), scale=tuple(std.tolist()))

    def require_values(self, where: str, *parts: Tensor) -> None:
        """Refuse untreated values that the treatment does not take."""
        needed, _ = TREATMENTS[self.treatment]
        if not all(holds(x, needed) for x in parts):
            low, high = min(float(x.min()) for x in parts), max(float(x.max()) for x in parts)
            has = f"has others between {low:g} and {high:g}: use 'real' or 'standardised'"
            raise PpvaeError(f"treatment {self.treatment!r} needs values {VALUES[needed].words}, but {where} {has}")

    def apply(self, x: Tensor) -> Tensor:
        """The prepared values of untreated x [N, *event], before any draws."""
        if self.treatment == "threshold":
            return (x > 0.5).to(x.dtype)
        if (units := self.units(x.shape[1:])) is None:
            return x
        shift, scale = units
        return ((x.double() - shift) / scale).to(x.dtype)

    def units(self, event_shape: torch.Size) -> tuple[Tensor, Tensor] | None:
        """Shift and scale of a datum [*event] in double precision, or None where values keep their units."""
        if self.shift is None or self.scale is None:
            return None
        shift, scale = (torch.tensor(part, dtype=torch.float64) for part in (self.shift, self.scale))
        return shift.reshape(event_shape), scale.reshape(event_shape)

    def refuse_other(self, where: str, other: Preparation) -> None:
        """Refuse data that were prepared in another way than the training data of a fit."""
        if not alike(self.treatment, other.treatment):
            raise PpvaeError(
                f"{where} is {other.treatment!r}, and the fit was trained on {self.treatment!r}: "
                "read it as the fit needs it, with fit.read(...), or on the command line without --treatment"
            )
        for name in ("columns", "shift", "scale", "divisor"):
            ours, theirs = getattr(self, name), getattr(other, name)
            if ours is not None and theirs is not None and ours != theirs:
                raise PpvaeError(
                    f"{where} was prepared with other {_WORDS[name]} than the training data of the fit: read it as "
                    "the fit needs it, with fit.read(...), or on the command line with --data"
                )

    def plain(self) -> dict[str, Any]:
        """The attributes that are not at their defaults, as plain values."""
        known = {field.name: field.default for field in fields(self)}
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
            if value != known[name]
        }

    @classmethod
    def of(cls, values: object) -> Self:
        """From what `plain` returned.

        Raises:
            PpvaeError: it is something else.
        """
        if not isinstance(values, Mapping) or not all(isinstance(name, str) for name in values):
            raise PpvaeError(f"preparation must hold names and values, got {require.show(values)}")
        for name in values:
            require.one_of("entry of preparation", name, [field.name for field in fields(cls)])
        plain: dict[str, Any] = {k: tuple(value) if isinstance(value, list) else value for k, value in values.items()}
        out = cls(**plain)
        require.one_of("treatment", out.treatment, treatments())
        require.positive("divisor", out.divisor)
        for name in ("shift", "scale"):
            numbers = getattr(out, name)
            if numbers is not None and not all(
                isinstance(n, float | int) and math.isfinite(n) and (n > 0 or name == "shift") for n in numbers
            ):
                raise PpvaeError(f"{name} of preparation must hold numbers, got {require.show(numbers)}")
        return out


_WORDS = {"columns": "columns", "shift": "means", "scale": "standard deviations", "divisor": "units"}


def alike(one: str, other: str) -> bool:
    """Whether data of one treatment are observations of the same kind as those of another."""
    return one == other or all(TREATMENTS[name][1] == "binary" for name in (one, other))


def lossy(x: Tensor) -> Tensor:
    """Whether single precision rounds each number of a datum by too much of its deviation in x [N, *event]: [D]."""
    rows = x.detach().flatten(1)
    low, high = (end.double() for end in rows.aminmax(dim=0))
    span, largest = high - low, torch.maximum(low.abs(), high.abs())
    least = _STEPS * torch.finfo(torch.float32).eps * largest
    # a column whose values are neighbours in their own precision is constant but for rounding elsewhere
    varies = span > 2 * torch.finfo(x.dtype).eps * largest
    # a deviation is at least span / √(2N), so that few columns need to be summed
    doubtful = varies & (least * math.sqrt(2 * len(rows)) > span)
    if len(few := doubtful.nonzero()[:, 0]):
        doubtful[few] = least[few] > rows[:, few].double().std(0, correction=0)
    return doubtful | ~largest.float().isfinite()


def in_single_precision(*parts: Tensor) -> list[Tensor]:
    """The parts in single precision, or as they are where that rounds them by too much."""
    if any(x.dtype != torch.float32 for x in parts) and not bool(lossy(torch.cat(parts)).any()):
        return [x.float() for x in parts]
    return [*parts]


def require_precision(where: str, x: Tensor, dtype: torch.dtype) -> None:
    """Refuse training data x [N, *event] that single precision, or another `dtype`, would round by too much."""
    if dtype == torch.float64 or not bool((bad := lossy(x)).any()):
        return
    column = int(bad.nonzero()[0])
    values = x.flatten(1)[:, column].double()
    said = "was rounded to" if x.dtype == torch.float32 else "would be rounded to"
    step = torch.finfo(torch.float32).eps * float(values.abs().max())
    ways = 'load it with treatment="standardised", which centres it before it is rounded, or fit with '
    if x.dtype == torch.float32:
        ways = "make it in double precision, and there subtract its mean, or fit it in double precision with "
    raise PpvaeError(
        f"{where}: column {column} has mean {float(values.mean()):.4g} and standard deviation "
        f"{float(values.std(correction=0)):.4g}, and {said} steps of {step:.2g} in single precision: {ways}"
        'precision="64-true"'
    )
