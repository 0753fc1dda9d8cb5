"""The treatments that make values observations, and the values that each needs."""

from __future__ import annotations

from torch import Tensor

from ppvae.errors import PpvaeError

LIKELIHOODS = {  # treatment → the observation model that fits the values it leaves
    **dict.fromkeys(("static", "dynamic", "threshold", "binary"), "bernoulli"),
    **dict.fromkeys(("real", "standardised"), "gaussian"),
}
DRAWN = ("static", "dynamic")  # treatments that draw from the seed
BINARY, UNIT = "0 and 1", "in [0, 1]"  # ranges of values


def check_values(where: str, x: Tensor) -> None:
    if not isinstance(x, Tensor) or not x.is_floating_point():
        raise PpvaeError(f"{where}: needs a floating tensor, not {kind_of(x)}: give torch.as_tensor(x).float()")
    if x.dim() < 2:
        raise PpvaeError(f"{where}: needs shape [N, *event], not {list(x.shape)}: try reshape(-1, 1)")
    if x.numel() == 0:
        raise PpvaeError(f"{where}: shape {list(x.shape)} holds no values: give at least one row and column")
    bad = ~x.isfinite()
    if bad.any():
        found = f"{int(bad.sum())} values are NaN, infinite or too big, first at {bad.nonzero()[0].tolist()}"
        raise PpvaeError(f"{where}: {found}: drop those rows, missing values are not supported yet")


def holds(x: Tensor, needed: str) -> bool:
    return bool(((x == 0) | (x == 1) if needed == BINARY else (x >= 0) & (x <= 1)).all())


def kind_of(x: object) -> str:
    return f"{x.dtype} {list(x.shape)} on {x.device}" if isinstance(x, Tensor) else type(x).__name__
