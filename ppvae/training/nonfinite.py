"""What is wrong with the numbers of a step: not finite, or above what a bound can be."""

from __future__ import annotations

import math
from collections.abc import Iterable

from torch import Tensor, nn

from ppvae.pair.densities import Densities
from ppvae.pair.local import Phi

#: the mean of a weight is p(x), so that one above e^40 p(x) has a probability below e^−40 (Markov), whatever q is
MOST_LOG_WEIGHT = 40.0


def describe_nonfinite(modules: Iterable[nn.Module], phi: Phi, densities: Densities) -> str:
    """Which sites, φ and parameters of the modules hold non-finite numbers."""
    sites = {
        **densities.site_log_prob,
        **{f"q({name})": term for name, term in densities.site_log_q.items()},
    }
    nonfinite = {
        "log-density of site": _names(sites.items()),
        "φ": _names(phi.items()),
        "parameter": _names(named for module in modules for named in module.named_parameters()),
    }
    parts = [f"{kind} {', '.join(names[:4])}" for kind, names in nonfinite.items() if names]
    where = "; ".join(parts) or "every density is finite, the penalty is not"
    return f"not finite: {where} (lower the learning rates, or bound the scales of the model)"


def describe_excess(values: Tensor, densities: Densities, log_p: Tensor | None = None) -> str | None:
    """Why the bounds [B] of some data cannot be bounds of log p(x), or None.

    A draw's weight has the mean p(x), which is at most 1 for discrete data. A weight far above it is a fault of
    rounding, or a prior that is not a density.

    Args:
        values: the objective of each datum, in nats.
        log_p: the exact log p(x) [B], where it is known.
    """
    values = values.detach()
    if log_p is None:
        if not densities.discrete_data:
            return None
        log_p = values.new_zeros(())
    excess = values - log_p
    worst = int(excess.argmax())
    if not float(excess[worst]) > MOST_LOG_WEIGHT:
        return None
    limit = float(log_p.expand_as(excess)[worst])
    sites = {**densities.site_log_prob, **{f"q({name})": -term for name, term in densities.site_log_q.items()}}
    shares = {name: float(term[:, worst].detach().max().nan_to_num(nan=-math.inf)) for name, term in sites.items()}
    largest = max(shares, key=lambda name: shares[name])
    return (
        f"the bound of a datum is {float(values[worst]):.4g}, and its log p(x) is at most {limit:.4g}: site {largest} "
        f"contributes {shares[largest]:.4g} nats (single precision may round its density: use "
        'precision="64-true", lower the learning rates, or bound the scales of the guide)'
    )


def _names(named: Iterable[tuple[str, Tensor]]) -> list[str]:
    return [name for name, value in named if not bool(value.isfinite().all())]
