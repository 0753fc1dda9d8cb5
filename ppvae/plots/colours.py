"""The colours of all pictures."""

from __future__ import annotations

import zlib

import xarray as xr

from ppvae import require
from ppvae.errors import PpvaeError

#: from Okabe & Ito (2008), distinct also for the colour-blind; without their yellow, too pale for a line on white
_COLOURS = {"amortized": "#0072B2", "exact": "#E69F00", "per-datapoint": "#009E73", "semi-amortized": "#CC79A7"}
MORE_COLOURS = ("#D55E00", "#56B4E9", "#000000")
PALETTE = (*_COLOURS.values(), *MORE_COLOURS)


def colour(inference: str) -> str:
    """The colour of a strategy, which does not depend on what else is registered; those not in the zoo share three."""
    return _COLOURS.get(inference) or MORE_COLOURS[zlib.crc32(inference.encode()) % len(MORE_COLOURS)]


TONE, OTHER, SEEN = "#0072B2", "#D55E00", "black"
#: how often a band excludes a calibrated q, over all quantities that it is drawn for
ALARM = 0.01


def require_columns(result: object, variable: str, function: str) -> None:
    if not isinstance(result, xr.Dataset) or variable not in result:
        raise PpvaeError(f"result must be what ppvae.{function} returns, got {require.show(type(result).__name__)}")
