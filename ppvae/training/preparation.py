"""The preparation of a model for its first step."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ppvae import require
from ppvae.catalogue import MODELS
from ppvae.data.dataset import Data
from ppvae.data.preparation import require_precision
from ppvae.errors import PpvaeError
from ppvae.pair.checks import check
from ppvae.pair.densities import log_densities
from ppvae.pair.guide_family import set_family
from ppvae.pair.local import Phi
from ppvae.pair.model import Model, overrides
from ppvae.pair.observed import refuse_density
from ppvae.pair.posterior import Posterior
from ppvae.pair.precision import precision_of
from ppvae.pair.sharing import copied, shared_names
from ppvae.randomness import seeded
from ppvae.training.batches import batch_sizes, refuse_moments_of_batches
from ppvae.training.fitted import Fit
from ppvae.training.settings import Settings
from ppvae.variational.estimator import Estimator
from ppvae.variational.objective_choice import has_kl_terms, without_score
from ppvae.variational.strategy import Strategy, strategy_class


def prepared(model: Model | Fit, data: Data, settings: Settings) -> Fit:
    """The fit before its first step: a copy of the pair, started at the data, with its strategy and all settings.

    Raises:
        PpvaeError: the pair is not sound, or the family, the strategy or the gradient does not go with it.
    """
    origin, model = (model, model.model) if isinstance(model, Fit) else (None, model)
    if origin is not None and settings.family is None:
        settings = settings.replace(family=origin.settings.family, family_options=origin.settings.family_options)
    estimator = Estimator(settings.objective, settings.gradient, settings.kl, settings.beta, settings.free_bits)
    options = _options_beside(origin, settings)
    modules = {name: option for name, option in options.items() if isinstance(option, nn.Module)}
    model, others = copied(model, *modules.values())  # at once, as an encoder may share weights with the model
    options |= zip(modules, others, strict=True)
    model = model.to(data.train.device).train()  # another fit may have left it on an accelerator
    if settings.precision == "64-true":
        model = model.double()
    x = start_model(model, data) if origin is None and settings.train_model else in_precision_of(model, data)
    require_sound(MODELS.name_of(type(model)) or type(model).__name__, model, data, x)
    family = (settings.family, settings.family_options)
    if origin is None or family != (origin.settings.family, origin.settings.family_options):
        model.guide_family = None
        set_family(model, x, *family)
    strategy = strategy_class(settings.inference)(model, x, **options).to(x.dtype).train()
    refuse_moments_of_batches(strategy)
    if settings.gradient is None and settings.kl is None:
        estimator = default_gradient(estimator, model, strategy, data, x)
    estimator.suits(model, settings.num_particles)
    if origin is not None and strategy.layout.entries.keys() == origin.strategy.layout.entries.keys():
        strategy.warm_start(partial(posterior_of, origin, x, trained_on(origin, data)), origin.strategy, x)
    sizes = batch_sizes(nn.ModuleDict({"model": model, "strategy": strategy}), len(x), settings.batch_size)
    settings = settings.replace(gradient=estimator.gradient, kl=estimator.kl)
    settings = settings.for_batches(len(sizes), has_rows=strategy.has_rows)
    init = None if origin is None else origin.directory or "a fit in Python"
    made_in = torch.get_default_dtype() if origin is None else origin.made_in
    return Fit(model, strategy, settings, data.facts, init, made_in=made_in)


def require_sound(name: str, model: Model, data: Data, x: Tensor) -> None:
    """Refuse a pair that `check` refuses, and a density where the data are discrete.

    Args:
        name: of the model in messages.
        x: the training data [N, *event] in the model's precision.
    """
    x = data.draw(x[:7])
    check(model, x)
    refuse_density(name, model, data, x)


def _options_beside(origin: Fit | None, settings: Settings) -> dict[str, Any]:
    """The options of the strategy; an encoder that the origin was given too shares weights with the origin's model."""
    options = dict(settings.inference_options)
    encoder = options.get("encoder")
    if origin is None or encoder is None or encoder is not origin.settings.inference_options.get("encoder"):
        return options
    if shared_names(origin.strategy, origin.model):
        options["encoder"] = getattr(origin.strategy, "encoder", encoder)
    return options


def in_precision_of(model: Model, data: Data) -> Tensor:
    """The training data in the model's precision."""
    dtype = precision_of(model)
    require_precision(f"data {data.name!r}", data.train, dtype)
    return data.train.to(dtype)


def posterior_of(origin: Fit, x: Tensor, trained: bool, at: Tensor) -> Phi:
    """φ of the training data `at` under a fit: its rows where it was trained on these data, else inferred."""
    return origin.posterior(x[at], at if trained and origin.strategy.has_rows else None).phi


def trained_on(origin: Fit, data: Data) -> bool:
    """Whether a fit was trained on the data, judged by their names and sources."""
    was, now = (
        replace(
            facts,
            source={key: value for key, value in (facts.source or {}).items() if value is not None},
            preparation=None,
        )
        for facts in (origin.data, data.facts)
    )
    return was == now


def start_model(model: Model, data: Data) -> Tensor:
    """Run the model's `start(x)`, where it has one; returns the training data x in the model's precision."""
    x = in_precision_of(model, data)
    try:
        if overrides(model, "start"):
            model.start(x)
    except PpvaeError:
        raise
    except Exception as error:
        raise PpvaeError(f"{type(model).__name__}: start(x) fails on {data.name}: {require.show(error)}") from error
    return x


def default_gradient(estimator: Estimator, model: Model, strategy: Strategy, data: Data, x: Tensor) -> Estimator:
    """A gradient without the score of log q, where KL terms come from draws: there the score is noise of mean 0."""
    quiet = without_score(estimator.objective) if has_kl_terms(estimator.objective) else None
    if quiet is None:
        return estimator
    x = data.draw(x[:2])
    with torch.no_grad(), seeded(0, device=x.device):
        phi = strategy.layout.unpack(strategy.start.repeat(len(x), 1))
        densities = log_densities(model, Posterior(model, phi), x)
    noisy = densities.reparameterized and not densities.closed_form
    return replace(estimator, gradient=quiet, kl="mc") if noisy else estimator
