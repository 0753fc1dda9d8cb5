"""How noisy each gradient estimator is on a pair."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from conftest import Untouched
from torch import Tensor

import ppvae
from ppvae.pair.posterior import Posterior
from ppvae.variational.estimator import Estimator


def small_fit(inference: str = "amortized") -> tuple[ppvae.Fit, Tensor]:
    data = ppvae.load_data("digits", num_train=100)
    torch.manual_seed(0)
    model = ppvae.create("vae", x_dim=64, latent_dim=3, hidden=[10])
    return ppvae.fit(model, data, inference, epochs=3, lr=0.01), data.test[:10]


def test_gradient_variance_is_that_of_repeated_estimates(untouched: Untouched) -> None:
    """By hand from as many backward passes; nothing of the fit changes."""
    fit, x = small_fit()
    with untouched(fit.model, fit.strategy):
        found = ppvae.gradient_variance(fit, x, num_particles=2, repeats=400)
    assert list(found.gradient.values) == ["reparam", "stl", "score", "loo"]
    layout = fit.strategy.layout
    rows = layout.pack(fit.posterior(x).phi, len(x)).detach()
    torch.manual_seed(1)
    gradients = []
    for _ in range(400):
        leaf = rows.clone().requires_grad_()
        bound, _ = Estimator("elbo", "score").estimate(fit.model, Posterior(fit.model, layout.unpack(leaf)), x, 2)
        gradients.append(torch.autograd.grad(bound.sum(), leaf)[0])
    by_hand = torch.stack(gradients).var(0).sum(-1).mean()
    # a variance of 400 draws has a relative error of √(κ/400); the score function's tails make κ about 20
    assert float(found.variance_phi.sel(gradient="score")) == pytest.approx(float(by_hand), rel=4 * math.sqrt(20 / 400))
    ratio = float(found.variance_phi.sel(gradient="score") / found.variance_phi.sel(gradient="reparam"))
    assert ratio > 10
    assert (found.seconds > 0).all()


def test_gradient_variance_leaves_out_what_does_not_apply_unless_asked_for() -> None:
    fit, x = small_fit()
    assert list(ppvae.gradient_variance(fit, x, num_particles=1, repeats=2).gradient.values) == [
        "reparam",
        "stl",
        "score",
    ]
    with pytest.raises(ppvae.PpvaeError, match="must be ≥ 2"):
        ppvae.gradient_variance(fit, x, gradients=["loo"], num_particles=1)
    refused: list[Callable[[], object]] = [
        lambda: ppvae.gradient_variance(fit, x, repeats=1),
        lambda: ppvae.gradient_variance(fit, x[0]),
        lambda: ppvae.gradient_variance("fit", x),  # type: ignore[arg-type]
        lambda: ppvae.gradient_variance(fit, x, "eblo"),  # type: ignore[arg-type]
        lambda: ppvae.gradient_variance(fit, x, gradients=["vimco"]),
    ]
    for action in refused:
        with pytest.raises(ppvae.PpvaeError):
            action()
