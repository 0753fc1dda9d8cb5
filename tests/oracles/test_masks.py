"""Masked likelihoods: the masked terms alone are gone."""

import math
from typing import cast

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

import ppvae
from ppvae import Posterior, log_densities
from ppvae.pair.densities import Densities
from ppvae.pair.local import Phi
from ppvae.variational.objectives.elbo import elbo

B, K = 5, 3
_generator = torch.Generator().manual_seed(163)


def numbers(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=_generator, dtype=torch.float64)


X, PI = numbers(B), numbers(K).softmax(-1)
Q = {"z_loc": numbers(B), "z_scale": numbers(B).exp()}


def normal(value: Tensor, loc: Tensor | float, scale: float) -> Tensor:
    """log Normal(value; loc, scale), written out."""
    return -0.5 * ((value - loc) / scale) ** 2 - math.log(scale) - 0.5 * math.log(2 * math.pi)


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-9)


class Masked(ppvae.Model):
    """z ~ Normal(0, 1), x [3] ~ Normal(z, 0.6), where NaN in x stands for "not observed"."""

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            likelihood = dist.Normal(z.unsqueeze(-1).expand(*z.shape, 3), 0.6).mask(~x.isnan())
            pyro.sample("x", likelihood.to_event(1), obs=x.nan_to_num())

    def guide(self, x: Tensor, phi: Phi) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(phi["z_loc"], phi["z_scale"]))


def scored(x: Tensor, given: Tensor) -> tuple[Densities, Tensor]:
    """The densities of `Masked` at z = given, and the bound's gradient to φ."""
    model, phi = Masked(), {name: value.clone().requires_grad_() for name, value in Q.items()}
    densities = log_densities(model, Posterior(model, phi), x, values={"z": given})
    (grad,) = torch.autograd.grad(elbo(densities).sum(), phi["z_loc"])
    return densities, grad


def test_masked_terms_alone_leave_the_likelihood() -> None:
    """The likelihood is the sum over observed entries; every other density is as without the mask; no NaN."""
    x = numbers(B, 3)
    holes = torch.zeros(B, 3, dtype=torch.bool)
    holes[0, 1] = holes[2] = True  # one entry, and all of a datum
    given = numbers(4, B)
    whole, _ = scored(x, given)
    masked, grad = scored(x.masked_fill(holes, math.nan), given)
    terms = normal(x, given.unsqueeze(-1), 0.6)
    close(whole.log_likelihood, terms.sum(-1))
    close(masked.log_likelihood, terms.masked_fill(holes, 0.0).sum(-1))
    close(masked.log_prior, whole.log_prior)
    close(masked.log_q, whole.log_q)
    assert grad.isfinite().all()


def test_a_mask_over_data_silences_those_data_alone() -> None:
    """poutine.mask by a mask [B]: likelihood 0 where masked, unchanged elsewhere."""
    keep = torch.tensor([True, False, True, True, False])

    def masked(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            with pyro.poutine.mask(mask=cast(torch.BoolTensor, keep)):
                pyro.sample("x", dist.Normal(z, 0.6), obs=x)

    given = numbers(4, B)
    model = Masked()
    densities = log_densities(masked, Posterior(model, Q), X, values={"z": given})
    close(densities.log_likelihood, normal(X, given, 0.6) * keep)
    close(densities.log_prior, normal(given, 0.0, 1.0))


def test_a_mask_inside_a_mixture_marginalises_the_missing_entries() -> None:
    """With k summed out and entries masked, log p is that of the mixture of the remaining columns."""
    means = numbers(K, 3)
    x = numbers(B, 3)
    seen = torch.tensor([True, False, True]).expand(B, 3)

    def mixture(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Categorical(PI), infer={"enumerate": "parallel"})
            pyro.sample("x", dist.Normal(means[k], 0.6).mask(seen).to_event(1), obs=x)

    densities = log_densities(mixture, lambda x: None, x)
    remaining = [PI[k].log() + normal(x[:, [0, 2]], means[k, [0, 2]], 0.6).sum(-1) for k in range(K)]
    close(densities.log_joint, torch.stack(remaining).logsumexp(0)[None])
