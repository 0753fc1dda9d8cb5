"""A model's log p(x, z) compiled into a few loops, for evaluations long enough to pay for it.

The model is run once as it is written, under the same handlers as ever; the tensor operations it performs are
recorded for one shape of x and z, and `torch.compile` fuses what lies between its matrix products. Nothing is asked of
the model but that its operations do not depend on the values of the tensors.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pyro
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from ppvae import require, scoring
from ppvae.densities import score
from ppvae.errors import PpvaeError
from ppvae.model import Model
from ppvae.sites import Draws

Values = dict[str, Tensor]


def _bias_apart(bias: Tensor, left: Tensor, right: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    """bias + left @ right with the bias left to the loop that follows; the reshaping keeps torch from joining them."""
    return (alpha * (left @ right)).unsqueeze(0).add(beta * bias).squeeze(0)


#: a bias that goes into the product is written out to its whole size and read again
_APART = {torch.ops.aten.addmm.default: _bias_apart}


class CompiledJoint:
    """log p(x, z) [S, B] of data x [B, *event] at latents {name: [S, B, *event]}; compiled for each shape it meets.

    Raises:
        PpvaeError: the model cannot be recorded, or there is no C++ compiler.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        self._known: dict[tuple[object, ...], Callable[[Tensor, Values], Tensor]] = {}

    def __call__(self, x: Tensor, values: Values) -> Tensor:
        key = (x.shape, *((name, value.shape) for name, value in values.items()))
        if key not in self._known:
            self._known[key] = self._compile(x, values)
        return self._known[key](x, values)

    def _log_joint(self, x: Tensor, values: Values) -> Tensor:
        return score(self.model, x, Draws.given(values)).log_joint

    def _compile(self, x: Tensor, values: Values) -> Callable[[Tensor, Values], Tensor]:
        name = type(self.model).__name__
        with torch.no_grad(), pyro.validation_enabled(False):
            try:
                with scoring.fused():
                    recorded = make_fx(lambda x, values: self._log_joint(x, values), _APART)(x, values)
            except PpvaeError:
                raise
            except Exception as error:
                raise PpvaeError(
                    f"{name} cannot be compiled, its operations depend on values ({require.show(error)}): "
                    "leave compile out"
                ) from error
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", DeprecationWarning)  # torch's, of torch
                    fast = torch.compile(recorded, dynamic=False)
                    fast(x, values)
            except Exception as error:
                raise PpvaeError(
                    f"{name} cannot be compiled here ({require.show(error)}): torch.compile needs a C++ compiler; "
                    "or leave compile out"
                ) from error
        return fast
