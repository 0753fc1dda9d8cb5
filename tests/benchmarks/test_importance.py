"""Importance sampling beside its own matrix products, on a VAE 784-400-20.

pytest tests/benchmarks/test_importance.py --benchmark-enable
"""

from __future__ import annotations

from collections.abc import Callable

import torch

import ppvae
from ppvae.blocks import DATA_BLOCK, PARTICLE_BLOCK
from ppvae.evidence.estimates import estimate
from ppvae.evidence.problem import Problem
from ppvae.evidence.proposal import Proposal


def test_importance_sampling(
    rounds: int, paired: Callable[..., dict[str, float]], clock: Callable[[Callable[[], object]], float]
) -> None:
    """100 datapoints: all of `log_marginal` against the decoder's two products on as many draws."""
    samples = 5000 if rounds > 1 else 2 * PARTICLE_BLOCK
    x = torch.bernoulli(torch.rand(DATA_BLOCK, 784, generator=torch.Generator().manual_seed(0)))
    model = ppvae.create("vae", x_dim=784, latent_dim=20, hidden=(400,))
    fit = ppvae.fit(model, ppvae.Data("bits", x, x, x, "bernoulli", "static"), steps=1, progress=False)
    up, out = torch.randn(20, 400), torch.randn(400, 784)

    def products() -> None:
        z = torch.randn(PARTICLE_BLOCK * DATA_BLOCK, 20)
        for _ in range(samples // PARTICLE_BLOCK):
            torch.mm(torch.mm(z, up), out)

    # compiled once, as a long evaluation has it
    posterior = fit.posterior(x)
    compiled = Problem(fit, x, None, seed=0, num_samples=samples, compile=True)

    paired(
        f"importance sampling, {samples} draws of {DATA_BLOCK} datapoints, 20-400-784",
        products=lambda: clock(products),
        ppvae=lambda: clock(lambda: ppvae.log_marginal(fit, x, num_samples=samples)),
        compiled=lambda: clock(lambda: estimate(compiled, Proposal(fit.model, posterior))),
    )
