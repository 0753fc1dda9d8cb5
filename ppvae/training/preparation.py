"""What happens to a model before its first step."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ppvae import require
from ppvae.data.dataset import Data
from ppvae.errors import PpvaeError
from ppvae.pair.densities import log_densities
from ppvae.pair.local import Phi
from ppvae.pair.model import Model, overrides
from ppvae.pair.posterior import Posterior
from ppvae.randomness import seeded
from ppvae.training.fitted import Fit
from ppvae.variational.estimator import Estimator
from ppvae.variational.strategy import Strategy


def in_precision_of(model: Model, data: Data) -> Tensor:
    """The training data in the model's precision."""
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.get_default_dtype())
    return data.train.to(dtype)


def posterior_of(origin: Fit, x: Tensor, trained: bool, at: Tensor) -> Phi:
    """φ of the training data `at` under a fit: its own rows, where it was trained on them, else inferred."""
    return origin.posterior(x[at], at if trained and origin.strategy.has_rows else None).phi


def trained_on(origin: Fit, data: Data) -> bool:
    """Whether a fit was trained on the data, as far as their names tell."""
    was = origin.settings
    one, other = (
        {key: value for key, value in (s or {}).items() if value is not None} for s in (was.source, data.source)
    )
    return (was.data, was.treatment, was.num_data, one) == (data.name, data.treatment, len(data.train), other)


def start_model(model: Model, data: Data) -> Tensor:
    """Run the model's `start(x)`, where it has one; returns the training data x in the model's precision."""
    x = in_precision_of(model, data)
    try:
        if overrides(model, "start"):
            model.start(x)
    except PpvaeError:
        raise
    except Exception as error:
        raise PpvaeError(f"{type(model).__name__}: start(x) fails on {data.name}, {require.show(error)}") from error
    return x


def default_gradient(estimator: Estimator, model: Model, strategy: Strategy, x: Tensor) -> Estimator:
    """Sticking the landing where KL terms are left to the draws: the score of log q is noise without a mean there."""
    with torch.no_grad(), seeded(0, device=x.device):
        phi = strategy.layout.unpack(strategy.start.repeat(len(x), 1))
        densities = log_densities(model, Posterior(model, phi), x)
    noisy = densities.reparameterized and not densities.closed_form
    return replace(estimator, gradient="stl", kl="mc") if noisy else estimator
