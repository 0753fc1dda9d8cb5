"""Importance sampling beside the loop that common VAE libraries have, and the memory it takes.

pytest tests/benchmarks/test_evidence_cost.py --benchmark-enable -s
"""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

import ppvae

STATUS = Path("/proc/self/status")
SHAPE = {"x_dim": 784, "latent_dim": 20, "hidden": (400,)}


def pair(x: Tensor) -> ppvae.Fit:
    data = ppvae.Data("bits", x, x[:1], x[:1], "bernoulli", "static")
    return ppvae.fit(ppvae.create("vae", **SHAPE), data, steps=200, progress=False)


def bits(count: int) -> Tensor:
    return torch.bernoulli(torch.full((count, 784), 0.3), generator=torch.Generator().manual_seed(0))


def test_against_a_loop_that_encodes_again(
    rounds: int, paired: Callable[..., dict[str, float]], clock: Callable[[Callable[[], object]], float]
) -> None:
    """Datum by datum, chunk by chunk of 100 draws: encode x, draw, decode, average."""
    samples, count = (5000, 20) if rounds > 1 else (200, 2)
    x = bits(500 if rounds > 1 else 100)
    fit = pair(x)
    strategy, layout = fit.strategy, fit.strategy.layout
    encoder = torch.nn.Sequential(strategy.get_submodule("encoder"), strategy.get_submodule("head"))
    logits = fit.model.get_submodule("decoder").get_submodule("logits")

    @torch.no_grad()
    def loop() -> list[float]:
        found = []
        for datum in x[:count]:
            parts = []
            for _ in range(samples // 100):
                phi = layout.unpack(encoder(datum.expand(100, -1)))
                q = torch.distributions.Normal(phi["loc"], phi["scale"])
                z = q.sample()
                log_w = torch.distributions.Bernoulli(logits=logits(z)).log_prob(datum).sum(-1)
                log_w += torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(-1) - q.log_prob(z).sum(-1)
                parts.append(log_w)
            found.append(torch.cat(parts).logsumexp(0).item() - math.log(samples))
        return found

    # both look at the same data; ours has them all at once
    theirs = torch.tensor(loop())
    ours = torch.from_numpy(ppvae.log_marginal(fit, x[:count], num_samples=samples)["log_marginal"].values)
    assert (ours - theirs).abs().max() < (1 if rounds > 1 else 5)  # the same number
    paired(
        f"log p(x) of {len(x)} data, {samples} draws, 20-400-784, a datum",
        ppvae=lambda: clock(lambda: ppvae.log_marginal(fit, x, num_samples=samples)) / len(x),
        compiled=lambda: clock(lambda: ppvae.log_marginal(fit, x, num_samples=samples, compile=True)) / len(x),
        loop=lambda: clock(loop) / count,
    )


def test_memory(rounds: int) -> None:
    """Peak memory above the start grows neither with draws nor with data."""
    if "VmHWM" not in (STATUS.read_text() if STATUS.exists() else ""):
        pytest.skip("reads the peak from /proc/self/status")
    sizes = [(50, 100), (500, 100), (50, 1000)]
    if rounds > 1:
        sizes += [(5000, 100), (50, 10_000), (5000, 10_000)]
    program = "import sys; sys.path.insert(0, {!r}); import test_evidence_cost as t; t.measure({}, {})"
    grown = {}
    for samples, count in sizes:
        run = subprocess.run(
            [sys.executable, "-c", program.format(str(__file__).rpartition("/")[0], samples, count)],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        grown[samples, count] = float(run.stdout)
        print(f"  {samples:5d} draws × {count:6d} data: {grown[samples, count]:6.0f} MB above the start")
    data = 4 * 784 * max(count for _, count in sizes) / 2**20  # x itself grows
    assert max(grown.values()) < 1000 + data


def measure(samples: int, count: int) -> None:
    """Prints the growth of the peak in MB; for a process of its own."""
    x = bits(count)
    fit = pair(x)
    before = held("VmRSS")  # what is held now; the peak so far may be higher
    ppvae.log_marginal(fit, x, num_samples=samples)
    print(held("VmHWM") - before)


def held(field: str) -> float:
    """MB of this process alone; getrusage's peak may be that of the process which started this one."""
    (line,) = (line for line in STATUS.read_text().splitlines() if line.startswith(field + ":"))
    return int(line.split()[1]) / 1024
