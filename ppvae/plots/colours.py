"""The colours of all pictures."""

from __future__ import annotations

import zlib

import xarray as xr

from ppvae import require
from ppvae.errors import PpvaeError

#: from Okabe & Ito (2008), told apart by the colour-blind too; without their yellow, too pale for a line on white
_COLOURS = {"amortized": "#0072B2", "exact": "#E69F00", "per-datapoint": "#009E73", "semi-amortized": "#CC79A7"}
MORE_COLOURS = ("#D55E00", "#56B4E9", "#000000")
PALETTE = (*_COLOURS.values(), *MORE_COLOURS)


def colour(inference: str) -> str:
    """The colour of a strategy, whatever else is registered; those not of the zoo share three by their name."""
    return _COLOURS.get(inference) or MORE_COLOURS[zlib.crc32(inference.encode()) % len(MORE_COLOURS)]


TONE, OTHER, SEEN = "#0072B2", "#D55E00", "black"
#: how often a band leaves out what is calibrated, over all that it is drawn for
ALARM = 0.01


def require_columns(found: object, variable: str, function: str) -> None:
    if not isinstance(found, xr.Dataset) or variable not in found:
        raise PpvaeError(f"found must be what ppvae.{function} returns, got {require.show(type(found).__name__)}")
