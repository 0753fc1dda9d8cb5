"""Whether data drawn from a trained model look like the data it was trained on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from ppvae import require
from ppvae.blocks import Cell
from ppvae.entry import entry
from ppvae.errors import PpvaeError
from ppvae.pair.drawing import gather, numbered, replicate
from ppvae.pair.pair import Pair, require_pair
from ppvae.pair.posterior import Posterior
from ppvae.randomness import block_seed, stream
from ppvae.tasks.sampling import sample

_STREAM, _STREAM_PRIOR = stream("diagnostics/predictive"), stream("diagnostics/predictive/prior")
#: replicated data sets in memory at once
_TOGETHER = 5

#: of data x [N, *event]: a number, or one for each coordinate
Statistic = Callable[[Tensor], Any]
STATISTICS: dict[str, Statistic] = {
    "mean": lambda x: x.double().mean(),
    "std": lambda x: x.double().std(),
    "coordinate_mean": lambda x: x.double().mean(0),
    "coordinate_std": lambda x: x.double().std(0),
}


@entry
def posterior_predictive_check(
    pair: Pair,
    x: Tensor,
    index: Tensor | None = None,
    *,
    statistics: Iterable[str] | Mapping[str, Statistic] | None = None,
    num_draws: int = 200,
    seed: int = 0,
) -> xr.Dataset:
    """Compare statistics of data with those of data sets that the model draws (Gelman, Meng & Stern 1996).

    A replicated data set has as many data as x: from the posterior, each xᵢ gives z ~ q(z | xᵢ) and the replicate
    p(x | z); from the prior, z ~ p(z). p_value is the share of replicates whose statistic is above that of x, equal
    ones count half. Values near 0 or 1 say that the model misses what the statistic measures. Replicates from the
    posterior depend on xᵢ, so that their p-values crowd around ½: a value near ½ is only weak evidence for the model.

    Args:
        pair: a trained pair.
        x: data [N, *event], at least two.
        index: the positions of x in the training set, to use q as training left it; where None, φ is inferred again.
        statistics: names of `STATISTICS` (all of them by default), or functions of data [N, *event] that return a
            number or a tensor of numbers, by name.
        num_draws: R, replicated data sets from each source.
        seed: of all draws; the caller's random state is restored.

    Returns:
        Dataset: observed [statistic], replicated [source, replicate, statistic], p_value and p_value_se [source,
        statistic], the latter of R draws; source is "posterior" or "prior". Statistics of several numbers have one
        name each: mean, coordinate_mean[3]. Attributes num_data, num_draws, seed.

    Raises:
        PpvaeError: x or index is invalid as in `log_marginal`, a statistic is unknown, not a number or NaN, or data
            cannot be drawn from the model (see `sample`).
    """
    require_pair(pair)
    require.count("num_draws", num_draws)
    require.count("seed", seed, least=0)
    functions = _functions(statistics)
    x = pair.as_input(x)
    if len(x) < 2:
        raise PpvaeError("x holds one datum, and statistics need at least two: give more data")
    names, observed = _measure(functions, x)
    posterior = pair.posterior(x, index, seed=seed)
    replicated: dict[str, list[np.ndarray]] = {"posterior": [], "prior": []}
    for group, first in enumerate(range(0, num_draws, _TOGETHER)):
        count = min(_TOGETHER, num_draws - first)
        prior = sample(pair, count * len(x), seed=block_seed(seed, _STREAM_PRIOR, group)).x
        sources = {"posterior": _replicates(pair, posterior, x, count, seed, group), "prior": prior.split(len(x))}
        for source, sets in sources.items():
            for data in sets:
                same, values = _measure(functions, data)
                if same != names:
                    raise PpvaeError(
                        "a statistic changes its shape with the data: return the same number of values each time"
                    )
                replicated[source].append(values)
    drawn = np.stack([np.stack(replicated[source]) for source in replicated])
    p = (drawn > observed).mean(1) + 0.5 * (drawn == observed).mean(1)
    return xr.Dataset(
        {
            "observed": ("statistic", observed),
            "replicated": (("source", "replicate", "statistic"), drawn),
            "p_value": (("source", "statistic"), p),
            "p_value_se": (("source", "statistic"), np.sqrt(p * (1 - p) / num_draws)),
        },
        coords={"source": list(replicated), "replicate": np.arange(num_draws), "statistic": names},
        attrs={"num_data": len(x), "num_draws": num_draws, "seed": seed},
    )


def _functions(statistics: Iterable[str] | Mapping[str, Statistic] | None) -> dict[str, Statistic]:
    if statistics is None:
        return STATISTICS
    if isinstance(statistics, Mapping):
        if wrong := [name for name, function in statistics.items() if not callable(function)]:
            raise PpvaeError(f"statistic {wrong[0]!r} is not a function of data: {require.show(statistics[wrong[0]])}")
        chosen = {str(name): function for name, function in statistics.items()}
    else:
        if isinstance(statistics, str) or not isinstance(statistics, Iterable):
            raise PpvaeError(f"statistics must be names or functions by name, got {require.show(statistics)}")
        chosen = {name: STATISTICS[require.one_of("statistic", name, STATISTICS)] for name in statistics}
    if not chosen:
        raise PpvaeError("statistics is empty: give at least one, or None for all")
    return chosen


def _measure(functions: Mapping[str, Statistic], x: Tensor) -> tuple[list[str], np.ndarray]:
    """A name and a value for every number of every statistic of data x."""
    names: list[str] = []
    values: list[np.ndarray] = []
    for name, function in functions.items():
        with torch.no_grad():
            result = function(x)
        try:
            value = torch.as_tensor(result, dtype=torch.float64).cpu().numpy()
        except (TypeError, ValueError, RuntimeError) as error:
            raise PpvaeError(f"statistic {name!r} returned {require.show(result)}, which is not a number") from error
        if np.isnan(value).any():
            raise PpvaeError(f"statistic {name!r} is NaN: it must be a number for the data and for every replicate")
        names += numbered(name, value.shape)
        values.append(value.reshape(-1))
    return names, np.concatenate(values)


def _replicates(pair: Pair, posterior: Posterior, x: Tensor, count: int, seed: int, group: int) -> Tensor:
    """Data sets [count, N, *event] from q(z | x) and p(x | z)."""

    def of(cell: Cell) -> list[Tensor]:
        return [cell.cut(replicate(pair, posterior, x, cell.index).x)]

    (sets,) = gather(pair, len(x), count, of, seed, _STREAM, group)
    return sets
