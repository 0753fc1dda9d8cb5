"""The plain Pyro pair of a fit, for the tools of Pyro that ppvae does not have."""

from __future__ import annotations

from itertools import count

import pyro
import torch
from torch import Tensor, nn

from ppvae.data.batch import Batch
from ppvae.entry import entry
from ppvae.errors import PpvaeError
from ppvae.pair.model import Model
from ppvae.pair.posterior import Posterior
from ppvae.training.fitted import Fit
from ppvae.variational.bound import Bound
from ppvae.variational.strategy import Strategy

_serial = count()


class PyroModel(nn.Module):
    """model(x, index=None), registered with `pyro.module` under a name of its own."""

    def __init__(self, model: Model, name: str) -> None:
        super().__init__()
        self.net, self._name = model, name

    def forward(self, x: Tensor, index: Tensor | None = None) -> None:
        pyro.module(self._name, self.net)
        self.net(x)


class PyroGuide(nn.Module):
    """guide(x, index=None): rows of the training data at `index`; without it, all of them in order."""

    def __init__(self, fit: Fit, model: PyroModel, name: str) -> None:
        super().__init__()
        self.strategy: Strategy = fit.strategy
        self.owned = nn.ParameterList(fit.model.guide_parameters())
        self._model = [model]  # in a list, so that θ is not among the guide's parameters
        self._fit, self._name = [fit], name

    def forward(self, x: Tensor, index: Tensor | None = None) -> None:
        model, fit = self._model[0].net, self._fit[0]
        pyro.module(self._name, self)
        if self.strategy.has_rows:
            phi = self.strategy.lookup(torch.arange(len(x), device=x.device) if index is None else index)
        else:
            index = torch.arange(len(x), device=x.device)
            phi = self.strategy(Batch(x, index), Bound(model, x, fit.estimator(), fit.settings.num_particles))
        Posterior(model, phi)(x)


@entry
def as_pyro(fit: Fit) -> tuple[PyroModel, PyroGuide]:
    """A fit as (model, guide), plain Pyro programs of (x, index=None) that share its weights.

    They train under `Trace_ELBO()(model, guide)` with a torch optimiser and under `SVI.step`, and sample under
    `Predictive`. Per-datapoint rows are those of the training set at `index` (the first len(x) without it).
    Where a discrete site is enumerated, use `TraceEnum_ELBO`.

    Raises:
        PpvaeError: the argument is not a fit; a pair with its own source of φ has no strategy to train.
    """
    if not isinstance(fit, Fit):
        raise PpvaeError(f"fit must be the result of ppvae.fit or ppvae.load, got {type(fit).__name__}")
    serial = next(_serial)
    model = PyroModel(fit.model, f"ppvae{serial}.model")
    return model, PyroGuide(fit, model, f"ppvae{serial}.guide")
