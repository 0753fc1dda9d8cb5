"""Where the first non-finite numbers of a step are."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn

from ppvae.pair.densities import Densities
from ppvae.pair.local import Phi


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


def _names(named: Iterable[tuple[str, Tensor]]) -> list[str]:
    return [name for name, value in named if not bool(value.isfinite().all())]
