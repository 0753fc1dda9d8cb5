"""Pictures of latent usage."""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from ppvae.errors import PpvaeError
from ppvae.plots.colours import TONE, require_columns


def usage(result: xr.Dataset, ax: Axes) -> Axes:
    """KL of every coordinate of z, largest first: filled where it is active, open where it has collapsed.

    Where coordinates have no KL of their own, as under a flow, their activity is shown.

    Args:
        result: what `latent_usage` returns.

    Raises:
        PpvaeError: another result, or one without KL and activity.
    """
    require_columns(result, "coordinate_kl", "latent_usage")
    name = "coordinate_kl" if bool(result["coordinate_kl"].notnull().any()) else "activity"
    known = result.isel(coordinate=result[name].notnull().values)
    if not known.sizes["coordinate"]:
        raise PpvaeError("no coordinate has a KL or an activity of its own, so that nothing can be drawn")
    known = known.isel(coordinate=np.argsort(-known[name].values))
    place = np.arange(known.sizes["coordinate"])
    active = known["active"].values | known["activity"].isnull().values  # a discrete latent has no activity
    for mask, label in ((active, "active"), (~active, "not active")):
        if mask.any():
            face = TONE if label == "active" else "white"
            ax.bar(place[mask], known[name].values[mask], color=face, edgecolor=TONE, label=label)
    if len(place) <= 30:
        ax.set_xticks(place, [str(label) for label in known["coordinate"].values], rotation=90)
    ax.set_xlabel("coordinate of z")
    ax.set_ylabel("KL(q ‖ p) (nats/datum)" if name == "coordinate_kl" else "Cov(E_q[z | x])")
    ax.set_title(
        f"I(x; z) = {float(result['mutual_information']):.2f} of {float(result['kl'].mean()):.2f} nats/datum of KL"
    )
    ax.legend()
    return ax
