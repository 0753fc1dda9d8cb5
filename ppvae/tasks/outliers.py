"""A table of every datum's log p(x), an outlier score."""

from __future__ import annotations

from pathlib import Path

import xarray as xr

from ppvae.data.splits import Observations
from ppvae.pair.pair import Pair
from ppvae.runs.files import replacing
from ppvae.tasks.clustering import cluster, has_components


def write_scores(path: Path, estimates: xr.Dataset, pair: Pair, data: Observations) -> None:
    """Write the estimates of every datum as a .csv table; a low log_marginal marks an outlier.

    Columns: row (from 0; in the file, if it was split here), those of the estimates, and for a mixture cluster and
    its probability p(k | x).
    """
    table = estimates[[name for name, column in estimates.items() if column.dims == ("datum",)]].to_dataframe()
    table.insert(0, "row", data.rows[: len(table)].numpy())
    if has_components(pair.model):
        clusters = cluster(pair, data.x[: len(table)])
        table["cluster"] = clusters["component_of"].values
        table["cluster_probability"] = clusters["responsibility"].max("component").values
    with replacing(path) as scratch:
        table.to_csv(scratch, index=False)
