"""Every estimator of log p(x) on a VAE with 50 latents trained on real MNIST: what it finds, and how long it takes.

pytest tests/benchmarks/test_evidence.py --benchmark-enable -s

prints a table and draws .benchmarks/evidence.png. Skipped where MNIST is not available.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from matplotlib.figure import Figure
from test_mnist import BATCH, HIDDEN, LATENT, ROOT
from torch import Tensor

import ppvae

NUM_DATA = 50
CHAINS = 16
PICTURE = Path(".benchmarks/evidence.png")

#: name → (draws, method, its options)
RACE: dict[str, tuple[int, str, dict[str, Any]]] = {
    "prior": (5000, "prior", {}),
    "importance 100": (100, "importance", {}),
    "importance 1,000": (1000, "importance", {}),
    "importance 5,000": (5000, "importance", {}),
    "importance 50,000": (50_000, "importance", {}),
    "Student t 5,000": (5000, "importance", {"tails": 5.0}),
    "refined 1,000": (1000, "refined", {}),
    "laplace 1,000": (1000, "laplace", {}),
    "ais 100": (CHAINS, "ais", {"num_temperatures": 100}),
    "ais 500": (CHAINS, "ais", {"num_temperatures": 500}),
    "ais 2,000": (CHAINS, "ais", {"num_temperatures": 2000}),
    "auto 1,000": (1000, "auto", {}),
}
REFERENCE = "ais from q 1,500"


@pytest.fixture(scope="module")
def trained(request: pytest.FixtureRequest) -> tuple[ppvae.Fit, Tensor]:
    """A VAE, and the test images."""
    if not (ROOT / "MNIST" / "raw").is_dir():
        pytest.skip("needs MNIST")
    whole = request.config.getoption("--benchmark-enable")
    data = ppvae.load_data("mnist", treatment="static", root=ROOT, num_train=None if whole else 10_000)
    torch.manual_seed(0)
    model = ppvae.create("vae", x_dim=784, latent_dim=LATENT, hidden=(HIDDEN, HIDDEN))
    epochs = 15 if whole else 1
    fit = ppvae.fit(model, data, batch_size=BATCH, epochs=epochs, eval_every=epochs, patience=None, progress=False)
    return fit, data.test[: NUM_DATA if whole else 3]


def timed(fit: ppvae.Fit, x: Tensor, draws: int, method: str, options: dict[str, Any]) -> tuple[xr.Dataset, float]:
    start = time.perf_counter()
    found = ppvae.log_marginal(fit, x, num_samples=draws, method=method, options=options)
    return found, time.perf_counter() - start


def test_auto_beside_annealing(rounds: int, trained: tuple[ppvae.Fit, Tensor]) -> None:
    """Escalation against AIS from the prior for every image, with as many chains as weights need to pass."""
    fit, x = trained
    chains, temperatures = (200, 500) if rounds > 1 else (4, 3)
    auto, fast = timed(fit, x, 1000, "auto", {})
    ais, slow = timed(fit, x, chains, "ais", {"num_temperatures": temperatures})
    off = auto["log_marginal"] - ais["log_marginal"]
    error = float(off.std(ddof=1)) / len(x) ** 0.5
    print(
        f"\n{len(x)} MNIST digits: auto {fast:.1f} s, {float(auto['ok'].mean()):.0%} pass; AIS of {chains} chains, "
        f"{temperatures} temperatures {slow:.1f} s, {float(ais['ok'].mean()):.0%} pass: {slow / fast:.1f} times; "
        f"auto − AIS {float(off.mean()):+.3f} ± {error:.3f} nats"
    )
    assert off.notnull().all()


def test_every_estimator(rounds: int, trained: tuple[ppvae.Fit, Tensor]) -> None:
    whole = rounds > 1
    fit, x = trained
    epochs = fit.settings.epochs

    def race(draws: int, method: str, options: dict[str, Any]) -> tuple[xr.Dataset, float]:
        return timed(fit, x, draws, method, options)

    few = {"num_temperatures": 1500 if whole else 3, "start": "q"}
    entries = RACE if whole else {name: RACE[name] for name in ("importance 100", "refined 1,000", "auto 1,000")}
    found = {name: race(*entry) for name, entry in entries.items()}
    found[REFERENCE] = race(CHAINS if whole else 2, "ais", few)
    truth = found[REFERENCE][0]["log_marginal"]
    print(f"\nlog p(x) of {len(x)} MNIST digits, VAE {HIDDEN}-{HIDDEN}-{LATENT}, {epochs} epochs; nats/datum")
    print(f"  {'':20s} {'log p':>9s} {'to ' + REFERENCE:>24s} {'passed':>7s} {'seconds':>8s}")
    for name, (estimates, seconds) in found.items():
        off = estimates["log_marginal"] - truth
        error = float(off.std(ddof=1)) / len(x) ** 0.5
        mean, passed = float(estimates["log_marginal"].mean()), float(estimates["ok"].mean())
        print(f"  {name:20s} {mean:9.2f} {float(off.mean()):+15.3f} ± {error:.3f} {passed:7.0%} {seconds:8.1f}")
    methods, counts = np.unique(found["auto 1,000"][0]["method"], return_counts=True)
    print(f"  auto chose {dict(zip(methods.tolist(), counts.tolist(), strict=True))}")
    if whole:
        _draw({name: (float(e["log_marginal"].mean()), s, float(e["ok"].mean())) for name, (e, s) in found.items()})
    for estimates, _ in found.values():
        assert estimates["log_marginal"].notnull().all()


def _draw(found: dict[str, tuple[float, float, float]]) -> None:
    """log p̂ against seconds; hollow where the weights of more than a tenth of the data did not pass."""
    ax = Figure(figsize=(8, 4.5), layout="constrained").subplots()
    reference = found[REFERENCE][0]
    ax.axhline(reference, color="0.6", linestyle="--", linewidth=1)
    shown = {name: entry for name, entry in found.items() if entry[0] > reference - 8}
    for rank, (name, (value, seconds, passed)) in enumerate(sorted(shown.items(), key=lambda item: item[1][1])):
        colour = f"C{sorted({n.split()[0] for n in found}).index(name.split()[0])}"
        filled = passed >= 0.9
        ax.plot(seconds, value, "o", color=colour, markerfacecolor=colour if filled else "white", markersize=8)
        last = rank >= len(shown) - 3  # to the left, above and below in turn
        at = (-8, (8, -16, 20)[len(shown) - 1 - rank]) if last else (7, -10)
        label = f"{name} ({passed:.0%})"
        align = "right" if last else "left"
        ax.annotate(label, (seconds, value), xytext=at, textcoords="offset points", fontsize=8, ha=align)
    hidden = [f"{name} {entry[0]:.0f}" for name, entry in found.items() if name not in shown]
    ax.set(xscale="log", xlabel=f"seconds for {NUM_DATA} data", ylabel="mean log p̂(x), nats/datum")
    ax.set_title(
        "50-latent VAE on MNIST: hollow where weights fail; in brackets the share of data that pass"
        + (f"\nfar below: {', '.join(hidden)}" if hidden else ""),
        fontsize=9,
    )
    ax.margins(y=0.12)
    figure = ax.figure
    assert isinstance(figure, Figure)
    PICTURE.parent.mkdir(exist_ok=True)
    figure.savefig(PICTURE, dpi=110)
