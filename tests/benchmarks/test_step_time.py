"""A training step of `ppvae.fit` beside a hand-written torch loop and Pyro's `SVI.step`, on one VAE 784-400-20.

pytest tests/benchmarks/test_step_time.py --benchmark-enable
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.optim.optim import PyroOptim
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, softplus

import ppvae

N = 6400  # whole batches alone


def data() -> ppvae.Data:
    x = torch.bernoulli(torch.rand(N, 784, generator=torch.Generator().manual_seed(0)))
    return ppvae.Data("bits", x, x[:10], x[:10], "bernoulli", "static")


class Bare(nn.Module):
    """The same networks by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Sequential(nn.Linear(784, 400), nn.ReLU())
        self.head = nn.Linear(400, 40)
        self.decode = nn.Sequential(nn.Linear(20, 400), nn.ReLU(), nn.Linear(400, 784))

    def q(self, x: Tensor) -> tuple[Tensor, Tensor]:
        loc, raw = self.head(self.encode(x)).chunk(2, -1)
        return loc, softplus(raw)

    def forward(self, x: Tensor) -> Tensor:
        loc, scale = self.q(x)
        z = loc + scale * torch.randn_like(loc)
        nll = binary_cross_entropy_with_logits(self.decode(z), x, reduction="none").sum(-1)
        kl = 0.5 * (loc.square() + scale.square() - 1).sum(-1) - scale.log().sum(-1)
        return (nll + kl).mean()


def bare_steps(x: Tensor, batch: int, steps: int) -> float:
    """Seconds a step of the hand-written loop, loss read at each step as any loop does that guards against NaN."""
    net = Bare()
    optimizer = torch.optim.Adam(net.parameters(), 1e-3, fused=True)
    start, done = time.perf_counter(), 0
    while done < steps:
        for index in torch.randperm(len(x)).split(batch):
            loss = net(x[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss.item()
            done += 1
    return (time.perf_counter() - start) / done


def pyro_steps(x: Tensor, batch: int, steps: int) -> float:
    """Seconds a step of `SVI.step` on the same networks, as Pyro's tutorials write it."""
    pyro.clear_param_store()
    net = Bare()

    def model(x: Tensor) -> None:
        pyro.module("net", net)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(20), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=net.decode(z)).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        pyro.module("net", net)
        with pyro.plate("data", len(x)):
            loc, scale = net.q(x)
            pyro.sample("z", dist.Normal(loc, scale).to_event(1))

    svi = SVI(model, guide, PyroOptim(torch.optim.Adam, {"lr": 1e-3}), Trace_ELBO())
    start, done = time.perf_counter(), 0
    while done < steps:
        for index in torch.randperm(len(x)).split(batch):
            svi.step(x[index])
            done += 1
    seconds = (time.perf_counter() - start) / done
    pyro.clear_param_store()
    return seconds


def fit_steps(bits: ppvae.Data, batch: int, steps: int, compile: bool = False) -> float:
    """Seconds a step of `ppvae.fit`, by its own clock, which leaves validation out, after as many steps to warm up."""
    epochs = max(1, -(-steps * batch // N))
    fit = ppvae.fit(
        ppvae.create("vae", x_dim=784, latent_dim=20, hidden=(400,)), bits, batch_size=batch, compile=compile,
        epochs=2 * epochs, eval_every=epochs, patience=None, progress=False,
    )  # fmt: skip
    first, last = fit.history
    return (last["seconds"] - first["seconds"]) / (last["step"] - first["step"])


@pytest.mark.parametrize("batch", [20, 100, 256])
def test_step(batch: int, rounds: int, paired: Callable[..., dict[str, float]]) -> None:
    bits, steps = data(), 20 if rounds == 1 else 200
    ratios = paired(
        f"training step, VAE 784-400-20, B = {batch}",
        torch=lambda: bare_steps(bits.train, batch, steps),
        ppvae=lambda: fit_steps(bits, batch, steps),
        compiled=lambda: fit_steps(bits, batch, steps, compile=True),
        pyro=lambda: pyro_steps(bits.train, batch, steps),
    )
    assert all(ratio > 0 for ratio in ratios.values())


def test_per_datapoint_step_does_not_grow_with_the_data(rounds: int, paired: Callable[..., dict[str, float]]) -> None:
    """A step on 20 rows of 10³, and of 10⁶."""
    sizes = (10**3, 10**6) if rounds > 1 else (10**3, 10**4)
    data = {
        size: ppvae.Data("real", torch.randn(size, 4), torch.randn(10, 4), torch.randn(10, 4), "gaussian", "real")
        for size in sizes
    }

    steps = 20 if rounds == 1 else 1000
    paired(
        "per-datapoint step, B = 20",
        **{f"N = {n:,}": functools.partial(per_datapoint_steps, data[n], steps) for n in sizes},
    )


def per_datapoint_steps(data: ppvae.Data, steps: int) -> float:
    """Seconds a step on 20 rows."""
    model = ppvae.create("vae", x_dim=4, latent_dim=20, hidden=(400,), likelihood="gaussian")
    fit = ppvae.fit(
        model, data, "per-datapoint", batch_size=20, epochs=10**6, steps=steps, eval_every=10**6,
        patience=None, progress=False,
    )  # fmt: skip
    return fit.seconds / steps
