"""A step of annealed importance sampling beside its gradient evaluations alone, on a VAE 784-200-200-50.

pytest tests/benchmarks/test_ais_step.py --benchmark-enable
"""

from __future__ import annotations

from collections.abc import Callable

import pyro
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

import ppvae
from ppvae.evidence.annealing import Annealing
from ppvae.evidence.methods.ais import ais
from ppvae.evidence.problem import Problem

DATA, CHAINS, LEAPFROG = 100, 20, 2


def test_ais_step(
    rounds: int, paired: Callable[..., dict[str, float]], clock: Callable[[Callable[[], object]], float]
) -> None:
    """100 datapoints × 20 chains: transitions with their weights and noise, against as many gradients.

    The gradients are those of log p(u) + β log p(x | u), by the library and written by hand.
    """
    steps = 10 if rounds > 1 else 1
    x = torch.bernoulli(torch.rand(DATA, 784, generator=torch.Generator().manual_seed(0)))
    model = ppvae.create("vae", x_dim=784, latent_dim=50, hidden=(200, 200))
    fit = ppvae.fit(model, ppvae.Data("bits", x, x, x, "bernoulli", "static"), steps=1, progress=False)
    asked = Problem(fit, x, None, 0, CHAINS)
    (_, block), *_ = asked.blocks()
    u = torch.randn(CHAINS, DATA, 50)
    chains: Annealing = ais(asked, num_temperatures=steps + 1, num_leapfrog=LEAPFROG, num_tuning=1)
    evaluations = steps * LEAPFROG + 1  # one of them at the start
    decode = fit.model.get_submodule("decoder").get_submodule("logits")

    def by_hand(u: Tensor) -> Tensor:
        loss = binary_cross_entropy_with_logits(decode(u), x.expand(CHAINS, -1, -1), reduction="none").sum(-1)
        return -0.5 * u.square().sum(-1) - 0.5 * loss

    with torch.no_grad(), pyro.validation_enabled(False):
        path, _ = chains.tuned(block, CHAINS)

        def gradients() -> None:
            for _ in range(evaluations):
                path.gradient(u, 0.5)

        def hand_written() -> None:
            for _ in range(evaluations):
                with torch.enable_grad():
                    leaf = u.detach().requires_grad_()
                    torch.autograd.grad(by_hand(leaf).sum(), leaf)

        paired(
            f"AIS, {steps} temperatures of {LEAPFROG} leapfrog steps, {CHAINS} chains × {DATA} data, 50-200-200-784",
            gradients=lambda: clock(gradients),
            hand_written=lambda: clock(hand_written),
            ais=lambda: clock(lambda: chains.run(block, u, CHAINS)),
        )
