"""evidence.nc: the estimates of every datum."""

from __future__ import annotations

from pathlib import Path

import xarray as xr

from ppvae import require
from ppvae.errors import PpvaeError
from ppvae.runs.files import write_with
from ppvae.runs.folder import EVIDENCE, RESULTS
from ppvae.runs.results import Row, write_results


def read_evidence(path: Path) -> xr.Dataset:
    """The estimates that `write_evidence` wrote.

    Raises:
        PpvaeError: the file is damaged.
    """
    try:
        return xr.load_dataset(path, engine="h5netcdf")
    except Exception as error:  # the libraries raise many kinds of errors for a damaged file
        raise PpvaeError(f"{path} is damaged: {require.show(error)}") from error


def write_evidence(path: Path, estimates: xr.Dataset) -> None:
    """Write the estimates of every datum as netCDF."""
    write_with(path, lambda scratch: estimates.to_netcdf(scratch, engine="h5netcdf"))


def keep_evidence(run: Path, row: Row, estimates: xr.Dataset, overwrite: bool) -> str:
    """Keep an evaluation in its run, unless one exists and `overwrite` is False; returns a message."""
    if (run / RESULTS).exists() and not overwrite:
        return f"{run / RESULTS} exists and was not replaced: --overwrite replaces it, --out writes elsewhere"
    write_evidence(run / EVIDENCE, estimates)
    write_results(run / RESULTS, [row], 0.0)
    return f"{run / RESULTS}  {run / EVIDENCE}; next: ppvae report {run}"
