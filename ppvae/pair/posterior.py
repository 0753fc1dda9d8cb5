"""A guide with φ bound."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor

from ppvae.pair.local import Phi, select
from ppvae.pair.model import Model
from ppvae.pair.precision import converted_phi


class Posterior:
    """A guide with φ bound: a plain Pyro guide, `posterior(x)`.

    Attributes:
        phi: the local parameters, each [B, *event].
        converged: [B] bool where φ was optimised per datapoint, else None.
    """

    def __init__(self, model: Model, phi: Phi, converged: Tensor | None = None) -> None:
        self.model = model
        self.phi = phi
        self.converged = converged

    def __call__(self, x: Tensor) -> None:
        (self.model.guide_family or self.model.guide)(x, self.phi)

    def __len__(self) -> int:
        return len(next(iter(self.phi.values()), ()))

    def select(self, index: Tensor) -> Posterior:
        """The posterior of the datapoints `index` of this batch."""
        converged = None if self.converged is None else self.converged[index]
        return Posterior(self.model, select(self.phi, index), converged)

    def converted(self, model: Model, dtype: torch.dtype) -> Posterior:
        """The same q over a converted model."""
        return Posterior(model, converted_phi(self.phi, dtype), self.converged)

    @contextmanager
    def frozen(self) -> Iterator[Posterior]:
        """The same posterior with no gradient to φ nor to the weights that the guide owns."""
        # detached copies replace the parameters, as requires_grad_(False) is not recorded (ppvae.pair.compiled)
        owned = [
            (module._parameters, name, parameter)
            for top in self.model.guide_modules
            for module in self.model.get_submodule(top).modules()
            for name, parameter in module._parameters.items()
            if parameter is not None and parameter.requires_grad
        ]
        for place, name, parameter in owned:
            place[name] = parameter.detach()  # type: ignore[assignment]
        try:
            yield Posterior(self.model, {name: value.detach() for name, value in self.phi.items()})
        finally:
            for place, name, parameter in owned:
                place[name] = parameter


class Guide(Protocol):
    """A Pyro program of x whose datapoints can be picked, such as a `ppvae.Posterior`."""

    def __call__(self, x: Tensor) -> Any: ...

    def select(self, index: Tensor) -> Guide: ...

    def converted(self, model: Model, dtype: torch.dtype) -> Guide:
        """The same guide in another precision, over a converted model."""
        ...
