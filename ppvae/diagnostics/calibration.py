"""Whether q(z | x) has the right width and the right place, judged on data that the model draws."""

from __future__ import annotations

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from ppvae import require
from ppvae.blocks import Cell
from ppvae.entry import entry
from ppvae.errors import PpvaeError
from ppvae.pair.densities import log_densities
from ppvae.pair.drawing import coordinates, gather, latents, names
from ppvae.pair.pair import Pair, require_pair
from ppvae.randomness import block_seed, stream
from ppvae.tasks.sampling import sample

_STREAM = stream("diagnostics/calibration")
#: levels of the credible intervals whose coverage is counted
LEVELS = (0.5, 0.8, 0.9, 0.95)
#: the most bins of the histogram of ranks, and the least data expected in each
MOST_BINS, _IN_A_BIN = 20, 5
#: rate of false alarms of the warning, over all quantities together
ALARM = 0.01


@entry
def sbc(pair: Pair, *, num_data: int = 500, num_draws: int = 199, seed: int = 0) -> xr.Dataset:
    """Simulation-based calibration (Talts, Betancourt, Simpson, Vehtari & Gelman 2018), and coverage, of q.

    A latent z and a datum x are drawn from the trained model, q is inferred for x as for any new datum, and the rank
    of a quantity of z among those of L draws of q is recorded. Over many such data the ranks are uniform on 0 … L if q
    is the posterior; if q is too narrow they crowd at both ends, if too wide in the middle, if shifted at one end. The
    quantities are every coordinate of z, log p(z), and log p(x|z), which depends on the data: without it q = p(z) would
    pass (Modrák, Moon, Kim, Bürkner, Huurre, Faltejsková, Gelman & Vehtari 2023). Equal values, as of discrete
    latents, are ranked among each other at random.

    This judges q on the model's own data, on average over them. It judges neither the model nor q on other data.

    Args:
        pair: a trained pair.
        num_data: N, the number of simulated data, at least 20.
        num_draws: L, draws of q for each, at least 39. If L + 1 is a multiple of 40, every level has an exact interval;
            else `nominal` has the closest level.
        seed: of all draws. A datum's ranks depend on it and on the datum's number, not on N; the caller's random state
            is restored.

    Returns:
        Dataset: rank [datum, quantity]; count [quantity, bin] of them, expected_count [bin]; over quantity: chi2 and
        p_value (χ² of the ranks in `num_bins` bins against the uniform distribution), rank_mean (of (rank + ½)/(L + 1);
        ½ is expected), rank_spread (their variance over that of uniform ranks: above 1 where q is too narrow); coverage
        [quantity, level] of central credible intervals, coverage_se (binomial, of a calibrated q) and nominal [level].
        Attributes num_data, num_draws, num_bins, seed, and warning: the quantities with p < 0.01 / their number, or "".

    Raises:
        PpvaeError: an argument is out of range, data cannot be drawn from the model (see `sample`), or the guide has no
            latents.
    """
    require_pair(pair)
    require.count("num_data", num_data, least=20)
    require.count("num_draws", num_draws, least=39)
    require.count("seed", seed, least=0)
    simulated = sample(pair, num_data, seed=block_seed(seed, _STREAM))
    rank, quantities = _ranks(pair, simulated.x, simulated.latents, num_draws, seed)
    bins = min(MOST_BINS, num_data // _IN_A_BIN)
    counts, expected = rank_counts(rank, num_draws, bins)
    chi2, p_value = uniformity(counts, expected)
    place = (rank + 0.5) / (num_draws + 1)
    nominal, covered = _coverage(rank, num_draws)
    crowded = [name for name, p in zip(quantities, p_value, strict=True) if p < ALARM / len(quantities)]
    uniform_spread = (1 - 1 / (num_draws + 1) ** 2) / 12
    return xr.Dataset(
        {
            "rank": (("datum", "quantity"), rank),
            "count": (("quantity", "bin"), counts),
            "expected_count": ("bin", expected),
            "chi2": ("quantity", chi2, {"degrees_of_freedom": bins - 1}),
            "p_value": ("quantity", p_value),
            "rank_mean": ("quantity", place.mean(0), {"expected": 0.5, "se": (12 * num_data) ** -0.5}),
            "rank_spread": (
                "quantity",
                ((place - 0.5) ** 2).mean(0) / uniform_spread,
                {"expected": 1.0, "se": (0.8 / num_data) ** 0.5},
            ),
            "coverage": (("quantity", "level"), covered),
            "coverage_se": ("level", np.sqrt(nominal * (1 - nominal) / num_data)),
            "nominal": ("level", nominal),
        },
        coords={"datum": np.arange(num_data), "quantity": quantities, "level": list(LEVELS)},
        attrs={
            "num_data": num_data,
            "num_draws": num_draws,
            "num_bins": bins,
            "seed": seed,
            "warning": _warning(crowded, len(quantities)),
        },
    )


def _ranks(pair: Pair, x: Tensor, truth: dict[str, Tensor], num_draws: int, seed: int) -> tuple[np.ndarray, list[str]]:
    """Ranks [N, Q] of the true values among the draws, and the names of the quantities."""
    posterior = pair.posterior(x, seed=seed)
    quantities: list[str] = []

    def quantify(values: dict[str, Tensor], index: Tensor) -> Tensor:
        densities = log_densities(pair.model, posterior.select(index), x[index], values=values)
        logs = torch.stack([densities.log_prior, densities.log_likelihood], -1)
        return torch.cat([coordinates(values), logs.double()], -1)

    def compare(cell: Cell) -> list[Tensor]:
        drawn = {name: cell.cut(value) for name, value in latents(posterior, x, cell.index).items()}
        quantities[:] = [*names(drawn), "log p(z)", "log p(x|z)"]
        known = {name: truth[name][cell.of(x)].unsqueeze(0).to(value.dtype) for name, value in drawn.items()}
        true, ranked = quantify(known, cell.of(x)), quantify(drawn, cell.of(x))
        if bool(true.isnan().any() or ranked.isnan().any()):
            raise PpvaeError("a latent, log p(z) or log p(x|z) is NaN at a draw of q, so that ranks are undefined")
        return [ranked < true, ranked == true]

    below, equal = (each.sum(0) for each in gather(pair, len(x), num_draws, compare, seed, _STREAM))

    def toss(cell: Cell) -> list[Tensor]:
        return [cell.cut(torch.rand(len(cell.positions), len(quantities), dtype=torch.float64, device=x.device))]

    ((chance,),) = gather(pair, len(x), 1, toss, seed, _STREAM, 1)
    return (below + (chance * (equal + 1)).long()).cpu().numpy(), quantities


def uniformity(counts: np.ndarray, expected: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """χ² [Q] of counts [Q, bins] against the expected counts [bins], and its p-value."""
    chi2 = ((counts - expected) ** 2 / expected).sum(-1)
    tail = torch.special.gammaincc(torch.tensor((len(expected) - 1) / 2).double(), torch.as_tensor(chi2 / 2))
    return chi2, tail.numpy()


def rank_counts(rank: np.ndarray, num_draws: int, bins: int) -> tuple[np.ndarray, np.ndarray]:
    """Counts [Q, bins] of ranks [N, Q] on 0 … L in bins of nearly equal width, and the expected counts [bins]."""
    which = np.arange(num_draws + 1) * bins // (num_draws + 1)
    expected = np.bincount(which, minlength=bins) * len(rank) / (num_draws + 1)
    counts = np.stack([np.bincount(which[column], minlength=bins) for column in rank.T])
    return counts, expected


def _coverage(rank: np.ndarray, num_draws: int) -> tuple[np.ndarray, np.ndarray]:
    """The probability [level] of central intervals between draws, and how often they hold the true value [Q, level]."""
    out = np.array([round((1 - level) / 2 * (num_draws + 1)) for level in LEVELS])
    inside = (rank[..., None] >= out) & (rank[..., None] <= num_draws - out)
    return 1 - 2 * out / (num_draws + 1), inside.mean(0)


def _warning(crowded: list[str], quantities: int) -> str:
    if not crowded:
        return ""
    listed = require.shorten(", ".join(crowded), 120)
    return f"ranks of {len(crowded)} of {quantities} quantities are not uniform: q is not calibrated in {listed}"
