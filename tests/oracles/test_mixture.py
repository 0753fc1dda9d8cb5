"""The Gaussian mixture against scikit-learn, hand-written sums and Pyro's own enumeration."""

from typing import Any, Literal, cast

import numpy as np
import pytest
import torch
from pyro.infer import TraceEnum_ELBO
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits, load_iris
from sklearn.decomposition import PCA
from sklearn.mixture import GaussianMixture
from torch import Tensor

import ppvae
from ppvae import Posterior, log_densities
from ppvae.models import GMM
from ppvae.pair.sites import Grad
from ppvae.variational.objectives.elbo import elbo

Covariance = Literal["diagonal", "full"]
Assignment = Literal["categorical", "summed"]
both_covariances = pytest.mark.parametrize("covariance", ["diagonal", "full"])

B, D, K = 9, 4, 3


def mixture(covariance: Covariance, assignment: Assignment = "categorical") -> tuple[GMM, Tensor]:
    """A mixture in float64 with every parameter at random, in units other than one, and data near its centres."""
    torch.manual_seed(29)
    model = cast(GMM, GMM(D, K, covariance=covariance, assignment=assignment).double())
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(0.7 * torch.randn_like(p))
        model.shift.copy_(torch.randn(D))
        model.scale.copy_(torch.rand(D) + 0.5)
        x = model.shift + model.scale * 1.5 * torch.randn(B, D, dtype=torch.float64)
    return model, x


def covariances(model: GMM) -> Tensor:
    """Σ_k, [K, D, D]."""
    components = model.components()
    if isinstance(components, torch.distributions.MultivariateNormal):
        return components.covariance_matrix
    return torch.diag_embed(components.variance)


def as_sklearn(model: GMM) -> GaussianMixture:
    """scikit-learn's mixture at the same parameters."""
    full = covariances(model).detach()
    out = GaussianMixture(K, covariance_type="full")
    out.weights_ = model.logits.softmax(-1).detach().numpy()
    out.means_ = model.components().mean.detach().numpy()
    out.covariances_ = full.numpy()
    out.precisions_cholesky_ = torch.linalg.inv(torch.linalg.cholesky(full)).mT.numpy()
    return out


@both_covariances
def test_summed_bound_is_log_prob_and_scikit_learns(covariance: Covariance) -> None:
    """With k summed out, bound = log_prob = GaussianMixture.score_samples, whatever the number of particles."""
    model, x = mixture(covariance, "summed")
    expected = torch.as_tensor(as_sklearn(model).score_samples(x.numpy()))
    torch.testing.assert_close(model.log_prob(x), expected, rtol=0, atol=1e-8)
    for particles in (1, 3):
        densities = log_densities(model, Posterior(model, {}), x, particles)
        torch.testing.assert_close(elbo(densities), expected, rtol=0, atol=1e-8)
        assert not densities.sampled


@both_covariances
def test_responsibilities_are_scikit_learns(covariance: Covariance) -> None:
    model, x = mixture(covariance)
    expected = torch.as_tensor(as_sklearn(model).predict_proba(x.numpy()))
    torch.testing.assert_close(model.responsibilities(x), expected, rtol=0, atol=1e-8)


@both_covariances
def test_bound_is_tight_at_the_responsibilities(covariance: Covariance) -> None:
    """q = p(k | x): the enumerated bound is log p(x), and every row weighs p(x)."""
    model, x = mixture(covariance)
    densities = log_densities(model, Posterior(model, model.exact_phi(x)), x)
    torch.testing.assert_close(elbo(densities), model.log_prob(x), rtol=0, atol=1e-8)
    torch.testing.assert_close(densities.log_ratio, model.log_prob(x).expand(K, -1), rtol=0, atol=1e-8)


@both_covariances
def test_enumerated_bound_is_the_sum_over_k(covariance: Covariance) -> None:
    """L = Σ_k q_k (log p(x, k) − log q_k) per datum, each term by hand; log p̂ is exact, not a draw."""
    model, x = mixture(covariance)
    logits = torch.randn(B, K, dtype=torch.float64)
    densities = log_densities(model, Posterior(model, {"logits": logits}), x)
    q = logits.softmax(-1)
    weights, means, sigmas = model.logits.softmax(-1), model.components().mean, covariances(model)
    expected = torch.zeros(B, dtype=torch.float64)
    for k in range(K):
        log_p_k = torch.distributions.MultivariateNormal(means[k], sigmas[k]).log_prob(x) + weights[k].log()
        expected = expected + q[:, k] * (log_p_k - q[:, k].log())
    torch.testing.assert_close(elbo(densities), expected, rtol=0, atol=1e-8)
    assert densities.values["k"].tolist() == [[k] * B for k in range(K)]
    estimate = (densities.log_weight + densities.log_ratio).logsumexp(0)
    torch.testing.assert_close(estimate, model.log_prob(x), rtol=0, atol=1e-8)


@pytest.mark.parametrize("grad", ["full", "path"])
@both_covariances
def test_enumerated_bound_and_its_gradients_are_pyros(covariance: Covariance, grad: Grad) -> None:
    """The total over data, ∂φ and ∂θ = those of Pyro's TraceEnum_ELBO."""
    model, x = mixture(covariance)
    logits = torch.randn(B, K, dtype=torch.float64, requires_grad=True)
    posterior = Posterior(model, {"logits": logits})
    leaves = [logits, *model.parameters()]
    total = elbo(log_densities(model, posterior, x, grad=grad)).sum()
    theirs = TraceEnum_ELBO(max_plate_nesting=1).differentiable_loss(model, posterior, x)
    torch.testing.assert_close(total, -theirs, rtol=0, atol=1e-8)
    pairs = zip(torch.autograd.grad(total, leaves), torch.autograd.grad(-theirs, leaves), strict=True)
    for ours, pyros in pairs:
        torch.testing.assert_close(ours, pyros, rtol=1e-8, atol=1e-8)


@both_covariances
def test_gradient_of_log_prob_is_that_of_the_summed_bound(covariance: Covariance) -> None:
    """Summing k out in the model is differentiable: ∂θ of the bound = ∂θ of log_prob."""
    model, x = mixture(covariance, "summed")
    leaves = list(model.parameters())
    bound = elbo(log_densities(model, Posterior(model, {}), x)).sum()
    pairs = zip(torch.autograd.grad(bound, leaves), torch.autograd.grad(model.log_prob(x).sum(), leaves), strict=True)
    for ours, direct in pairs:
        torch.testing.assert_close(ours, direct, rtol=1e-8, atol=1e-8)


@both_covariances
def test_penalty_is_half_reg_times_the_weighted_trace_of_precisions(covariance: Covariance) -> None:
    """log_penalty = −½ · reg · Σ_k N π_k tr Σ_k⁻¹, with no gradient to π."""
    model, _ = mixture(covariance)
    model.reg_covar = 0.3
    model.num_data.fill_(11)
    traces = torch.linalg.inv(covariances(model)).diagonal(dim1=-2, dim2=-1).sum(-1)
    expected = -0.5 * 0.3 * 11 * (model.logits.softmax(-1) * traces).sum()
    torch.testing.assert_close(model.log_penalty(), expected)
    grads = torch.autograd.grad(model.log_penalty(), [model.logits, model.log_scale], allow_unused=True)
    assert grads[0] is None
    assert grads[1] is not None


class Started(GMM):
    """A mixture whose fit starts where it is told to."""

    given: tuple[Tensor, Tensor, Tensor]

    def start(self, x: Tensor) -> None:
        super().start(x)
        weights, means, factors = self.given
        with torch.no_grad():
            self.logits.copy_(weights.log())
            self.raw_loc.copy_((means - self.shift) / self.scale)
            factors = factors / self.scale.unsqueeze(-1)
            self.log_scale.copy_(factors.diagonal(dim1=-2, dim2=-1).log())
            if self.covariance == "full":
                self.off_diagonal.copy_(factors.tril(-1))


def table(name: str) -> tuple[np.ndarray, int]:
    """Iris with 3 components; digits (in [0, 1]) on 10 principal components, with 10 components."""
    if name == "iris":
        return np.asarray(load_iris(return_X_y=True)[0]), 3
    digits = np.asarray(load_digits(return_X_y=True)[0]) / 16
    return PCA(10, svd_solver="full").fit_transform(digits), 10


def clusters(rows: np.ndarray, components: int, diagonal: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights, means and covariances [K, D, D] of k-means clusters."""
    labels = KMeans(components, random_state=0).fit(rows).labels_
    parts = [rows[labels == k] for k in range(components)]
    spreads = [np.cov(part.T, bias=True) + 1e-2 * np.eye(rows.shape[1]) for part in parts]
    return (
        np.array([len(part) / len(rows) for part in parts]),
        np.stack([part.mean(0) for part in parts]),
        np.stack([np.diag(np.diag(spread)) if diagonal else spread for spread in spreads]),
    )


def run_em(rows: np.ndarray, components: int, covariance: Covariance, tol: float) -> tuple[Any, Started]:
    """scikit-learn's EM with reg_covar = 0.01 from k-means clusters, and our mixture at the same start."""
    weights, means, spreads = clusters(rows, components, covariance == "diagonal")
    precisions = np.linalg.inv(spreads)
    em = GaussianMixture(
        components,
        covariance_type="full" if covariance == "full" else "diag",
        reg_covar=1e-2,
        tol=tol,
        max_iter=5000,
        weights_init=weights,
        means_init=means,
        precisions_init=precisions if covariance == "full" else precisions.diagonal(axis1=1, axis2=2),
    ).fit(rows)
    assert em.converged_
    model = cast(
        Started, Started(rows.shape[1], components, covariance=covariance, reg_covar=1e-2, variance_floor=1e-12)
    )
    model.given = tensors(weights, means, np.linalg.cholesky(spreads))
    return em, model


def tensors(*arrays: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
    a, b, c = map(torch.as_tensor, arrays)
    return a, b, c


@both_covariances
def test_fixed_point_of_em_is_stationary(covariance: Covariance) -> None:
    """Where scikit-learn's EM with reg_covar has converged, the penalised objective has no gradient; else it has."""
    rows, components = table("iris")
    em, model = run_em(rows, components, covariance, tol=1e-13)
    x = torch.as_tensor(rows)
    weights, means, spreads = (np.asarray(a) for a in (em.weights_, em.means_, em.covariances_))
    if covariance == "diagonal":
        spreads = np.stack([np.diag(spread) for spread in spreads])
    model.given = tensors(weights, means, np.linalg.cholesky(spreads))
    model.double().start(x)

    def largest_gradient() -> float:
        objective = model.log_prob(x).mean() + model.log_penalty() / len(x)
        return max(g.abs().max().item() for g in torch.autograd.grad(objective, list(model.parameters())))

    assert largest_gradient() < 1e-6
    model.reg_covar = 0.0
    assert largest_gradient() > 1e-2


@pytest.mark.parametrize("name", ["iris", "digits"])
@both_covariances
def test_gradient_fit_meets_em(name: str, covariance: Covariance) -> None:
    """From one start and on one objective, gradient ascent ends within 0.01 nats/datum of EM's log likelihood."""
    rows, components = table(name)
    em, model = run_em(rows, components, covariance, tol=1e-8)
    x = torch.as_tensor(rows).float()
    data = ppvae.Data(name, x, x[:2], x[:2], "gaussian", "real")
    fit = ppvae.fit(model, data, "exact", batch_size=len(x), lr=0.02, epochs=400, eval_every=400, patience=None)
    model.start(x)
    before, after = (cast(GMM, m).log_prob(x).mean().item() for m in (model, fit.model))
    assert abs(after - em.score(rows)) < 0.01
    assert abs(before - em.score(rows)) > 0.01
