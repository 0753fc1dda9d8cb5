"""An epoch of a VAE on real MNIST beside a hand-written torch loop; skipped where MNIST is not available.

pytest tests/benchmarks/test_mnist.py --benchmark-enable
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, softplus

import ppvae
from ppvae.nn.networks import mlp

ROOT = Path(os.environ.get("PPVAE_DATA", Path(__file__).parents[3] / "shared" / "data"))
LATENT, HIDDEN, BATCH = 50, 200, 100


class Bare(nn.Module):
    """784-200-200-50-200-200-784, by hand."""

    def __init__(self, mean: Tensor) -> None:
        super().__init__()
        self.encode = mlp(784, HIDDEN, HIDDEN, 2 * LATENT)
        self.decode = mlp(LATENT, HIDDEN, HIDDEN, 784)
        bias = self.decode[-1].bias
        assert isinstance(bias, Tensor)
        with torch.no_grad():
            bias.copy_(mean.clamp(0.01, 0.99).logit())

    def forward(self, x: Tensor) -> Tensor:
        loc, raw = self.encode(x).chunk(2, -1)
        scale = softplus(raw)
        z = loc + scale * torch.randn_like(loc)
        nll = binary_cross_entropy_with_logits(self.decode(z), x, reduction="none").sum(-1)
        kl = 0.5 * (loc.square() + scale.square() - 1).sum(-1) - scale.log().sum(-1)
        return (nll + kl).mean()


def bare_epoch(train: Tensor) -> float:
    """Seconds of the hand-written loop, dynamic binarisation, Adam 1e-3."""
    net = Bare(train.mean(0))
    optimizer = torch.optim.Adam(net.parameters(), 1e-3, fused=True)
    start = time.perf_counter()
    for index in torch.randperm(len(train)).split(BATCH):
        loss = net(torch.bernoulli(train[index]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()
    return time.perf_counter() - start


def fit_epoch(data: ppvae.Data, compile: bool = False) -> float:
    """Seconds of the same through `ppvae.fit`: the second epoch."""
    model = ppvae.create("vae", x_dim=784, latent_dim=LATENT, hidden=(HIDDEN, HIDDEN))
    first, second = ppvae.fit(
        model, data, batch_size=BATCH, epochs=2, eval_every=1, patience=None, progress=False, compile=compile
    ).history
    return second["seconds"] - first["seconds"]


@pytest.mark.skipif(not (ROOT / "MNIST" / "raw").is_dir(), reason="MNIST is not available")
def test_epoch(rounds: int, paired: Callable[..., dict[str, float]]) -> None:
    data = ppvae.load_data("mnist", treatment="dynamic", root=ROOT, num_train=None if rounds > 1 else 1000)
    paired(
        f"epoch of MNIST, {len(data.train):,} images, VAE 784-200-200-50, B = {BATCH}",
        torch=lambda: bare_epoch(data.train),
        ppvae=lambda: fit_epoch(data),
        compiled=lambda: fit_epoch(data, compile=True),
    )
