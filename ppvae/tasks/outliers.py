"""A table of every datum's log p(x), an outlier score."""

from __future__ import annotations

from pathlib import Path

import xarray as xr

from ppvae.data.dataset import Data
from ppvae.data.splits import ALL, observations, positions
from ppvae.pair.pair import Pair
from ppvae.runs.files import replacing
from ppvae.tasks.clustering import cluster, has_components


def write_scores(path: Path, estimates: xr.Dataset, pair: Pair, data: Data, split: str) -> None:
    """The estimates of every datum as a table of text; log_marginal is an outlier score, the lower the stranger.

    Columns: row (counted from 0, in the file where that was split here), those of the estimates, and for a mixture
    cluster and its probability p(k | x).
    """
    table = estimates[[name for name, column in estimates.items() if column.dims == ("datum",)]].to_dataframe()
    row = positions(data, split)
    table.insert(0, "row", (row.sort().values if split == ALL else row)[: len(table)].numpy())
    if has_components(pair.model):
        found = cluster(pair, observations(data, split, len(table)))
        table["cluster"] = found["component_of"].values
        table["cluster_probability"] = found["responsibility"].max("component").values
    with replacing(path) as scratch:
        table.to_csv(scratch, index=False)
