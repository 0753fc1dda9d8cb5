"""A compiled pair, for long computations: log p(x, z), or an objective with its gradient.

The pair is run once as it is written, under the usual handlers. Its tensor operations are recorded for one shape of x
and z, and `torch.compile` fuses the operations between its matrix products. The operations of the pair must not depend
on the values of the tensors.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import pyro
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from ppvae import require
from ppvae.distributions import fast as scoring
from ppvae.errors import PpvaeError
from ppvae.pair.densities import score
from ppvae.pair.model import Model
from ppvae.pair.sites import Draws
from ppvae.randomness import forked

Values = dict[str, Tensor]
#: (the bound summed over data, and the buffers after it; the gradients), each by name
Outcome = tuple[dict[str, Tensor], dict[str, Tensor]]
_Result = TypeVar("_Result")


def _bias_apart(bias: Tensor, left: Tensor, right: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    """bias + left @ right, the bias added in the loop that follows; the reshaping keeps torch from joining the two."""
    return (alpha * (left @ right)).unsqueeze(0).add(beta * bias).squeeze(0)


#: without this, a bias inside the product is written to memory at its full size and read again
_APART = {torch.ops.aten.addmm.default: _bias_apart}


class CompiledJoint:
    """log p(x, z) [S, B] of data x [B, *event] at latents {name: [S, B, *event]}; compiled once for each shape.

    Raises:
        PpvaeError: the model cannot be recorded, or the machine has no C++ compiler.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        self._known: dict[tuple[object, ...], Callable[[Tensor, Values], Tensor]] = {}

    def __call__(self, x: Tensor, values: Values) -> Tensor:
        key = (x.shape, *((name, value.shape) for name, value in values.items()))
        with torch.no_grad():
            if key not in self._known:
                self._known[key], _ = compiled(
                    self.model, self._log_joint, x, values, lambda fast: fast(x, values), _APART
                )
            return self._known[key](x, values)

    def _log_joint(self, x: Tensor, values: Values) -> Tensor:
        return score(self.model, x, Draws.given(values)).log_joint


def precision_of(x: Tensor) -> float:
    device = x.device.type
    return torch.finfo(torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype).eps


def require_same(model: str, expected: Outcome, actual: Outcome, eps: float) -> None:
    """Refuse an outcome that differs by more than rounding.

    Half of the digits must agree; for a gradient, relative to its own size or to 1% of the largest one.
    """
    least = 0.01 * max(map(_largest, expected[1].values()), default=0.0)
    zero = torch.zeros(())
    for ours, theirs, floor in zip(expected, actual, (0.0, least), strict=True):
        for what in {**ours, **theirs}:
            one, other = ours.get(what, zero), theirs.get(what, zero)
            size = max(floor, _largest(one))
            off = _largest(one.double() - other.double().to(one.device))
            if math.isfinite(size) and not off <= math.sqrt(eps) * size:
                raise PpvaeError(
                    f"{model} cannot be compiled: {what} changes, as torch.no_grad, hooks and custom gradients are not "
                    "recorded (detach() is): remove compile"
                )


def _largest(value: Tensor) -> float:
    return float(value.double().abs().max()) if value.numel() else 0.0


def compiled(
    model: Model,
    function: Callable[[Tensor, Values], Tensor],
    x: Tensor,
    values: Values,
    attempt: Callable[[Callable[[Tensor, Values], Tensor]], _Result],
    replacing: Mapping[Any, Callable[..., Tensor]] | None = None,
) -> tuple[Callable[[Tensor, Values], Tensor], _Result]:
    """The function of x and of z or φ, recorded and compiled, and the result of `attempt` with it.

    `attempt` runs the function, since torch compiles it only when it is first run. Random numbers come from torch's
    generators, as they do without compiling.
    """
    name = type(model).__name__
    with pyro.validation_enabled(False):
        try:
            with forked(x.device), scoring.fused():
                recorded = make_fx(lambda x, values: function(x, values), replacing)(x, values)
        except PpvaeError:
            raise
        except Exception as error:
            raise PpvaeError(
                f"{name} cannot be compiled, its operations depend on values ({require.show(error)}): remove compile"
            ) from error
        try:
            with warnings.catch_warnings():
                for of_torch in (DeprecationWarning, FutureWarning):  # torch warns about its own code
                    warnings.simplefilter("ignore", of_torch)
                # the `forward` of this record has a cache of its own; all modules would share one small cache. Guards
                # are skipped, since the caller keeps shapes and modes fixed
                options = {"fallback_random": True, "guard_filter_fn": torch.compiler.skip_all_guards_unsafe}
                fast = torch.compile(recorded.forward, dynamic=False, options=options)
                return fast, attempt(fast)
        except Exception as error:
            raise PpvaeError(
                f"{name} cannot be compiled here ({require.show(error)}): torch.compile needs a C++ compiler; "
                "or remove compile"
            ) from error
