"""The kinds of values that data have, and the treatments that turn values into observations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ppvae import require
from ppvae.catalogue import LIKELIHOODS
from ppvae.errors import PpvaeError

if TYPE_CHECKING:  # the command line lists treatments without torch
    from torch import Tensor


@dataclass(frozen=True)
class Values:
    """A kind of values.

    Attributes:
        words: their description in messages.
        each: x → whether each value is of the kind.
        discrete: whether x has a probability rather than a density.
        remedy: the advice in messages that turns other values into such values.
    """

    words: str
    each: Callable[[Tensor], Tensor]
    discrete: bool = False
    remedy: str = ""


#: the kinds that a likelihood names by `values`
VALUES = {
    "binary": Values("0 and 1", lambda x: (x == 0) | (x == 1), discrete=True, remedy="binarise"),
    "counts": Values("that are whole numbers ≥ 0", lambda x: (x >= 0) & (x == x.round()), discrete=True),
    "unit": Values("in [0, 1]", lambda x: (x >= 0) & (x <= 1)),
    "positive": Values("> 0", lambda x: x > 0),
    "real": Values("that are finite", lambda x: x.isfinite()),
}
#: treatment → the kinds of values that it needs and returns; one named like a kind does not change values
TREATMENTS = {
    **dict.fromkeys(("static", "dynamic", "threshold"), ("unit", "binary")),
    "standardised": ("real", "real"),
    **{kind: (kind, kind) for kind in VALUES},
}
DRAWN = ("static", "dynamic")  # treatments that draw from the seed


def treatments() -> list[str]:
    """Names of the treatments whose values have a likelihood, sorted."""
    kinds = {values_of(likelihood) for likelihood in LIKELIHOODS}
    return sorted(name for name, (_, leaves) in TREATMENTS.items() if leaves in kinds)


def values_of(likelihood: str) -> str:
    """The kind of values of a likelihood; raises PpvaeError for an unknown name."""
    return require.one_of(f"values of likelihood {likelihood}", LIKELIHOODS.facts(likelihood).get("values"), VALUES)


def likelihood_for(treatment: str) -> str:
    """The first likelihood for the values that a treatment returns; raises PpvaeError for an unknown name."""
    _, leaves = TREATMENTS[require.one_of("treatment", treatment, treatments())]
    return next(likelihood for likelihood in LIKELIHOODS if values_of(likelihood) == leaves)


def as_they_are(*parts: Tensor) -> str:
    """The treatment that does not change the values in x: "binary" where all are 0 and 1, else "real"."""
    return "binary" if all(holds(x, "binary") for x in parts) else "real"


def check_values(where: str, x: Tensor) -> None:
    """Refuse what is not a floating tensor [N, *event] of finite numbers."""
    from torch import Tensor

    if not isinstance(x, Tensor) or not x.is_floating_point():
        raise PpvaeError(f"{where}: needs a floating tensor, not {kind_of(x)}: give torch.as_tensor(x).float()")
    if x.dim() < 2:
        raise PpvaeError(f"{where}: needs shape [N, *event], not {list(x.shape)}: try reshape(-1, 1)")
    if x.numel() == 0:
        raise PpvaeError(f"{where}: shape {list(x.shape)} holds no values: give at least one row and column")
    bad = ~x.isfinite()
    if bad.any():
        count = f"{int(bad.sum())} values are NaN, infinite or too big, first at {bad.nonzero()[0].tolist()}"
        raise PpvaeError(f"{where}: {count}: drop those rows, missing values are not supported yet")


def holds(x: Tensor, values: str) -> bool:
    """Whether all values in x are of a kind."""
    return bool(VALUES[values].each(x).all())


def kind_of(x: object) -> str:
    """A description of x for messages: dtype, shape and device of a tensor, else its type."""
    from torch import Tensor

    return f"{x.dtype} {list(x.shape)} on {x.device}" if isinstance(x, Tensor) else type(x).__name__
