"""Posterior draws in the form that ArviZ reads."""

from __future__ import annotations

from collections.abc import Sequence

import arviz_base
import numpy as np
import torch
import xarray as xr
from torch import Tensor

from ppvae import require
from ppvae.blocks import Cell
from ppvae.entry import entry
from ppvae.errors import PpvaeError
from ppvae.evidence.marginal import log_marginal
from ppvae.pair.densities import log_densities
from ppvae.pair.drawing import gather, guide_values, replicate
from ppvae.pair.pair import Pair, require_pair
from ppvae.pair.parts import parts_of
from ppvae.pair.posterior import Posterior
from ppvae.randomness import stream

_STREAM = stream("tasks/datatree")


@entry
def to_datatree(
    pair: Pair,
    x: Tensor,
    index: Tensor | None = None,
    *,
    num_draws: int = 100,
    evidence: xr.Dataset | None = None,
    seed: int = 0,
) -> xr.DataTree:
    """Draws of q(z | x) with predictive draws, data and log-densities, as an ArviZ `DataTree`.

    The draws are independent and form one chain, for which diagnostics of Markov chains have no meaning. They are draws
    of q without weights; `sample_stats.log_weight` is log p(x, z) − log q(z | x), with which they can be weighed. A
    latent that the model sums out by itself is drawn from its exact conditional. log_likelihood is log p(x | z) at each
    datum's own z. It is not a predictive density, so that leave-one-out estimates from it are not valid.

    Args:
        pair: a trained pair.
        x: data [N, *event].
        index: the positions of x in the training set, to use q as training left it; where None, φ is inferred again.
        num_draws: draws of q for each datum.
        evidence: the result of `log_marginal` for the same x; where None, it is computed with its defaults and `seed`.
        seed: of the draws, which depend on it and on the position of a datum in x; the caller's random state is
            restored.

    Returns:
        DataTree, with dims chain, draw, datum, and <name>_dim_0 … for the dimensions of a site: groups `posterior`
        (every latent), `posterior_predictive` and `observed_data` (every observed site), `log_likelihood` (nats),
        `sample_stats` (log_weight, and over datum every column of `evidence`). `tree.to_netcdf(path,
        engine="h5netcdf")` writes it, `xarray.open_datatree` reads it. A site is a variable of its name; where that is
        the name of a dimension it gets a final "_", "/" becomes ".", and "" becomes "_"; the attribute `site` has the
        name in the program.

    Raises:
        PpvaeError: as `reconstruct`, or num_draws is out of range, evidence is of other data, or the model has no
            latent.
    """
    require_pair(pair)
    require.count("num_draws", num_draws)
    require.count("seed", seed, least=0)
    x = pair.as_input(x)
    if evidence is not None and (not isinstance(evidence, xr.Dataset) or "log_marginal" not in evidence):
        raise PpvaeError(f"evidence must be the result of ppvae.log_marginal, got {type(evidence).__name__}")
    if evidence is not None and evidence.sizes["datum"] != len(x):
        raise PpvaeError(
            f"evidence is of {evidence.sizes['datum']} data and x of {len(x)}: give the evidence of the same data"
        )
    posterior = pair.posterior(x, index, seed=seed)
    latents, predicted, log_likelihood, log_weight = _draws(pair, posterior, x, num_draws, seed)
    if evidence is None:
        evidence = log_marginal(pair, x, index, seed=seed)
    parts = parts_of(pair.model, x)
    if len(parts.places) == 1 and not parts.unobserved:  # in the shape of x, whatever the site makes of it
        data, predictions = (dict.fromkeys(parts.places, value) for value in (x, predicted))
    else:
        data, predictions = parts.split(x, 1), parts.split(predicted, 2)
    variables = _variables([*latents, *data, *log_likelihood])
    dims = {"log_weight": ["datum"]}
    for name, event in [
        *((name, value.shape[2:]) for name, value in latents.items()),
        *((name, value.shape[1:]) for name, value in data.items()),
        *((name, ()) for name in log_likelihood if name not in data),
    ]:
        dims[variables[name]] = ["datum", *_event_dims(variables[name], event)]
    about = {
        "model": type(pair.model).__name__,
        **pair.about,
        "num_draws": num_draws,
        "seed": seed,
    }
    tree = arviz_base.from_dict(
        {
            "posterior": {variables[name]: _chain(value) for name, value in latents.items()},
            "posterior_predictive": {variables[name]: _chain(value) for name, value in predictions.items()},
            "observed_data": {variables[name]: value.cpu().numpy() for name, value in data.items()},
            "log_likelihood": {variables[name]: _chain(value) for name, value in log_likelihood.items()},
            "sample_stats": {"log_weight": _chain(log_weight)},
        },
        sample_dims=["chain", "draw"],
        dims=dims,
        attrs={"/": about},
    )
    for group in tree.children.values():
        group.attrs["inference_library"] = "ppvae"
    for name, variable in variables.items():
        for group in tree.children.values():
            if variable in group.data_vars:
                group[variable].attrs["site"] = name
    for name in log_likelihood:
        tree["log_likelihood"][variables[name]].attrs["units"] = "nats"
    tree["sample_stats"]["log_weight"].attrs["units"] = "nats"
    stats = tree["sample_stats"].to_dataset()
    tree["sample_stats"] = xr.DataTree(stats.merge(evidence).assign_attrs({**evidence.attrs, **stats.attrs}))
    return tree


def _draws(
    pair: Pair, posterior: Posterior, x: Tensor, num_draws: int, seed: int
) -> tuple[dict[str, Tensor], Tensor, dict[str, Tensor], Tensor]:
    """Latents and replicates [S, N, *event], log p(x | z) of each observed site, log p(x, z) − log q(z | x) [S, N]."""

    def of(cell: Cell) -> list[Tensor | dict[str, Tensor]]:
        index = cell.of(x)
        drawn = replicate(pair, posterior, x, cell.index)
        values = {name: cell.cut(value) for name, value in drawn.latents.items()}
        mine = posterior.select(index)
        known = {name: values[name] for name in guide_values(mine, x[index], torch.arange(1, device=x.device))}
        # a guide without latents has no values to be scored at
        densities = log_densities(pair.model, mine, x[index], cell.draws.stop - cell.draws.start, known or None)
        return [values, cell.cut(drawn.x), densities.likelihood_of_sites, densities.log_ratio]

    values, predicted, log_likelihood, log_weight = gather(pair, len(x), num_draws, of, seed, _STREAM)
    return values, predicted, log_likelihood, log_weight


def _variables(sites: Sequence[str]) -> dict[str, str]:
    """A name for the variable of each site, which is neither that of a dimension nor of another site's variable."""
    taken = {"chain", "draw", "datum", "log_weight"}
    out: dict[str, str] = {}
    for site in sorted(set(sites), key=lambda name: ("/" in name or not name, len(name))):
        name = site.replace("/", ".") or "_"
        while name in taken or any(other.startswith(f"{name}_dim_") for other in taken):
            name += "_"
        out[site] = name
        taken.add(name)
    return out


def _chain(value: Tensor) -> np.ndarray:
    """[S, N, *event] as the only chain, [1, S, N, *event]."""
    return value.unsqueeze(0).cpu().numpy()


def _event_dims(name: str, event: Sequence[int]) -> list[str]:
    return [f"{name}_dim_{i}" for i in range(len(event))]
